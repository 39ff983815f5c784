"""The documentation works: commands run, links resolve, and the commands and keys it names exist.

A shell block is run when the line before it is ``<!-- test -->``. The blocks of a page run one
after the other in a copy of the workflow.
"""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml

from hstf.cli import COMMANDS, main
from hstf.config.experiment import Config
from hstf.config.section import Section

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
README_WORDS = 900
SHELLS = ("bash", "console", "sh")
ABOUT_OBJECTS = ROOT / "docs" / "reference" / "python-api.md"
"""A page whose dotted names are attributes of objects, not configuration keys."""

FENCE = re.compile(
    r"^ *(?P<marker><!-- test -->\n+ *)?```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
COMMAND = re.compile(r"\bhstf ([a-z]+)")
OPTION = re.compile(r"--[a-z][a-z-]*")
KEY = re.compile(r"([a-z_]+(?:\.[a-z_]+)+):?(?: .*)?")
FILE_ENDINGS = {
    "csv",
    "ctbl",
    "txt",
    "gz",
    "html",
    "json",
    "log",
    "md",
    "npy",
    "png",
    "pt",
    "py",
    "smk",
    "yaml",
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    tested: bool


def page_id(path: Path) -> str:
    """Return the name of a page in the list of tests."""
    return path.relative_to(ROOT).as_posix()


@cache
def content(path: Path) -> str:
    """Return the text of a page, with the files that it includes."""
    text = path.read_text(encoding="utf-8")
    return re.sub(
        r'^--8<-- "(.+)"$', lambda match: (ROOT / match[1]).read_text(), text, flags=re.MULTILINE
    )


def blocks(path: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    return [
        Block(match["language"], match["text"], match["marker"] is not None)
        for match in FENCE.finditer(content(path))
    ]


def prose(path: Path) -> str:
    """Return a page without its fenced blocks."""
    return FENCE.sub("", content(path))


def shell_lines(path: Path) -> Iterator[str]:
    """Yield the commands of the shell blocks of a page, continued lines joined.

    Those of Docker are left out: ``hstf`` is the name of an image there.
    """
    for block in blocks(path):
        if block.language in SHELLS:
            lines = block.text.replace("\\\n", " ").splitlines()
            yield from (line for line in lines if not line.startswith("docker"))


def anchors(path: Path) -> set[str]:
    """Return the anchors of the headings of a page."""
    found = set()
    for heading in HEADING.findall(prose(path)):
        plain = re.sub(r"[^\w\s-]", "", heading.lower())
        found.add(re.sub(r"[-\s]+", "-", plain.strip()))
    return found


TESTED_PAGES = [path for path in PAGES if any(block.tested for block in blocks(path))]


@pytest.mark.parametrize("page", TESTED_PAGES, ids=page_id)
def test_shell_blocks_run(page: Path, tmp_path: Path) -> None:
    """The marked blocks of a page run without an error."""
    for name in ("config", "workflow"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "Snakefile", tmp_path)
    (tmp_path / "slurm").symlink_to("workflow/profiles/slurm")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    for block in blocks(page):
        if not block.tested:
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_resolve(page: Path) -> None:
    """Every link and picture of a page names a file, and a heading where it has an anchor."""
    broken = []
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists():
            broken.append(f"{target}: there is no such file")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            broken.append(f"{target}: there is no such heading")
    assert not broken, "\n".join(broken)


def test_every_page_is_in_the_navigation() -> None:
    """The navigation of the site lists each page once and no other."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"^ +- (?:[\w ]+: )?(\S+\.md)$", text, re.MULTILINE)
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in PAGES[1:]]
    assert sorted(listed) == sorted(pages)


def test_readme_is_short() -> None:
    """The README can be read in a few minutes."""
    assert len(content(ROOT / "README.md").split()) < README_WORDS


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_exist(page: Path) -> None:
    """Every ``hstf <command>`` that a page mentions is a command."""
    mentioned = [*SPAN.findall(prose(page)), *shell_lines(page)]
    names = {name for text in mentioned for name in COMMAND.findall(text)}
    unknown = sorted(names - set(COMMANDS))
    assert not unknown, f"no such commands: {', '.join(unknown)}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_options_exist(page: Path) -> None:
    """Every option in a shell block is an option of its ``hstf`` command."""
    unknown = []
    for line in shell_lines(page):
        words = shlex.split(line, comments=True)
        if words[:1] != ["hstf"] or len(words) < 2 or words[1] not in COMMANDS:
            continue
        for word in words[2:]:
            if word.startswith("--") and word.split("=")[0] not in options_of(words[1]):
                unknown.append(f"{line}: there is no option {word}")
    assert not unknown, "\n".join(unknown)


def test_table_of_import_options_names_options() -> None:
    """Every option in the table of ``hstf import`` exists."""
    text = content(ROOT / "docs" / "how-to" / "own-data.md")
    cells = re.findall(r"^\| (`--.+?`) \|", text, re.MULTILINE)
    named = {option for cell in cells for option in OPTION.findall(cell)}
    assert "--labelled" in named
    assert named <= options_of("import")


@cache
def options_of(command: str) -> frozenset[str]:
    """Return the options that the help of a command lists."""
    text = io.StringIO()
    with redirect_stdout(text), suppress(SystemExit):
        main([command, "--help"])
    return frozenset(OPTION.findall(text.getvalue()))


@pytest.mark.parametrize("page", [page for page in PAGES if page != ABOUT_OBJECTS], ids=page_id)
def test_configuration_keys_exist(page: Path) -> None:
    """Every configuration key that a page mentions, such as ``student.steps``, is a key."""
    unknown = []
    for span in SPAN.findall(prose(page)):
        match = KEY.fullmatch(span)
        if match is None:
            continue
        names = match[1].split(".")
        if names[0] in Config.model_fields and names[-1] not in FILE_ENDINGS and not is_key(names):
            unknown.append(match[1])
    assert not unknown, f"no such keys: {', '.join(unknown)}"


def is_key(names: list[str]) -> bool:
    """Return whether ``names`` lead from the configuration to one of its keys."""
    section: type[Section] | None = Config
    for name in names:
        if section is None or name not in section.model_fields:
            return False
        section = section_of(section, name)
    return True


def section_of(parent: type[Section], name: str) -> type[Section] | None:
    """Return the class of the section ``name`` of ``parent``; None where the key is no section.

    A key may also hold several sections by name.
    """
    annotation = parent.model_fields[name].annotation
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_configurations_are_valid(page: Path) -> None:
    """Every YAML block is a part of a configuration, with keys and values that exist."""
    unknown = []
    for block in blocks(page):
        if block.language == "yaml":
            unknown += unknown_keys(yaml.safe_load(block.text), Config, "")
    assert not unknown, "\n".join(unknown)


def unknown_keys(values: Mapping[str, Any], section: type[Section], prefix: str) -> list[str]:
    """Return the keys of ``values`` that ``section`` does not have.

    Raises:
        pydantic.ValidationError: A value of a known key is not allowed.
    """
    unknown = []
    for name, value in values.items():
        if name not in section.model_fields:
            unknown.append(f"{prefix}{name}: there is no such key")
        elif name == "rounds_overrides":
            for sections in value.values():
                unknown += unknown_keys(sections, Config, f"{prefix}{name}.")
        elif get_origin(section.model_fields[name].annotation) is dict and section_of(
            section, name
        ):
            section.__pydantic_validator__.validate_assignment(
                section.model_construct(), name, value
            )
        elif inner := section_of(section, name):
            found = unknown_keys(value, inner, f"{prefix}{name}.")
            if not found:
                inner.model_validate(value)
            unknown += found
    return unknown
