"""JSON documents as pydantic models: one way to save, load and check all of them."""

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from hstf.runtime.errors import join_problems
from hstf.runtime.files import read_json, write_json

MAXIMUM_PROBLEMS = 10
"""Number of problems that an error message lists: a foreign file may have thousands."""


class Part(BaseModel):
    """A part of a document. Instances are immutable, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Document(Part):
    """A JSON file that a stage writes and other stages read.

    Example:
        >>> class Plan(Document):
        ...     stage = "plan"
        ...     spacing: tuple[float, float, float]
        >>> Plan(spacing=(1.0, 1.0, 2.0)).save(Path("plan.json"))
        >>> Plan.load(Path("plan.json")).spacing
        (1.0, 1.0, 2.0)
    """

    stage: ClassVar[str]
    """Stage that writes the document: the one that an error message asks to run again."""

    def to_json(self) -> dict[str, Any]:
        """Convert the document to plain JSON values."""
        return self.model_dump(mode="json")

    def print(self) -> None:
        """Print the document as indented JSON, for the option ``--json`` of a command."""
        print(json.dumps(self.to_json(), indent=2, allow_nan=False), flush=True)

    def save(self, path: Path) -> None:
        """Write the document as indented JSON, atomically."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a document.

        Raises:
            HstfError: if the file is missing, damaged, or was written by another version.
        """
        content = read_json(path)
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise join_problems(
                f"{path}: does not have the content that this version of hstf expects."
                f" Delete the file and run the stage '{cls.stage}' again.",
                _problems(error),
            ) from error


def _problems(error: ValidationError) -> list[str]:
    """Describe each invalid value by its place and what is wrong with it."""
    problems = []
    for item in error.errors()[:MAXIMUM_PROBLEMS]:
        place = ".".join(str(part) for part in item["loc"])
        problems.append(f"{place}: {item['msg']}" if place else item["msg"])
    return problems
