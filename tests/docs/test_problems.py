"""The messages that docs/problems.md quotes are those of the code."""

import re
from collections.abc import Iterator
from functools import cache

import pytest
from support.workspace import ROOT

PAGE = ROOT / "docs" / "problems.md"
SOURCES = ("hstf/**/*.py", "workflow/rules/*.smk", "Snakefile")
OF_OTHERS = (
    "No space left on device",
    "Read-only file system",
    "Permission denied",
    "Directory cannot be locked",
    "Trying to restart job",
)
"""Messages of the operating system and of Snakemake."""

VARIABLE = re.compile(r"process \d+ on \w+|…|[(){}]|\S*\d\S*")
"""What differs from message to message: gaps, values, names with digits."""


def quoted_phrases() -> Iterator[str]:
    """Yield the fixed parts, of two words or more, of each message in the tables of the page."""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = line.split(" | ")
        if not line.startswith("| ") or len(cells) != 3:
            continue
        for message in re.findall(r"`([^`]+)`", cells[1]):
            if message in OF_OTHERS:
                continue
            for phrase in VARIABLE.split(message):
                words = phrase.strip(" :,")
                if " " in words and words not in OF_OTHERS:
                    yield words


@cache
def source_text() -> str:
    """Return all code as one text, with strings joined that are split over lines."""
    paths = [path for pattern in SOURCES for path in sorted(ROOT.glob(pattern))]
    text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    return re.sub(r"\"\s*\n\s*f?\"", "", text)


@pytest.mark.parametrize("phrase", sorted(set(quoted_phrases())))
def test_problems_quote_messages_of_the_code(phrase: str) -> None:
    """A reader who searches the page for a message finds it."""
    assert phrase in source_text()
