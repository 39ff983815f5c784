"""Make the pictures of the documentation that show the report of the demo.

    python tests/benchmarks/report_pictures.py results/demo/report/report.html docs/images

The script needs Chromium. Use only the report of the demo, because pictures in the repository must
show synthetic scans.
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
    """CSS selector of the part that is shown; the rest of the page is hidden."""
    hidden: str = ""
    """CSS selector of elements inside that part which are hidden."""
    width: int = 1280
    """Width of the window (pixels)."""
    height: int = 2600
    """Maximum height (pixels); the rest is cut off."""


PICTURES = (
    Picture("report_top", "header"),
    Picture("report_rounds", "#rounds"),
    Picture("report_lesions", "#lesions", height=900),
    Picture("report_pseudo_labels", "#pseudo-labels", hidden=".chart", height=900),
    Picture("report_gallery", "#gallery", hidden=".gallery li:nth-child(n+5), .gallery .more"),
    Picture("report_overrides", "#overrides"),
    Picture("report_act", "#act"),
    Picture("report_tests", "#tests", height=800),
    Picture("report_calibration", "#calibration", height=1000),
    Picture("report_csc", "#training", hidden=".chart:not(#figure-csc)"),
)


def main() -> int:
    """Write all pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    style = f"<style>{styles(picture)}</style>"
    with tempfile.TemporaryDirectory() as name:
        part = Path(name) / "part.html"
        shot = Path(name) / "shot.png"
        part.write_text(page.replace("</head>", f"{style}</head>"), encoding="utf-8")
        take_screenshot(browser, part, shot, picture)
        with Image.open(shot) as image:
            trimmed(image.convert("RGB")).quantize(COLOURS).save(target, optimize=True)


def styles(picture: Picture) -> str:
    """Return CSS that shows only one part of the page."""
    style = f"header, nav, footer, section {{ display: none }} {picture.shown} {{ display: block }}"
    if picture.hidden:
        style += f" {picture.hidden} {{ display: none !important }}"
    return style


def take_screenshot(browser: str, page: Path, target: Path, picture: Picture) -> None:
    """Write a PNG file of an HTML file."""
    command = [browser, "--headless", "--no-sandbox", "--hide-scrollbars"]
    command.append(f"--window-size={picture.width},{picture.height}")
    command += ["--virtual-time-budget=2000", f"--screenshot={target}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True)


def trimmed(image: Image.Image) -> Image.Image:
    """Return an image without its empty borders."""
    blank = Image.new("RGB", image.size, "white")
    box = ImageChops.difference(image, blank).getbbox() or (0, 0, *image.size)
    left = max(0, box[0] - MARGIN)
    top = max(0, box[1] - MARGIN)
    right = min(image.width, box[2] + MARGIN)
    bottom = min(image.height, box[3] + MARGIN)
    return image.crop((left, top, right, bottom))


if __name__ == "__main__":
    sys.exit(main())
