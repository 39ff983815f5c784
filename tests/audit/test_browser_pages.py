"""The pages of the next run, of what to label next and of predicted Dice, in a real browser."""

import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.browser import Server, chromium, open_desk
from support.desk_phantom import case_name, layout_of, write_desk, write_suggestions

from hstf.audit.rerun import RUN_LOG
from hstf.experiment.jobs import Jobs
from hstf.experiment.last_run import RUN_FILE, LastRun, RunJob, log_of
from hstf.experiment.round_tables import REFINE
from hstf.runtime.files import write_text

if TYPE_CHECKING:
    from playwright.sync_api import Page

ARGUMENTS = ("--version",)
"""A run that starts Snakemake and computes nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment with a corrected case, and a training on another machine."""
    path = tmp_path_factory.mktemp("pages")
    config = write_desk(path, cases=3, size=(40, 36, 24))
    layout = layout_of(path, config)
    case = REFINE.records(layout.refine(1))[0]["case_id"]
    corrected = path / str(config.overrides) / "round_1" / f"{case}.nii.gz"
    corrected.parent.mkdir(parents=True)
    shutil.copy(layout.pseudo_label(1, case), corrected)
    sheet = config.model_copy(update={"cases": str(path / config.cases)})
    jobs = tuple(RunJob(name=job.name, seconds=60) for job in Jobs(sheet).all())
    LastRun(
        experiment=config.experiment,
        machine=platform.node(),
        process=2**22 - 1,
        folder=str(path),
        started="2026-01-31 12:00:00",
        is_cluster=False,
        arguments=ARGUMENTS,
        jobs=jobs,
    ).save(layout.root / RUN_FILE)
    training = next(job.name for job in Jobs(sheet).all() if job.stage == "student")
    lines = [f"round 1 seed_0: {step}/200, 2/s, 9 s left loss 0.{90 - step}" for step in (10, 50)]
    holder = "process 4711 on node3 since 2026-01-31 12:00:00"
    write_text(layout.root / "records" / f"{training}.lock", holder)
    write_text(layout.root / log_of(training), "\n".join(lines) + "\n")
    write_suggestions(layout, cases=3, slices=24)
    return path


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    started = Server(folder)
    started.start()
    yield started
    started.kill()


@pytest.fixture(scope="module")
def page(server: Server) -> Iterator["Page"]:
    errors: list[str] = []
    with chromium() as browser:
        opened = browser.new_page(viewport={"width": 1280, "height": 800})
        opened.set_default_timeout(60_000)
        opened.on("pageerror", lambda error: errors.append(str(error)))
        open_desk(opened, server.url, "AB")
        yield opened
    assert errors == []


def test_feedback_page_has_a_plot_and_a_row_for_each_case(page: "Page") -> None:
    page.click("#page-feedback")
    page.wait_for_selector("#corrected tbody tr")
    assert page.inner_text("#feedback-text").startswith("Of 1 corrected case: predicted Dice")
    assert page.locator("#page svg circle").count() == 1
    # The corrected label is the pseudo-label.
    assert page.locator("#corrected tbody td").last.inner_text() == "1.00"


def test_rerun_page_shows_jobs_command_and_losses_and_starts_the_run(
    page: "Page", folder: Path
) -> None:
    page.click("#page-rerun")
    page.wait_for_selector("#rerun-jobs li")
    assert "about" in page.inner_text("#rerun-text")
    assert "Write the report" in page.inner_text("#rerun-jobs")
    assert page.inner_text("#rerun-command") == "snakemake --version"
    points = page.locator("#live svg polyline").get_attribute("points")
    assert points is not None and len(points.split()) == 2
    page.click("#rerun-start")
    page.wait_for_selector("#rerun-log")
    page.wait_for_selector("#rerun-start:enabled")
    (log,) = folder.glob(f"results/*/{RUN_LOG}")
    assert log.read_text().strip() == page.inner_text("#rerun-log").strip() != ""


def test_suggest_page_opens_a_slice_and_remembers_what_is_set_aside(
    page: "Page", server: Server, folder: Path
) -> None:
    page.click("#page-suggest")
    page.wait_for_selector("#suggest-slice-rows")
    assert page.inner_text("#suggest-text").startswith("Computed on 20")
    assert page.locator("#suggest-scan-rows tbody tr").count() == 3
    assert page.locator("#suggest-scan-rows tbody tr .state").all_inner_texts() == ["random"]
    page.click(f"#suggest-slice-rows a:has-text('{case_name(2)}')")
    page.wait_for_selector(f"#case-name:text-is('{case_name(2)}')")
    page.wait_for_selector("#cursor:text-matches(', 12 · intensity')")
    page.click("#page-suggest")
    page.click(f"[aria-label='Skip: {case_name(0)}'] >> nth=0")
    page.wait_for_selector(f"#suggest-aside:has-text('{case_name(0)}')")
    page.focus(f"[aria-label='Later: {case_name(1)}'] >> nth=0")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"#suggest-aside:has-text('{case_name(1)}')")
    server.kill()
    server.start()
    open_desk(page, server.url, "AB")
    page.click("#page-suggest")
    page.wait_for_selector("#suggest-scan-rows")
    assert case_name(2) in page.inner_text("#suggest-scan-rows tbody")
    assert page.locator("#suggest-scan-rows tbody tr").count() == 1
    stored = (folder / "results" / "abdomen" / "suggest" / "set_aside.csv").read_text()
    assert f"{case_name(0)},skip,1" in stored and f"{case_name(1)},later,1" in stored
    page.click("#suggest-aside button >> nth=0")
    page.wait_for_function(
        "() => document.querySelectorAll('#suggest-scan-rows tbody tr').length === 2"
    )


def test_suggest_page_computes_again_and_shows_what_failed(page: "Page") -> None:
    page.fill("#suggest-scans", "2")
    page.click("#suggest-start")
    page.wait_for_selector("#suggest-live [role=alert]")
    # This experiment has no predictions of a teacher and no networks.
    assert "hstf suggest:" in page.inner_text("#suggest-log")
    assert page.input_value("#suggest-scans") == "2"
    assert page.is_enabled("#suggest-start")
