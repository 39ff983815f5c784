"""Section with pictures of the pseudo-labels."""

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from hstf.imaging.overlays import COLOURS, overlay_path
from hstf.stages.report.page import Gallery, Picture, Section, counted, number_text
from hstf.stages.report.pseudo_labels import with_texts
from hstf.stages.report.results import Results

GALLERY_BYTES = 10 * 2**20
"""Size of all pictures together, so that the page stays below 15 MB. The last round comes first."""
JPEG_QUALITY = 82


def gallery_section(results: Results) -> Section:
    """Return pictures of the least certain pseudo-labels, the last round first."""
    blocks = []
    budget = GALLERY_BYTES
    for number in sorted(results.pseudo_labels, reverse=True):
        gallery = _gallery(results, number, budget)
        budget -= sum(len(picture.source) for picture in gallery.pictures)
        if gallery.pictures:
            blocks.append(gallery)
    intro = (
        "Upper row: the slices with most foreground, with the outline of each class. They are seen"
        " from the left, from the front and from the feet; the patient's right is on the left."
        " Lower row: the same slices, red where the voxel weight is low. Click on a picture to"
        " enlarge it."
    )
    missing = "There are no pictures. Their number is set by refine.overlays and report.gallery."
    return Section("gallery", "Pictures", intro, blocks, missing)


def _gallery(
    results: Results,
    number: int,
    budget: int,
) -> Gallery:
    """Return the pictures of a round.

    Args:
        results: the experiment.
        number: the round.
        budget: bytes that are left; the picture that uses them up is the last one.
    """
    section = results.config.report
    folder = results.layout.pseudo_labels(number)
    cases: Any = with_texts(results.pseudo_labels[number]).to_dict("records")
    pictures: list[Picture] = []
    for case in cases:
        if len(pictures) >= section.gallery or budget <= 0:
            break
        path = overlay_path(folder, case["case_id"])
        source = picture_address(path, section.gallery_pixels)
        if source:
            budget -= len(source)
            pictures.append(_picture(case, source))
    note = (
        f"{len(pictures)} of {counted(len(cases), 'pseudo-label')}, least certain first. Pictures"
        f" in full size: {overlay_path(folder, '<case>')}."
    )
    return Gallery(f"Round {number}", pictures, note, _legend(results))


def picture_address(path: Path, pixels: int) -> str | None:
    """Return a picture as a ``data:`` address; None if it is missing or cannot be read.

    Args:
        path: the picture.
        pixels: maximum length of its longer side.
    """
    if not path.is_file():
        return None
    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
    small.thumbnail((pixels, pixels))
    buffer = io.BytesIO()
    # Without subsampling of colours, thin outlines stay sharp.
    small.save(
        buffer,
        "JPEG",
        quality=JPEG_QUALITY,
        subsampling=0,
        optimize=True,
    )
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/jpeg;base64,{encoded}"


def _picture(case: dict[str, Any], source: str) -> Picture:
    facts = [f"predicted Dice {number_text(case['predicted_dice'])}", case["use"], case["why"]]
    text = "; ".join(fact for fact in facts if isinstance(fact, str) and fact)
    return Picture(case["case_id"], source, case["tone"], text)


def _legend(results: Results) -> list[tuple[str, str]]:
    """Return name and colour of each class."""
    colours = COLOURS[1:].astype(int).tolist()
    legend = []
    for index, name in enumerate(results.config.class_names[1:]):
        red, green, blue = colours[index % len(colours)]
        legend.append((name, f"rgb({red}, {green}, {blue})"))
    return legend
