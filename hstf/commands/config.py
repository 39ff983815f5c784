"""``hstf config``: show and check a configuration, and write down what every key means.

``config/README.md`` and ``workflow/schemas/config.schema.json`` come from here, so they cannot differ from the classes.
"""

import argparse
import json
import types
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from hstf.config.experiment import Config
from hstf.config.load import config_text, load_config
from hstf.config.methods import METHODS
from hstf.config.section import Section
from hstf.datasets.importers.registry import KINDS
from hstf.experiment.cases import Split, read_cases, refuse_few_patients
from hstf.experiment.reuse import check_reuse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``hstf config``."""
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument(
        "--show", action="store_true", help="print the configuration with all defaults"
    )
    action.add_argument(
        "--check", action="store_true", help="check the configuration and its case sheet"
    )
    action.add_argument("--schema", action="store_true", help="print the JSON schema")
    action.add_argument("--document", action="store_true", help="print what every key means")
    parser.add_argument("--config", type=Path, nargs="+", default=[], metavar="FILE",
        help="configuration file; of several, later ones win; none: the defaults")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Print what was asked for."""
    if args.schema:
        print(schema_text(), end="")
    elif args.document:
        print(document(), end="")
    elif args.show:
        print(config_text(load_config(*args.config)), end="")
    else:
        print(summary(load_config(*args.config)))
    return 0


def summary(config: Config) -> str:
    """One line about a configuration that is in order.

    Raises:
        HstfError: its case sheet, its comparison or what it reuses is not.
    """
    from hstf.experiment.comparison import cells

    sheet = read_cases(config)
    refuse_few_patients(sheet.of(Split.LABELLED), config.warmup.folds)
    check_reuse(config)
    cells(config)
    counts = ", ".join(f"{len(sheet.of(split))} {split}" for split in Split)
    regions = f"; regions {', '.join(config.regions)}" if config.regions else ""
    classes = ", ".join(config.class_names) + regions
    return (
        f"{config.experiment}: in order; {counts} cases; {config.rounds} rounds; classes {classes}"
    )


def schema_text() -> str:
    """The JSON schema of the configuration, for editors that check YAML as it is written."""
    return json.dumps(Config.model_json_schema(), indent=2) + "\n"


def document() -> str:
    """``config/README.md``."""
    template = files("hstf.config").joinpath("configuration.md").read_text(encoding="utf-8")
    introduction = template.replace("{kinds}", "\n".join(_kinds()))
    return "\n".join([introduction, *_methods(), *_section("The experiment", Config)])


def _kinds() -> Iterator[str]:
    """The table of what ``hstf import`` reads."""
    yield "| kind | folder |\n|---|---|"
    for name, text in KINDS.items():
        yield f"| `{name}` | {text} |"


def _methods() -> Iterator[str]:
    """The table of methods and what each sets."""
    yield "### The methods\n\n| `method` | what it is | what it sets |\n|---|---|---|"
    for name, preset in METHODS.items():
        switches = ", ".join(
            f"`{key}: {json.dumps(value)}`" for key, value in _flat(preset.overrides)
        )
        yield f"| `{name}` | {preset.description} | {switches or 'nothing'} |"
    yield ""


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``section.key`` and value of nested ``values``."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _section(title: str, section: type[Section]) -> Iterator[str]:
    yield f"### {title}\n"
    if section is not Config:
        yield f"{_one_line(section.__doc__)}\n"
    yield "| key | default | values | meaning |\n|---|---|---|---|"
    nested = {name: _nested(field) for name, field in section.model_fields.items()}
    for name, field in section.model_fields.items():
        if nested[name] is None:
            yield f"| `{name}` | {_default(field)} | {_values(field)} | {_one_line(field.description)} |"
    yield ""
    prefix = "" if section is Config else title.strip("`").rstrip(":") + "."
    for name, inner in nested.items():
        if inner is not None:
            yield from _section(f"`{prefix}{name}:`", inner)


def _nested(field: FieldInfo) -> type[Section] | None:
    """The section that ``field`` holds, if it holds one."""
    kinds = [field.annotation, *get_args(field.annotation)]
    return next(
        (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None
    )


def _default(field: FieldInfo) -> str:
    text = json.dumps(field.default, default=list)
    return f"`{text}`"


def _values(field: FieldInfo) -> str:
    """Type and bounds of a key."""
    return ", ".join([_kind(field.annotation), *_bounds(field.metadata)])


def _bounds(rules: Iterable[Any]) -> list[str]:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return [f"{signs[k]} {getattr(rule, k)}" for rule in rules for k in signs if hasattr(rule, k)]


def _kind(annotation: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        rules = [
            rule
            for field in arguments[1:]
            if isinstance(field, FieldInfo)
            for rule in field.metadata
        ]
        return " ".join([_kind(arguments[0]), *_bounds(rules)])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(kind) for kind in arguments)
    if origin is tuple:
        return (
            f"list of {_kind(arguments[0])}"
            if Ellipsis in arguments
            else f"{len(arguments)} × {_kind(arguments[0])}"
        )
    if origin is dict:
        return f"map of {_kind(arguments[0])} to {_kind(arguments[1])}"
    names = {
        int: "whole number",
        float: "number",
        str: "text",
        bool: "true or false",
        type(None): "null",
        Any: "anything",
    }
    return names.get(annotation) or _one_line(getattr(annotation, "__name__", str(annotation)))


def _one_line(text: str | None) -> str:
    """``text`` for a cell of a Markdown table."""
    return " ".join((text or "").split()).replace("``", "`").replace("|", "\\|")
