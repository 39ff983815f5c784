"""The type of every ``amp`` key: the number format in which networks compute."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator


def _name_of_flag(value: Any) -> Any:
    """Return the name that a truth value, or a word for it, stands for."""
    word = str(value).lower()
    if word in ("true", "yes", "on"):
        return "auto"
    if word in ("false", "no", "off"):
        return "off"
    return value


Precision = Annotated[Literal["auto", "bf16", "off"], BeforeValidator(_name_of_flag)]
"""``auto``, ``bf16`` or ``off``; true means ``auto`` and false means ``off``, in any spelling."""
