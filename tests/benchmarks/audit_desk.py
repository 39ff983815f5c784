"""Measure the audit desk: how long a case takes to open, and how much memory the server needs.

    python tests/benchmarks/audit_desk.py

A CT of 512 x 512 x 300 and an MR image of 192 x 142 x 88 voxels are opened after they were fetched
ahead, and a correction of the CT is saved. The script needs Chromium and Playwright. The graphics
card is not used.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.browser import Server, chromium, open_desk, wait_until  # noqa: E402
from support.desk_phantom import (  # noqa: E402
    case_name,
    layout_of,
    write_configuration,
    write_pseudo_label,
    write_refined,
    write_sheet,
)

from hstf.datasets.phantom.scan import Phantom  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Page

SIZES = {"start": (32, 32, 32), "CT": (512, 512, 300), "MR": (192, 142, 88)}
SPACING = (0.8, 0.8, 1.5)
FETCHED = """() => performance.getEntriesByType('resource')
    .filter(entry => entry.name.includes('/layers/') && entry.responseEnd > 0).length"""


def main() -> int:
    """Print the times and the memory."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        folder = Path(name)
        write_volumes(folder)
        server = Server(folder)
        server.start()
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(120_000)
        page.add_init_script("localStorage.setItem('hstf-audit-3d', 'off')")
        open_desk(page, server.url, "benchmark")
        # Image, label and weights of the first case; image and label of the two others.
        wait_until(lambda: page.evaluate(FETCHED) >= 7, 300)
        time.sleep(5)
        for number, kind in enumerate(list(SIZES)[1:], start=1):
            print(f"{kind} {SIZES[kind]}: opened in {opened(page, number):.2f} s", flush=True)
        print_memory(server, "all cases opened")
        print(f"CT: correction saved in {corrected(page, 1):.1f} s", flush=True)
        print_memory(server, "a correction of the CT saved")
        server.kill()
    return 0


def write_volumes(folder: Path) -> None:
    """Write one pseudo-label of each size."""
    config = write_configuration(folder, 1, ["image"])
    layout = layout_of(folder, config)
    scans = [ball(size) for size in SIZES.values()]
    write_sheet(folder, scans, ["image"], ["one"])
    rows = []
    for number, scan in enumerate(scans):
        weights = np.full_like(scan.label, 255)
        weights[scan.label == 1] = 200
        pseudo = Phantom(weights, scan.label, scan.affine)
        rows.append(write_pseudo_label(layout, 1, case_name(number), pseudo, 0.5 + number / 10))
    write_refined(config, layout, 1, rows)


def ball(size: tuple[int, int, int]) -> Phantom:
    """Return an image of two balls, one in the other, with noise."""
    axes = [np.linspace(-1, 1, count, dtype=np.float32) for count in size]
    radius = sum(np.square(axis) for axis in np.meshgrid(*axes, indexing="ij", sparse=True))
    label = (radius < 0.5).astype(np.uint8) + (radius < 0.1)
    noise = np.random.default_rng(0).integers(-20, 20, size, dtype=np.int16)
    image = np.where(radius < 0.8, 40 + 30 * label, -1000).astype(np.int16) + noise
    return Phantom(image[None], label, np.diag([*SPACING, 1.0]))


def opened(page: "Page", number: int) -> float:
    """Go to the next case and return the seconds until it is drawn."""
    start = time.monotonic()
    page.keyboard.press("n")
    page.wait_for_selector(f"#case-name:text-is('{case_name(number)}')")
    page.wait_for_selector("#stage:not([aria-busy])")
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    return time.monotonic() - start


def corrected(page: "Page", number: int) -> float:
    """Draw a stroke in a case and return the seconds until its correction is saved."""
    page.click(f".case:has-text('{case_name(number)}')")
    page.wait_for_selector(f"#case-name:text-is('{case_name(number)}')")
    page.wait_for_selector("#stage:not([aria-busy])")
    page.keyboard.press("e")
    box = page.locator("#plane-axial").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 30, y)
    page.mouse.down()
    page.mouse.move(x + 30, y + 20, steps=4)
    page.mouse.up()
    start = time.monotonic()
    page.keyboard.press("Enter")
    page.wait_for_selector(".message:has-text('correction saved')")
    return time.monotonic() - start


def print_memory(server: Server, when: str) -> None:
    """Print the peak memory so far."""
    own, worker = memory_mb(server)
    print(f"peak memory, {when}: server {own:.0f} MB, its worker {worker:.0f} MB", flush=True)


def memory_mb(server: Server) -> tuple[float, float]:
    """Return the peak memory of the server, and of the process that computes for it."""
    assert server.process is not None
    pid = server.process.pid
    workers = [0.0]
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if f"PPid:\t{pid}\n" in status.read_text(errors="replace"):
                workers.append(peak_kb(int(status.parent.name)) / 1000)
        except OSError:
            continue
    return peak_kb(pid) / 1000, max(workers)


def peak_kb(pid: int) -> int:
    """Return the peak resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
