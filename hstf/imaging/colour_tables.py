"""Names and colours of the classes, as the viewers of volumes read them.

A viewer that has such a table shows a label in the colours of the report, and offers the classes by
their names.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hstf.config.experiment import Config
from hstf.imaging.overlays import class_colour

IGNORE_NAME = "ignore"
IGNORE_COLOUR = (160, 160, 160)


@dataclass(frozen=True)
class LabelColour:
    """A value of a label file."""

    value: int
    name: str
    colour: tuple[int, int, int]
    """RGB, 0 to 255."""
    is_visible: bool = True
    """False for the background."""

    @property
    def hexadecimal(self) -> str:
        """The colour as CSS writes it."""
        return "#{:02x}{:02x}{:02x}".format(*self.colour)


def label_colours(config: Config) -> list[LabelColour]:
    """Return all values of a label file: background, classes, and what is ignored.

    Args:
        config: the key ``labels``.

    Example:
        >>> config = Config.model_validate({"experiment": "a", "labels": {"liver": 1}})
        >>> [(label.value, label.name, label.hexadecimal) for label in label_colours(config)]
        [(0, 'background', '#000000'), (1, 'liver', '#e64b35')]
    """
    colours = []
    pairs = zip(config.class_names, config.class_values, strict=True)
    for index, (name, value) in enumerate(pairs):
        colours.append(LabelColour(value, name, class_colour(index), is_visible=index > 0))
    if config.ignore_value is not None:
        colours.append(LabelColour(config.ignore_value, IGNORE_NAME, IGNORE_COLOUR))
    return colours


def itksnap_labels(labels: Sequence[LabelColour]) -> str:
    """Return a label description file of ITK-SNAP, for its option ``-l``.

    The columns are value, red, green, blue, opacity, visible in slices, visible in 3D, name.
    """
    lines = [
        "################################################",
        "# ITK-SnAP Label Description File",
        "# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL",
        "################################################",
    ]
    for label in _by_value(labels):
        red, green, blue = label.colour
        shown = int(label.is_visible)
        name = label.name.replace('"', "'")  # the name ends at the second quote
        numbers = f"{label.value:5d} {red:5d} {green:4d} {blue:4d} {shown:8d} {shown:2d} {shown:2d}"
        lines.append(f'{numbers}    "{name}"')
    return "\n".join(lines) + "\n"


def slicer_colours(labels: Sequence[LabelColour]) -> str:
    """Return a colour table of 3D Slicer (``.ctbl``).

    The columns are value, name, red, green, blue, opacity, each from 0 to 255. They are separated
    by spaces, so Slicer shows an underscore of a name as a space.
    """
    lines = ["# Color table file: value name red green blue opacity"]
    for label in _by_value(labels):
        name = "_".join(label.name.split())
        opacity = 255 if label.is_visible else 0
        lines.append(" ".join(map(str, (label.value, name, *label.colour, opacity))))
    return "\n".join(lines) + "\n"


def _by_value(labels: Sequence[LabelColour]) -> list[LabelColour]:
    return sorted(labels, key=lambda label: label.value)
