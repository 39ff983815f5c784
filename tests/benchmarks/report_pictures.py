"""Make the pictures of the report in the documentation, from the report of the demo.

    python tests/benchmarks/report_pictures.py results/demo/report/report.html docs/images


It needs Chromium. Use the report of the demo only: pictures in the repository show synthetic scans.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops

MARGIN = 12
COLOURS = 256


@dataclass(frozen=True)
class Picture:
    """A part of the page."""

    name: str
    shown: str
    """CSS selector of what is shown; every other part of the page is hidden."""
    hidden: str = ""
    """CSS selector of what is hidden in it."""
    width: int = 1280
    """Pixels of the window."""
    height: int = 2600
    """Maximum height (pixels); what is below is cut."""


PICTURES = (
    Picture("report_top", "header"),
    Picture("report_rounds", "#rounds"),
    Picture("report_lesions", "#lesions", height=900),
    Picture("report_pseudo_labels", "#pseudo-labels", hidden=".chart", height=900),
    Picture(
        "report_gallery", "#gallery", hidden=".gallery:nth-of-type(n+2), .gallery li:nth-child(n+4)"
    ),
    Picture("report_overrides", "#overrides"),
    Picture("report_act", "#act"),
    Picture("report_tests", "#tests", height=800),
    Picture("report_calibration", "#calibration", height=1000),
    Picture("report_csc", "#training", hidden=".chart:not(#figure-csc)"),
)


def main() -> int:
    """Write all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="results/demo/report/report.html")
    parser.add_argument("folder", type=Path, help="docs/images")
    args = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("Chromium is not installed.", file=sys.stderr)
        return 1
    page = args.report.read_text(encoding="utf-8")
    for picture in PICTURES:
        target = args.folder / f"{picture.name}.png"
        draw(browser, page, picture, target)
        print(f"{target}: {target.stat().st_size / 1000:.0f} kB")
    return 0


def draw(browser: str, page: str, picture: Picture, target: Path) -> None:
    """Write one picture."""
    style = f"header, nav, footer, section {{ display: none }} {picture.shown} {{ display: block }}"
    if picture.hidden:
        style += f" {picture.hidden} {{ display: none !important }}"
    with tempfile.TemporaryDirectory() as folder:
        part, shot = Path(folder) / "part.html", Path(folder) / "shot.png"
        part.write_text(page.replace("</head>", f"<style>{style}</style></head>"), encoding="utf-8")
        subprocess.run(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--hide-scrollbars",
                f"--window-size={picture.width},{picture.height}",
                "--virtual-time-budget=2000",
                f"--screenshot={shot}",
                part.as_uri(),
            ],
            check=True,
            capture_output=True,
        )
        image = trimmed(Image.open(shot).convert("RGB"))
    image.quantize(COLOURS).save(target, optimize=True)


def trimmed(image: Image.Image) -> Image.Image:
    """Return ``image`` without its empty borders."""
    blank = Image.new("RGB", image.size, "white")
    box = ImageChops.difference(image, blank).getbbox() or (0, 0, *image.size)
    left, top = max(0, box[0] - MARGIN), max(0, box[1] - MARGIN)
    right, bottom = min(image.width, box[2] + MARGIN), min(image.height, box[3] + MARGIN)
    return image.crop((left, top, right, bottom))


if __name__ == "__main__":
    sys.exit(main())
