"""Make the pictures of the documentation that show the audit desk.

    python tests/benchmarks/audit_pictures.py docs/images

The pictures show pseudo-labels of synthetic scans. The script needs Chromium, Playwright and npm.
"""

import argparse
import io
import math
import platform
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.browser import Server, chromium, open_desk, wait_until  # noqa: E402
from support.desk_phantom import layout_of, write_desk, write_suggestions  # noqa: E402

from hstf.audit import vendor  # noqa: E402
from hstf.config.experiment import Config  # noqa: E402
from hstf.experiment.jobs import Jobs  # noqa: E402
from hstf.experiment.last_run import RUN_FILE, LastRun, RunJob, log_of  # noqa: E402
from hstf.runtime.files import write_text  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SIZE = {"width": 1360, "height": 820}
COLOURS = 256
OUTLINE = ((-46, -8), (-30, -34), (4, -40), (30, -22), (34, 4), (10, 22), (-28, 18), (-46, -8))
"""A stroke around the middle of the axial plane (pixels)."""


class Pictures:
    """Takes pictures of pages and writes them to a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def take(self, page: "Page", name: str) -> None:
        """Write what a page shows."""
        page.wait_for_timeout(1000)
        target = self.folder / f"{name}.png"
        with Image.open(io.BytesIO(page.screenshot())) as image:
            image.convert("RGB").quantize(COLOURS, kmeans=2).save(target, optimize=True)
        print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


def main() -> int:
    """Write all pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="docs/images")
    pictures = Pictures(parser.parse_args().folder)
    if not vendor.is_installed():
        vendor.install()
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        config = write_desk(Path(name), cases=6, size=(88, 80, 52), rounds=2)
        write_suggestions(layout_of(Path(name), config), cases=6, slices=52)
        note_run(Path(name), config)
        server = Server(Path(name))
        server.start()
        draw_cases(browser, server, pictures)
        draw_agreement(browser, server, pictures)
        draw_pages(browser, server, pictures)
        server.kill()
    return 0


def reviewed(browser: "Browser", server: Server, reviewer: str) -> "Page":
    """Return a page of a reviewer with the three-dimensional view drawn."""
    page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
    page.set_default_timeout(60_000)
    open_desk(page, server.url, reviewer)
    return page


def draw_cases(browser: "Browser", server: Server, pictures: Pictures) -> None:
    """Draw the page of the cases while a reviewer works."""
    page = reviewed(browser, server, "A. Reviewer")
    wait_until(lambda: page.evaluate("window.niivue !== undefined"), 60)
    page.wait_for_timeout(4000)
    page.keyboard.press("j")
    pictures.take(page, "audit_desk")
    page.keyboard.down("w")
    page.wait_for_selector("#layer.held")
    pictures.take(page, "audit_weights")
    page.keyboard.up("w")
    page.keyboard.press("r")
    page.wait_for_selector("dialog")
    pictures.take(page, "audit_reject")
    page.keyboard.press("Escape")
    page.keyboard.press("e")
    page.keyboard.press("2")
    page.keyboard.press("f")
    page.keyboard.press("o")
    draw_outline(page)
    page.wait_for_timeout(3000)
    pictures.take(page, "audit_correct")
    save(page)
    for _ in range(3):
        page.keyboard.press("e")
        draw_outline(page)
        save(page)
    decide(page, "a")
    page.goto(f"http://127.0.0.1:{server.port}/#feedback")
    page.wait_for_selector("#page h1")
    pictures.take(page, "audit_feedback")
    page.close()


def note_run(folder: Path, config: Config) -> None:
    """Write that a run was interrupted in the training of the last student."""
    layout = layout_of(folder, config)
    jobs = Jobs(config.model_copy(update={"cases": str(folder / config.cases)})).all()
    LastRun(
        experiment=config.experiment,
        machine=platform.node(),
        process=2**22 - 1,
        folder=str(folder),
        started="2026-01-31 12:00:00",
        is_cluster=False,
        arguments=("--cores", "8", "--configfile", "config/abdomen.yaml"),
        jobs=tuple(RunJob(name=job.name, seconds=90) for job in jobs),
    ).save(layout.root / RUN_FILE)
    training = [job.name for job in jobs if job.stage == "student"][-1]
    lines = []
    for step in range(10, 1210, 10):
        loss = 0.2 + 0.7 * math.exp(-step / 300) + 0.02 * math.sin(step)
        lines.append(f"round 2 seed_0: {step}/2000, 12/s, 67 s left loss {loss:.3f}")
    write_text(layout.root / log_of(training), "\n".join(lines) + "\n")


def draw_pages(browser: "Browser", server: Server, pictures: Pictures) -> None:
    """Draw the pages of the next run and of what to label next."""
    page = reviewed(browser, server, "A. Reviewer")
    page.click("#page-rerun")
    page.wait_for_selector("#rerun-jobs li")
    page.wait_for_selector("#live svg")
    hide_folder(page, server)
    pictures.take(page, "audit_rerun")
    page.click("#page-suggest")
    page.wait_for_selector("#suggest-slice-rows")
    page.click("[aria-label='Later: case_003'] >> nth=0")
    page.wait_for_selector("#suggest-aside")
    pictures.take(page, "audit_suggest")
    page.close()


def hide_folder(page: "Page", server: Server) -> None:
    """Show a short path in place of the temporary folder."""
    page.evaluate(
        "folder => document.querySelectorAll('#page p')"
        ".forEach(p => { if (p.textContent.includes(folder))"
        " p.textContent = p.textContent.replace(folder, '/data/abdomen'); })",
        str(server.folder),
    )


def draw_outline(page: "Page") -> None:
    """Draw an outline in the axial plane."""
    box = page.locator("#plane-axial").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x + OUTLINE[0][0], y + OUTLINE[0][1])
    page.mouse.down()
    for across, down in OUTLINE[1:]:
        page.mouse.move(x + across, y + down, steps=8)
    page.mouse.up()


def save(page: "Page") -> None:
    """Save a correction; an unusual one is confirmed."""
    name = page.inner_text("#case-name")
    page.keyboard.press("Enter")
    wait_until(
        lambda: page.inner_text("#case-name") != name or page.locator("dialog").count() > 0, 60
    )
    if page.locator("dialog").count():
        page.click("dialog button.primary")
    wait_for_next(page, name)


def decide(page: "Page", key: str) -> None:
    """Press the key of a decision and wait for the next case."""
    name = page.inner_text("#case-name")
    page.keyboard.press(key)
    wait_for_next(page, name)


def wait_for_next(page: "Page", name: str) -> None:
    """Wait until another case than ``name`` is open."""
    wait_until(lambda: page.inner_text("#case-name") != name, 60)
    page.wait_for_selector("#stage:not([aria-busy])")


def draw_agreement(browser: "Browser", server: Server, pictures: Pictures) -> None:
    """Draw the page of the agreement, after a second reviewer has decided."""
    context = browser.new_context(viewport=SIZE)  # type: ignore[arg-type]
    context.add_init_script("localStorage.setItem('hstf-audit-3d', 'off')")
    page = context.new_page()
    page.set_default_timeout(60_000)
    open_desk(page, server.url, "B. Reviewer")
    for name, keys in (("case_000", "a"), ("case_001", "a"), ("case_002", "r1"), ("case_003", "a")):
        page.click(f".case:has-text('{name}')")
        page.wait_for_selector(f"#case-name:text-is('{name}')")
        page.wait_for_selector("#stage:not([aria-busy])")
        for key in keys:
            page.keyboard.press(key)
        page.wait_for_timeout(1500)
    page.click("#page-agreement")
    page.wait_for_selector("#pairs")
    pictures.take(page, "audit_agreement")
    context.close()


if __name__ == "__main__":
    sys.exit(main())
