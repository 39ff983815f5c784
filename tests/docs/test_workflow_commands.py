"""Every ``snakemake`` command that is shown anywhere is read by Snakemake as it is meant.

Options such as ``--configfile`` take any number of values, so a target after them is read as a
value.
"""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from snakemake.cli import get_argument_parser

from hstf.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("docs", "config", "workflow", "hstf", "slurm", ".github")
SUFFIXES = {".md", ".yaml", ".yml", ".smk", ".py", ".html", ".rst", ".js", ""}
COMMAND = re.compile(r"\bsnakemake (?=-|\w+ -)[^`\"#|\\\n]*")
PLACEHOLDER = re.compile(r"\{[^{}]*\}|<[^<>]*>|\$\(\w+\)")
TARGET = re.compile(r"(round_\d+_)?(" + "|".join(sorted(COMMANDS)) + ")")


@cache
def parser() -> Any:
    return get_argument_parser()


def files() -> Iterator[Path]:
    yield from (ROOT / name for name in ("README.md", "Snakefile", "Makefile"))
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix in SUFFIXES and "node_modules" not in path.parts:
                yield path


def commands() -> list[tuple[str, str]]:
    """Return the file and the text of each command; columns of comments follow several spaces."""
    found = []
    for path in files():
        text = path.read_text(encoding="utf-8", errors="ignore")
        for match in COMMAND.finditer(text):
            words = re.split(r" {3,}|, |'\.|' *$|;", PLACEHOLDER.sub("2", match[0]))[0]
            found.append((path.relative_to(ROOT).as_posix(), words.strip().rstrip(".,'")))
    return found


def swallowed(words: list[str]) -> list[str]:
    """Return the targets that Snakemake reads as values of an option."""
    read = vars(parser().parse_args(words))
    values = []
    for name in ("configfile", "config", "set_threads", "quiet"):
        values += [str(getattr(value, "value", value)) for value in read[name] or []]
    return [value for value in values if TARGET.fullmatch(value)]


def test_commands_are_found() -> None:
    assert len(commands()) > 40


@pytest.mark.parametrize(("file", "command"), sorted(set(commands())))
def test_no_target_is_read_as_a_value(file: str, command: str) -> None:
    try:
        words = shlex.split(command)[1:]
    except ValueError:
        pytest.skip("part of a sentence")
    assert not swallowed(words), f"{file}: {command}: put the target before the options"


def test_a_target_after_configfile_is_found() -> None:
    wrong = "--cores 8 --configfile FILE round_1_labels"
    assert swallowed(wrong.split()) == ["round_1_labels"]
