"""Reading of YAML files that people write.

A file is read as the writer means it. YAML 1.1 reads ``no`` as false, ``010`` as 8, ``1:30`` as 90
and ``2024-05-01`` as a date; here they are text, and numbers are decimal. Where the configuration
expects text, such as the name of an experiment or of a class, a value is the text of the file:
``001``, ``null`` and ``1.50`` stay as they are. So do all keys.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from hstf.config.annotations import Annotation, item_of, key_of, takes_text, value_of
from hstf.config.experiment import Config
from hstf.runtime.errors import HstfError, join_problems

MAXIMUM_BYTES = 1_000_000
MAXIMUM_DEPTH = 20
"""Far beyond any configuration: a hostile file must not take memory or time without bound."""

TAG = "tag:yaml.org,2002:"
TEXT = f"{TAG}str"
NULL = f"{TAG}null"
PYTHON_TYPES = {f"{TAG}bool": bool, f"{TAG}int": int, f"{TAG}float": float, NULL: type(None)}
RESOLVERS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
)
"""What plain text without quotes may be, as in YAML 1.2: kind, pattern, possible first letters."""


class _Loader(yaml.SafeLoader):
    """A safe loader without the surprises of YAML 1.1."""

    yaml_implicit_resolvers: dict[str, Any] = {}


for _kind, _pattern, _first in RESOLVERS:
    _Loader.add_implicit_resolver(f"{TAG}{_kind}", re.compile(f"(?:{_pattern})\\Z"), list(_first))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file with keys of the configuration.

    Aliases, repeated keys, deep nesting and large files are refused.

    Raises:
        HstfError: if the file cannot be read, is not YAML, or holds something else.
    """
    return parse_yaml(_read_text(path), path)


def parse_yaml(text: str, path: Path) -> dict[str, Any]:
    """Return the content of a YAML file, as :func:`read_yaml` does.

    Args:
        text: the content of the file.
        path: the file, for messages.
    """
    try:
        _refuse_aliases_and_depth(path, yaml.parse(text, _Loader))
        root = yaml.compose(text, _Loader)
        _refuse_invalid_keys(path, root)
        if root is None:
            return {}
        _mark_text(root, Config)
        content = _Loader("").construct_document(root) or {}
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible number
        raise HstfError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise HstfError(f"{path}: holds {type(content).__name__}, expected keys and values.")
    return content


def _mark_text(node: yaml.Node, annotation: Annotation) -> None:
    """Mark the keys of ``node``, and the values for which ``annotation`` expects text, as text."""
    if isinstance(node, yaml.MappingNode):
        keys_are_text = key_of(annotation) is str
        for key, value in node.value:
            if keys_are_text:
                key.tag = TEXT
            _mark_text(value, value_of(annotation, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _mark_text(item, item_of(annotation))
            if item.tag == NULL and item.value and takes_text(item_of(annotation), str):
                item.tag = TEXT  # a class may be called null
    elif node.tag in PYTHON_TYPES and takes_text(annotation, PYTHON_TYPES[node.tag]):
        node.tag = TEXT


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


def _refuse_invalid_keys(path: Path, root: yaml.Node | None) -> None:
    """Refuse a section that has a key twice: YAML would drop the first one without a message.

    A key that is a list or a section is refused, too.
    """
    repeated: list[str] = []
    for section in _sections(root):
        lines: dict[str, int] = {}
        for key, _ in section.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise HstfError(f"{path}: line {line} has a list or a section as key. Use a name.")
            if key.value in lines:
                repeated.append(f"{key.value!r} is in lines {lines[key.value]} and {line}")
            lines[key.value] = line
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
