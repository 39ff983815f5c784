"""``hstf config``: show, check and document a configuration.

The reference of the configuration and its JSON schema are generated here from the classes
of the configuration, so that they always agree with the code.
"""

import argparse
import json
import types
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from hstf.config.experiment import Config
from hstf.config.load import config_text, load_config
from hstf.config.methods import METHODS
from hstf.config.section import Section
from hstf.datasets.importers.registry import CONVERTED, IMPORTERS
from hstf.experiment.cases import Split, read_cases
from hstf.experiment.comparison import cells_of
from hstf.experiment.folds import refuse_too_many_folds
from hstf.experiment.label_maps import refuse_wrong_label_maps
from hstf.experiment.reuse import check_reuse, refuse_missing_start

BOUNDS = {
    "ge": "≥",
    "gt": ">",
    "le": "≤",
    "lt": "<",
}
"""Symbol of each bound that pydantic knows."""

TYPE_NAMES = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    type(None): "null",
    Any: "anything",
}


def run(args: argparse.Namespace) -> int:
    """Run the action that the options select."""
    if args.schema:
        print(schema_text(), end="")
    elif args.document:
        print(document(), end="")
    elif args.show:
        print(config_text(load_config(*args.config)), end="")
    else:
        print(check(load_config(*args.config)))
    return 0


def check(config: Config) -> str:
    """Check a configuration with its case sheet, and return a summary in one line.

    Raises:
        HstfError: if the case sheet, the comparison, the reused results or the label map of an
            external teacher are invalid.
    """
    sheet = read_cases(config)
    refuse_too_many_folds(sheet.of(Split.LABELLED), config.warmup.folds)
    check_reuse(config)
    refuse_missing_start(config)
    refuse_wrong_label_maps(config)
    cells_of(config)
    counts = [f"{len(sheet.of(split))} {split}" for split in Split]
    summary = [
        f"{config.experiment}: valid",
        f"{', '.join(counts)} cases",
        f"{config.rounds} rounds",
        f"classes {', '.join(config.class_names)}",
    ]
    if config.regions:
        summary.append(f"regions {', '.join(config.regions)}")
    return "; ".join(summary)


def schema_text() -> str:
    """Return the JSON schema of the configuration, with which editors check YAML files."""
    schema = Config.model_json_schema()
    return json.dumps(schema, indent=2) + "\n"


def document() -> str:
    """Return the page ``docs/reference/configuration.md``."""
    template = files("hstf.config").joinpath("configuration.md").read_text(encoding="utf-8")
    kinds = "\n".join(_kinds())
    lines = [
        template.replace("{kinds}", kinds),
        *_methods(),
        *_section("The experiment", Config),
    ]
    return "\n".join(lines)


def _kinds() -> Iterator[str]:
    """Yield the lines of the table of importers."""
    yield "| kind | folder |"
    yield "|---|---|"
    for name, importer in IMPORTERS.items():
        yield f"| `{name}` | {importer.description} |"
    for name, description in CONVERTED.items():
        yield f"| `{name}` | {description} |"


def _methods() -> Iterator[str]:
    """Yield the lines of the table of methods, with the keys that each method sets."""
    yield "### The methods\n"
    yield "| `method` | what it is | what it sets |"
    yield "|---|---|---|"
    for name, preset in METHODS.items():
        keys = []
        for key, value in _flat(preset.overrides):
            keys.append(f"`{key}: {json.dumps(value)}`")
        changes = ", ".join(keys) or "nothing"
        yield f"| `{name}` | {preset.description} | {changes} |"
    yield ""


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``section.key`` and value of nested ``values``."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _section(title: str, section: type[Section]) -> Iterator[str]:
    """Yield the table of the keys of ``section``, then those of the sections within it."""
    yield f"### {title}\n"
    prefix = ""
    if section is not Config:
        yield f"{_one_line(section.__doc__)}\n"
        prefix = title.strip("`").rstrip(":") + "."
    yield "| key | default | values | meaning |"
    yield "|---|---|---|---|"
    inner = {}
    for name, field in section.model_fields.items():
        nested = _nested(field)
        if nested is None:
            meaning = _one_line(field.description)
            yield f"| `{name}` | {_default(field)} | {_values(field)} | {meaning} |"
        else:
            inner[name] = nested
    yield ""
    for name, nested in inner.items():
        yield from _section(f"`{prefix}{name}:`", nested)


def _nested(field: FieldInfo) -> type[Section] | None:
    """Return the section that ``field`` contains, if it contains one."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def _default(field: FieldInfo) -> str:
    text = json.dumps(field.default, default=list)
    return f"`{text}`"


def _values(field: FieldInfo) -> str:
    """Return type and bounds of a key."""
    parts = [_type_name(field.annotation), *_bounds(field.metadata)]
    return ", ".join(parts)


def _bounds(rules: Iterable[Any]) -> list[str]:
    """Return bounds as text, such as ``≥ 0``."""
    bounds = []
    for rule in rules:
        for name, symbol in BOUNDS.items():
            if hasattr(rule, name):
                bounds.append(f"{symbol} {getattr(rule, name)}")
    return bounds


def _type_name(annotation: Any) -> str:
    """Return a type in words."""
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Annotated:
        return _annotated_name(arguments)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type_name(kind) for kind in arguments)
    if origin is tuple:
        item = _type_name(arguments[0])
        if Ellipsis in arguments:
            return f"list of {item}"
        return f"{len(arguments)} × {item}"
    if origin is dict:
        key = _type_name(arguments[0])
        value = _type_name(arguments[1])
        return f"map of {key} to {value}"
    if annotation in TYPE_NAMES:
        return TYPE_NAMES[annotation]
    return _one_line(getattr(annotation, "__name__", str(annotation)))


def _annotated_name(arguments: tuple[Any, ...]) -> str:
    """Return the type and the bounds of ``Annotated[type, Field(...)]``."""
    parts = [_type_name(arguments[0])]
    for field in arguments[1:]:
        if isinstance(field, FieldInfo):
            parts += _bounds(field.metadata)
    return " ".join(parts)


def _one_line(text: str | None) -> str:
    """Return ``text`` for a cell of a Markdown table."""
    words = (text or "").split()
    return " ".join(words).replace("``", "`").replace("|", "\\|")
