"""The tables of colours, read as ITK-SNAP and 3D Slicer read them."""

from typing import Any

import pytest

from hstf.config.experiment import Config
from hstf.imaging.colour_tables import (
    IGNORE_COLOUR,
    LabelColour,
    itksnap_labels,
    label_colours,
    slicer_colours,
)
from hstf.imaging.overlays import COLOURS

LABELS = {"background": 5, "liver": 1, 'the "left" kidney': 2, "low_grade": 7, "ignore": 255}
RED, BLUE, GREEN = (tuple(map(int, colour)) for colour in COLOURS[1:4])


def colours_of(labels: dict[str, int]) -> list[LabelColour]:
    return label_colours(Config.model_validate({"experiment": "a", "labels": labels}))


def read_as_itksnap(text: str) -> dict[int, tuple[Any, ...]]:
    """Read as ``ColorLabelTable::LoadFromFile``: numbers, then the text between two quotes."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        numbers, quote, rest = line.partition('"')
        assert quote
        value, red, green, blue, opacity, visible, mesh = map(float, numbers.split())
        assert 0 <= opacity <= 1 and mesh == visible
        name = rest[: rest.index('"')]
        found[int(value)] = (name, (int(red), int(green), int(blue)), bool(visible))
    return found


def read_as_slicer(text: str) -> dict[int, tuple[Any, ...]]:
    """Read as ``vtkMRMLColorTableStorageNode``: six words, an underscore is a space."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#") or not line:
            continue
        value, name, red, green, blue, opacity = line.split()
        colour = (int(red), int(green), int(blue))
        found[int(value)] = (name.replace("_", " "), colour, int(opacity) == 255)
    return found


@pytest.mark.parametrize("read", [read_as_itksnap, read_as_slicer])
def test_tables_have_values_names_and_colours(read: Any) -> None:
    write = itksnap_labels if read is read_as_itksnap else slicer_colours
    kidney = "the 'left' kidney" if read is read_as_itksnap else 'the "left" kidney'
    low_grade = "low_grade" if read is read_as_itksnap else "low grade"
    table = read(write(colours_of(LABELS)))
    assert table == {
        1: ("liver", RED, True),
        2: (kidney, BLUE, True),
        5: ("background", (0, 0, 0), False),
        7: (low_grade, GREEN, True),
        255: ("ignore", IGNORE_COLOUR, True),
    }
    assert list(table) == sorted(table)


def test_colours_start_again_after_the_last() -> None:
    labels = {f"c{number}": number for number in range(1, len(COLOURS) + 2)}
    found = {label.name: label.colour for label in colours_of(labels)}
    assert found[f"c{len(COLOURS)}"] == found["c1"] != found["c2"]
