"""``hstf config``: show and check a configuration, and write down what every key means.

``config/README.md`` and ``workflow/schemas/config.schema.json`` come from here, so they cannot differ from the classes.
"""

import argparse
import json
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from hstf.cases import Split, read_cases, refuse_few_patients
from hstf.config import Config, load_config
from hstf.config.methods import METHODS
from hstf.config.section import Section
from hstf.importers import KINDS
from hstf.reuse import check_reuse

HEADER = "# The whole configuration, defaults included. Written by the workflow: edit config/ instead.\n"

INTRODUCTION = """\
# Configuration

`config.yaml` is the demo. Another experiment is another file beside it:

```
snakemake --cores 8 --configfile config/hippocampus.yaml
```

- A file with its own `cases:` stands alone, over the defaults below. A file without changes the demo. Of several files after
  `--configfile`, later ones win; `--config rounds=3` wins over all of them.
- Files are merged key by key; `labels`, `regions` and `modalities` are replaced as a whole.
- Unknown keys are refused. `hstf config --check --config FILE` checks a file and its case sheet, and
  `hstf config --show --config FILE` prints it with all defaults.
- An edit reruns exactly what depends on it: a stage depends on its own section and on the keys that are said to be for it.
- Paths are relative to the folder in which `snakemake` is started.

## From a folder to a case sheet

```
hstf import brats data/brats --output config/mine.yaml --labelled 25 --test 60
```

This reads names and headers, prints what it found and what it left out and why, and writes `config/mine.yaml`, commented,
and `config/mine/cases.csv`. Then run `snakemake --cores 8 check --configfile config/mine.yaml` and,
when it finds no fault, the same without `check`. If anything is wrong with the folder, nothing is written and every fault
is named. Kinds of folder:

{kinds}

- `--labelled N` and `--test N` draw so many patients, spread over sites and spacings (`--seed` draws others); those of a
  smaller N are among those of a larger one. A file instead of N names them. The labels of all other cases are withheld:
  `check` and `evaluate` alone read them. A test set of the owners is kept.
- `--test-site NAME` keeps a whole hospital for testing: none of its scans is learned from (leave one site out). Without it,
  and with scans of that hospital among the unlabelled ones, the student learns from what they look like;
  `student.augmentation.fourier_probability` helps there.
- `--order FILE` takes the first patients of a list as labelled and the last as test; `--split FILE` takes the split of a
  table with `case_id` (or `group`) and `split`, as a case sheet is.
- `--modalities t1=mr t2=mr` and `--labels liver=1 lesion=2` say what names do not tell (`folder` and `bids`); in a `folder`
  the images of a case are then `<case>_t1.nii.gz` and `<case>_t2.nii.gz`.
- `--patient REGEX` and `--site REGEX` find patient and site in a name (`folder`); `patient003`, `sub-01` are found without.
- `--extract FOLDER` is for 4D files whose fourth axis holds channels, as in some tasks of the decathlon: the workflow reads
  one 3D volume a file, so each channel is written there. ACDC's series over time (`_4d`) are no channels and are left out.
- `--leave-out-faulty` imports the sound cases where others are faulty; `--force` replaces an earlier import.
- `--sheet FILE` writes the case sheet alone, for a configuration that exists, as those below.

Volumes are NIfTI (`.nii.gz`, `.nii`), MetaImage (`.mha`) or NRRD (`.nrrd`). DICOM is refused: convert it with
`dcm2niix -z y -o OUTPUT FOLDER`. `hstf phantom --layout KIND` writes synthetic scans in the form of each kind.

These are ready, with the settings of the semi-supervised literature, once the scans of their owners lie in the folder:

| file | data | labelled | scans and case sheet |
|---|---|---|---|
| `acdc.yaml` | ACDC: heart, cine MR, 10 mm slices | 3 or 7 patients | `data/acdc`, `acdc/acdc_<n>.csv` |
| `brats.yaml` | BraTS: gliomas, four MR modalities | 25 or 50 | `data/brats`, by the import that the file names |
| `lits.yaml` | LiTS: liver and its lesions, CT | 13 | `data/lits`, by the import that the file names |
| `la.yaml` | left atrium, MR | 4, 8 or 16; 80: all | `data/la`, `la/la_<n>.csv` |
| `hippocampus.yaml` | decathlon, Task04: hippocampus, MR | 10 | `data/hippocampus`, `hippocampus/cases.csv` |

`la_cpu.yaml` goes on top of `la.yaml` where there is no GPU. `acdc`, `la` and `hippocampus` want `images/` and `labels/`
with the names that their sheets have: put or link the files there.

## The case sheet

A CSV file with a row for each case; relative paths start at the sheet's own folder.

| column | meaning |
|---|---|
| `case_id` | name of the case: letters, digits, `.`, `_`, `-` |
| one for each of `modalities` | the image, a volume; `image` unless `modalities` says other |
| `label` | the label, a volume: of labelled and test cases; of unlabelled ones in a benchmark, read by `evaluate` alone |
| `split` | `labelled`, `unlabelled` or `test` |
| `group` | optional: the patient; cases of a patient never straddle a split or a fold |
| `site` | optional: where the scan comes from; the report shows scores and pseudo-labels by site |

## Scribbles

A label may tell the class of some voxels alone. Give the others a value of their own and name it `ignore`, as in
`labels: {background: 0, liver: 1, ignore: 255}`; nothing is learned from them and nothing measured, but their image still
teaches consistency. A few curves of each class that a scan shows will do; the background needs some too, in each of its
tissues. Dense labels and scribbles may be mixed. From scribbles alone refinement does not learn how many components a
structure has, how small they are and whether they have holes, so that it leaves those of pseudo-labels as they are, and
predicted Dice is that of voxels that a person was sure of: trust its order, not its height. Label test cases densely: of
scribbled ones only overlap is scored, on the labelled voxels. `hstf phantom --scribbles` makes such scans.

In a correction under `overrides/`, too, what is ignored has no weight; the pseudo-label does not come back there.

## Every key

Generated from the classes in `hstf/config/` by `make docs`.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``hstf config``."""
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--show", action="store_true", help="print the configuration with all defaults")
    action.add_argument("--check", action="store_true", help="check the configuration and its case sheet")
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


def config_text(config: Config) -> str:
    """``config`` as YAML with every default, under a comment."""
    values = config.model_dump(mode="json")
    return HEADER + yaml.safe_dump(
        values, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None
    )


def summary(config: Config) -> str:
    """One line about a configuration that is in order.

    Raises:
        HstfError: its case sheet, its comparison or what it reuses is not.
    """
    from hstf.compare.cells import cells

    sheet = read_cases(config)
    refuse_few_patients(sheet.of(Split.LABELLED), config.warmup.folds)
    check_reuse(config)
    cells(config)
    counts = ", ".join(f"{len(sheet.of(split))} {split}" for split in Split)
    regions = f"; regions {', '.join(config.regions)}" if config.regions else ""
    classes = ", ".join(config.class_names) + regions
    return f"{config.experiment}: in order; {counts} cases; {config.rounds} rounds; classes {classes}"


def schema_text() -> str:
    """The JSON schema of the configuration, for editors that check YAML as it is written."""
    return json.dumps(Config.model_json_schema(), indent=2) + "\n"


def document() -> str:
    """``config/README.md``."""
    introduction = INTRODUCTION.replace("{kinds}", "\n".join(_kinds()))
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
        switches = ", ".join(f"`{key}: {json.dumps(value)}`" for key, value in _flat(preset.overrides))
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
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


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
        rules = [rule for field in arguments[1:] if isinstance(field, FieldInfo) for rule in field.metadata]
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
