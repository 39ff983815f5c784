"""Reading, merging and checking configuration files."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from hstf.config.experiment import Config
from hstf.runtime.errors import HstfError, join_faults


def load_config(*paths: Path) -> Config:
    """The configuration of ``paths``, later files over earlier ones, all over the defaults.

    Raises:
        HstfError: a file is missing, not YAML, or holds keys or values that are not understood (all named at once).
    """
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, read_yaml(path))
    return resolve_config(merged, source=", ".join(map(str, paths)))


def resolve_config(raw: Mapping[str, Any], source: str = "configuration") -> Config:
    """Check ``raw`` (what Snakemake merged, say) against the classes and fill in the defaults.

    Raises:
        HstfError: with a line for each fault.
    """
    try:
        return validate(raw)
    except ValidationError as error:
        raise join_faults(
            f"{source}: not a valid configuration.", [_sentence(e) for e in error.errors()]
        ) from None
    except ValueError as error:
        raise HstfError(f"{source}: {error}") from None


def validate(raw: Mapping[str, Any], prefix: str = "") -> Config:
    """``raw`` as a :class:`Config`; raises ``ValueError`` with ``prefix`` when nested in another validation."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        if not prefix:
            raise
        raise ValueError(prefix + "; ".join(_sentence(e) for e in error.errors())) from None


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` merged into ``base``, section by section. :data:`WHOLE` keys are replaced as a whole."""
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if nested and key not in WHOLE else value
    return merged


WHOLE = {"labels", "regions", "modalities"}


YAML_BYTES, YAML_DEPTH = 1_000_000, 20  # far beyond any configuration


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Aliases, depth and size are refused beyond what a configuration needs: no file
    takes memory or time without bound.

    Raises:
        HstfError: it cannot be read, is not YAML, or holds something else.
    """
    try:
        if path.stat().st_size > YAML_BYTES:
            raise HstfError(f"{path}: has over {YAML_BYTES} bytes, which no configuration needs.")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise HstfError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise HstfError(f"{path}: is not UTF-8 text. Save it as UTF-8.") from error
    try:
        _refuse_growth(path, yaml.parse(text, yaml.SafeLoader))
        _refuse_repeats(path, yaml.compose(text, yaml.SafeLoader))
        content = yaml.safe_load(text) or {}
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or number that cannot be
        raise HstfError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise HstfError(f"{path}: holds {type(content).__name__}, expected keys and values.")
    return content


def _refuse_growth(path: Path, events: Iterable[yaml.Event]) -> None:
    depth = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            raise HstfError(f"{path}: uses YAML aliases (*name). Write the values out.")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(
            event, yaml.CollectionEndEvent
        )
        if depth > YAML_DEPTH:
            raise HstfError(f"{path}: is nested more than {YAML_DEPTH} levels deep.")


def _refuse_repeats(path: Path, root: yaml.Node | None) -> None:
    """A key that stands twice in a section: YAML would silently drop the first."""
    nodes, repeats = [root] if root else [], []
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.MappingNode):
            seen: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if key.value in seen:
                    repeats.append(f"{key.value!r} stands in lines {seen[key.value]} and {line}")
                seen[str(key.value)] = line
                nodes.append(value)
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value
    if repeats:
        raise join_faults(
            f"{path}: a key can stand once in a section. Put what belongs to it under one.", repeats
        )


def _sentence(error: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        told = error["msg"].removeprefix("Value error, ") + _found(error)
        return f"{where}: {told}" if where else told
    near = difflib.get_close_matches(str(error["loc"][-1]), known_keys(error["loc"][:-1]), n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"{where}: unknown key.{hint}"


def _found(error: Mapping[str, Any]) -> str:
    """What stands there, where the message does not say it."""
    value = error.get("input")
    plain = isinstance(value, str | int | float | list | tuple) and len(repr(value)) <= 60
    return f", found {value!r}" if plain and error["type"] not in ("value_error", "missing") else ""


def known_keys(location: Iterable[Any]) -> list[str]:
    """The keys that the section at ``location`` understands."""
    section: type[BaseModel] = Config
    for part in location:
        annotation = section.model_fields[part].annotation if part in section.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        section = annotation
    return list(section.model_fields)


HEADER = (
    "# The whole configuration, defaults included. Written by the workflow: edit config/ instead.\n"
)


def config_text(config: Config) -> str:
    """``config`` as YAML with every default, under a comment."""
    values = config.model_dump(mode="json")
    return HEADER + yaml.safe_dump(
        values, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None
    )
