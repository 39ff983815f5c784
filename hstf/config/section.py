"""The base of every configuration section, and the kinds of values that several have."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


class Section(BaseModel):
    """A group of keys. Unknown keys are refused; the text under each field is its entry in ``config/README.md``."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _axes_of_a_volume(axes: tuple[int, ...]) -> tuple[int, ...]:
    if not set(axes) <= {0, 1, 2} or len(set(axes)) < len(axes):
        raise ValueError(f"some of the axes 0, 1 and 2 are expected, each once, found {list(axes)}")
    return axes


def _range_of_scales(scales: tuple[float, float]) -> tuple[float, float]:
    if not 0.25 <= scales[0] <= scales[1] <= 4:
        raise ValueError(
            f"the lowest and the highest scale are expected, within 0.25..4, found {list(scales)}"
        )
    return scales


Axes = Annotated[tuple[int, ...], AfterValidator(_axes_of_a_volume)]
"""Axes of a volume."""
ScaleRange = Annotated[tuple[float, float], AfterValidator(_range_of_scales)]
"""Between which scales one is drawn."""
