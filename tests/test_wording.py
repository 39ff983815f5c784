"""Check that no text or name uses a word that ``tests/support/words.yaml`` refuses.

Run ``python tests/test_wording.py [PATH ...]`` to list the hits below some folders only.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORDS = ROOT / "tests" / "support" / "words.yaml"
SOURCES = (
    "README.md",
    "CONTRIBUTING.md",
    "Snakefile",
    "docs/**/*.md",
    "config/**/*.yaml",
    "config/**/*.md",
    "hstf/**/*.py",
    "hstf/**/*.html",
    "hstf/**/*.jinja",
    "workflow/**/*.smk",
    "workflow/**/*.rst",
    "workflow/**/*.md",
    "workflow/**/*.yaml",
    "workflow/**/*.html",
    "tests/**/*.py",
)
"""Files to scan. CHANGELOG.md is left out because it lists old names."""

LINE_START = re.compile(r"^[ \t]*(?:#+|>|\*|-|[frbu]{0,2}[\"']{1,3})*[ \t]*", re.IGNORECASE)
LINE_END = re.compile(r"[ \t]*[\"']*[,)\\]*[ \t]*$")
CAMEL_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
GAP = r"[ \t]*(?:[ \t]|\n)[ \t]*"
"""What a space of a pattern matches: spaces, or one line break."""


@dataclass(frozen=True)
class Rule:
    """A refused word."""

    pattern: re.Pattern[str]
    instead: str
    exceptions: tuple[re.Pattern[str], ...]
    allowed_in: frozenset[str]

    @classmethod
    def of(cls, entry: dict[str, Any]) -> "Rule":
        """Compile an entry of ``words.yaml``."""
        exceptions = [_literal(text) for text in entry.get("except", [])]
        return cls(
            _compile(entry["refuse"]),
            entry["instead"],
            tuple(exceptions),
            frozenset(entry.get("allowed_in", [])),
        )


@dataclass(frozen=True)
class Hit:
    """A refused word in a file."""

    file: str
    line: int
    word: str
    instead: str

    def __str__(self) -> str:
        """Return the hit as one line of a report."""
        return f"{self.file}:{self.line}: {self.word} -> {self.instead}"


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern.replace(" ", GAP), re.IGNORECASE)


def _literal(text: str) -> re.Pattern[str]:
    words = [re.escape(word) for word in text.split(" ")]
    return _compile(" ".join(words))


@cache
def rules() -> list[Rule]:
    """Return the rules of ``words.yaml``."""
    content = yaml.safe_load(WORDS.read_text(encoding="utf-8"))
    return [Rule.of(entry) for entry in content["words"]]


def sources() -> list[Path]:
    """Return the files to scan, in order."""
    found: set[Path] = set()
    for pattern in SOURCES:
        found.update(ROOT.glob(pattern))
    return sorted(found)


def area(path: Path) -> str:
    """Return the package of ``hstf``, or the first folder, that a file is reported under."""
    parts = path.relative_to(ROOT).parts
    if parts[0] == "hstf" and len(parts) > 2:
        return "/".join(parts[:2])
    return parts[0]


def readable(text: str) -> str:
    """Return ``text`` without comment and quotation marks and with names split into words.

    The number of lines stays the same.
    """
    lines = []
    for line in text.splitlines():
        line = LINE_END.sub("", LINE_START.sub("", line))
        lines.append(CAMEL_CASE.sub(" ", line.replace("_", " ")))
    return "\n".join(lines)


def find_hits(text: str, file: str) -> Iterator[Hit]:
    """Yield every refused word of ``text``, the content of ``file``."""
    plain = readable(text)
    for rule in rules():
        if file in rule.allowed_in:
            continue
        allowed = plain
        for exception in rule.exceptions:
            allowed = exception.sub(_blank, allowed)
        for match in rule.pattern.finditer(allowed):
            line = allowed.count("\n", 0, match.start()) + 1
            yield Hit(file, line, " ".join(match[0].split()), rule.instead)


def _blank(match: re.Match[str]) -> str:
    """Return as many line breaks as ``match`` has, so that line numbers stay right."""
    return " " + "\n" * match[0].count("\n")


def hits_in(paths: Iterable[Path]) -> list[Hit]:
    """Return all hits of some files, by file and line."""
    found: list[Hit] = []
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        found.extend(find_hits(path.read_text(encoding="utf-8"), name))
    return sorted(found, key=lambda hit: (hit.file, hit.line))


AREAS = sorted({area(path) for path in sources()})


@pytest.mark.parametrize("folder", AREAS)
def test_wording_has_no_refused_word(folder: str) -> None:
    """Every text and name of a folder uses the field's own words."""
    hits = hits_in(path for path in sources() if area(path) == folder)
    assert not hits, "\n".join(["words.yaml refuses:", *map(str, hits)])


def test_find_hits_splits_names_and_joins_lines() -> None:
    """Names are split into words, and a phrase may be broken by a line break."""
    text = "best_{w} = 1\nclass Best{W}:\n    # the file {s}\n    # in a folder"
    text = (
        text.replace("{w}", "te" + "am").replace("{W}", "Te" + "am").replace("{s}", "st" + "ands")
    )
    assert [hit.line for hit in find_hits(text, "a.py")] == [1, 2, 3]


def test_find_hits_accepts_the_exceptions() -> None:
    """A word within an exception is no hit."""
    assert not list(find_hits("x.sh" + "are_memory_()", "a.py"))


def main(arguments: list[str]) -> int:
    """Print the hits below the paths in ``arguments`` (default: all) and their number by folder."""
    chosen = [Path(text).resolve() for text in arguments] or [ROOT]
    paths = [path for path in sources() if any(path.is_relative_to(folder) for folder in chosen)]
    hits = hits_in(paths)
    for hit in hits:
        print(hit)
    for folder in sorted({area(path) for path in paths}):
        count = sum(area(ROOT / hit.file) == folder for hit in hits)
        print(f"{count:5d}  {folder}")
    return 1 if hits else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
