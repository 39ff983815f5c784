"""Reading of YAML files that people write."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from hstf.runtime.errors import HstfError, join_problems

MAXIMUM_BYTES = 1_000_000
MAXIMUM_DEPTH = 20
"""Far beyond any configuration: a hostile file must not take memory or time without bound."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds keys and values.

    Aliases, repeated keys, deep nesting and large files are refused.

    Raises:
        HstfError: if the file cannot be read, is not YAML, or holds something else.
    """
    text = _read_text(path)
    try:
        _refuse_aliases_and_depth(path, yaml.parse(text, yaml.SafeLoader))
        _refuse_repeated_keys(path, yaml.compose(text, yaml.SafeLoader))
        content = yaml.safe_load(text) or {}
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date or number
        raise HstfError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise HstfError(f"{path}: holds {type(content).__name__}, expected keys and values.")
    return content


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAXIMUM_BYTES:
            raise HstfError(
                f"{path}: has more than {MAXIMUM_BYTES} bytes. No configuration needs that many."
            )
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise HstfError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise HstfError(f"{path}: is not UTF-8 text. Save it as UTF-8.") from error


def _refuse_aliases_and_depth(path: Path, events: Iterable[yaml.Event]) -> None:
    depth = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            raise HstfError(f"{path}: uses YAML aliases (*name). Write the values out.")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAXIMUM_DEPTH:
            raise HstfError(f"{path}: is nested more than {MAXIMUM_DEPTH} levels deep.")


def _refuse_repeated_keys(path: Path, root: yaml.Node | None) -> None:
    """Refuse a section that has a key twice: YAML would drop the first one without a message."""
    repeated: list[str] = []
    for section in _sections(root):
        lines: dict[str, int] = {}
        for key, _ in section.value:
            line = key.start_mark.line + 1
            if key.value in lines:
                repeated.append(f"{key.value!r} is in lines {lines[key.value]} and {line}")
            lines[str(key.value)] = line
    if repeated:
        raise join_problems(
            f"{path}: a section has a key twice. Put everything that belongs to it under one.",
            repeated,
        )


def _sections(root: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    """Yield all mappings of a document. It is not recursive: the depth is bounded elsewhere."""
    nodes = [root] if root is not None else []
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.MappingNode):
            yield node
            nodes += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value
