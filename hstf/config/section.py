"""The base of every configuration section."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A group of keys. Unknown keys are refused; the text under each field is its entry in ``config/README.md``."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
