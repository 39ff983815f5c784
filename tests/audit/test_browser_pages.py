"""The pages of the next run and of predicted Dice, in a real browser."""

import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.browser import Server, chromium, open_desk
from support.desk_phantom import layout_of, write_desk

from hstf.audit.rerun import RUN_LOG
from hstf.experiment.jobs import Jobs
from hstf.experiment.last_run import RUN_FILE, LastRun, RunJob, log_of
from hstf.experiment.tables import REFINE
from hstf.runtime.files import write_text

if TYPE_CHECKING:
    from playwright.sync_api import Page

ARGUMENTS = ("--version",)
"""A run that starts Snakemake and computes nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment with a corrected case, and a training that was interrupted."""
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
    write_text(layout.root / log_of(training), "\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def page(folder: Path) -> Iterator["Page"]:
    server = Server(folder)
    server.start()
    errors: list[str] = []
    with chromium() as browser:
        opened = browser.new_page(viewport={"width": 1280, "height": 800})
        opened.set_default_timeout(60_000)
        opened.on("pageerror", lambda error: errors.append(str(error)))
        open_desk(opened, server.url, "AB")
        yield opened
    server.kill()
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
