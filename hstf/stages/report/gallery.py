"""Section with pictures of the pseudo-labels."""

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from hstf.imaging.colour_tables import label_colours
from hstf.imaging.overlays import overlay_path
from hstf.stages.report.page import Gallery, GalleryCase, Picture, Section, counted, number_text
from hstf.stages.report.pseudo_labels import with_texts
from hstf.stages.report.results import Results
from hstf.stages.report.review import Reviewing, anchor

GALLERY_BYTES = 10 * 2**20
"""Size of all pictures together, so that the page stays below 15 MB. The last round comes first."""
JPEG_QUALITY = 82


def gallery_section(results: Results) -> Section:
    """Return pictures of the least certain pseudo-labels of the last round, rounds side by side."""
    missing = "There are no pictures. Their number is set by refine.overlays and report.gallery."
    if not results.pseudo_labels:
        return Section("gallery", "Pictures", "", [], missing)
    number = max(results.pseudo_labels)
    gallery = _gallery(results, number)
    blocks = [gallery] if gallery.cases else []
    intro = (
        "Click on a picture to enlarge it; then the arrow keys lead to the next and the previous"
        " case, and Escape makes it small again. Upper row: the slices with most foreground, with"
        f" the outline of each class. {_directions(results)} Lower row: the same slices, red where"
        f" the voxel weight is low. Links and commands below the pictures start at {Path.cwd()}."
    )
    return Section("gallery", "Pictures", intro, blocks, missing)


def _directions(results: Results) -> str:
    """Return from where the slices are seen."""
    if results.config.preprocess.axes == "slices":
        return (
            "They follow the axes of the file, whatever their direction in the body; the last"
            " picture of the row is a slice as it was scanned."
        )
    return (
        "They are seen from the left, from the front and from the feet; the patient's right is on"
        " the left."
    )


def _gallery(results: Results, last: int) -> Gallery:
    """Return the pictures of the cases, the last round first.

    Args:
        results: the experiment.
        last: the last round that has pseudo-labels.
    """
    rows = {number: _rows(results, number) for number in sorted(results.pseudo_labels)[::-1]}
    reviewing = Reviewing(results)
    budget = GALLERY_BYTES
    cases: list[GalleryCase] = []
    for case_id, row in rows[last].items():
        if len(cases) >= results.config.report.gallery or budget <= 0:
            break
        pictures: list[Picture] = []
        for number, of_round in rows.items():
            if case_id in of_round and (number == last or pictures):
                pictures += _picture(results, number, of_round[case_id])
        if pictures:
            budget -= sum(len(picture.source) for picture in pictures)
            review = reviewing.review(row, last)
            cases.append(GalleryCase(case_id, anchor(case_id), row["tone"], pictures, review))
    note = (
        f"{len(cases)} of {counted(len(rows[last]), 'pseudo-label')} of round {last}, least certain"
        f" first. Pictures in full size:"
        f" {overlay_path(results.layout.pseudo_labels(last), '<case>')}."
    )
    return Gallery(cases, note, _legend(results), str(results.layout.decisions))


def _rows(results: Results, number: int) -> dict[str, dict[str, Any]]:
    """Return the pseudo-labels of a round by case, least certain first."""
    records: Any = with_texts(results.pseudo_labels[number]).to_dict("records")
    return {row["case_id"]: row for row in records}


def _picture(results: Results, number: int, row: dict[str, Any]) -> list[Picture]:
    """Return the picture of a case in a round, if there is one."""
    path = overlay_path(results.layout.pseudo_labels(number), row["case_id"])
    source = picture_address(path, results.config.report.gallery_pixels)
    if source is None:
        return []
    facts = [f"predicted Dice {number_text(row['predicted_dice'])}", row["use"], row["why"]]
    text = "; ".join(fact for fact in facts if isinstance(fact, str) and fact)
    return [Picture(number, source, text)]


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


def _legend(results: Results) -> list[tuple[str, str]]:
    """Return name and colour of each class."""
    colours = label_colours(results.config)
    return [(label.name, label.hexadecimal) for label in colours if label.is_visible]
