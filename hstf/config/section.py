"""The base class of all configuration sections, and types that several sections use."""

from collections.abc import Collection
from pathlib import PurePath
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict

from hstf.runtime.home import expand_home


class Section(BaseModel):
    """A group of keys.

    Unknown keys are refused. The text below each field is its entry in the reference.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def __getattr__(self, name: str) -> Any:
        """Raise for a key that :func:`restricted` has removed; pydantic handles all other names."""
        if name in type(self).model_fields:
            raise AttributeError(
                f"{type(self).__name__}.{name} is not declared by this stage:"
                " add it to the keys of the stage in hstf/experiment/dependencies.py"
            )
        return super().__getattr__(name)  # type: ignore[misc]


AnySection = TypeVar("AnySection", bound=Section)


def restricted(section: AnySection, keys: Collection[str]) -> AnySection:
    """Return a copy of ``section`` that has only ``keys``.

    Args:
        section: the whole configuration, or a section of it.
        keys: names of fields; ``field.key`` keeps one key of a field that is itself a section.
    """
    copy = section.model_copy()
    whole = {key for key in keys if "." not in key}
    for name in type(section).model_fields:
        if name in whole:
            continue
        prefix = f"{name}."
        inner = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
        if inner:
            copy.__dict__[name] = restricted(copy.__dict__[name], inner)
        else:
            del copy.__dict__[name]
    return copy


def _check_folder(name: str) -> str:
    if str(PurePath(name)).startswith("-"):
        raise ValueError(
            f"{name!r} begins with a dash, so that commands would take it for an option:"
            " use another name"
        )
    return name


def _check_axes(axes: tuple[int, ...]) -> tuple[int, ...]:
    if not set(axes) <= {0, 1, 2} or len(set(axes)) < len(axes):
        raise ValueError(f"expected some of the axes 0, 1 and 2, each once, found {list(axes)}")
    return axes


def _check_scale_range(scales: tuple[float, float]) -> tuple[float, float]:
    if not 0.25 <= scales[0] <= scales[1] <= 4:
        raise ValueError(
            f"expected the minimum and the maximum scale, within 0.25 to 4, found {list(scales)}"
        )
    return scales


Axes = Annotated[tuple[int, ...], AfterValidator(_check_axes)]
"""Axes of a volume."""
ScaleRange = Annotated[tuple[float, float], AfterValidator(_check_scale_range)]
"""Minimum and maximum of a scale that is drawn at random."""
FileName = Annotated[str, AfterValidator(expand_home)]
"""A file or folder; ``~`` is the home folder."""
FolderName = Annotated[str, AfterValidator(expand_home), AfterValidator(_check_folder)]
"""A folder whose name is an argument of commands; ``~`` is the home folder."""
