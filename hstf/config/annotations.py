"""What the types of the configuration classes say about a place in a file: is it text?"""

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

Annotation = Any
"""The type of a field, or None for a place that the configuration does not have."""


def _alternatives(annotation: Annotation) -> Iterator[Annotation]:
    """Yield the types of a union, without the constraints of pydantic."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for part in get_args(annotation):
            yield from _alternatives(part)
    else:
        yield annotation


def key_of(annotation: Annotation) -> type:
    """Return the type of the keys at a place: ``str``, or ``int`` for numbers of rounds."""
    for alternative in _alternatives(annotation):
        if get_origin(alternative) is dict:
            return get_args(alternative)[0]
    return str


def value_of(annotation: Annotation, name: str) -> Annotation:
    """Return the type of the value of the key ``name`` at a place."""
    for alternative in _alternatives(annotation):
        if get_origin(alternative) is dict:
            return get_args(alternative)[1]
        if isinstance(alternative, type) and issubclass(alternative, BaseModel):
            field = alternative.model_fields.get(name)
            return field.annotation if field is not None else None
    return None


def item_of(annotation: Annotation) -> Annotation:
    """Return the type of the items of a list at a place."""
    for alternative in _alternatives(annotation):
        if get_origin(alternative) in (tuple, list):
            return get_args(alternative)[0]
    return None


def takes_text(annotation: Annotation, found: type) -> bool:
    """Return whether a place expects text and no value of the type ``found``.

    Example:
        >>> takes_text(str, int), takes_text(str | None, type(None)), takes_text(float, int)
        (True, False, False)
    """
    alternatives = list(_alternatives(annotation))
    if found is type(None) or (found is not str and found in alternatives):
        return False
    return str in alternatives
