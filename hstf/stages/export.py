"""``hstf export``: the last round's model as one folder that ``hstf predict`` takes anywhere; it holds no code.

``model.json`` says all that prediction needs, ``members/`` holds the weights, ``configs/metadata.json`` describes the
network in the form of a MONAI bundle, ``README.md`` is the model card.
"""

import argparse
import importlib.metadata
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hstf import __version__
from hstf.config.evaluate import PredictConfig
from hstf.config.load import load_config
from hstf.config.preprocess import PreprocessConfig
from hstf.experiment.cases import CASE_ID, Split
from hstf.experiment.context import StageContext
from hstf.experiment.plan import Plan
from hstf.experiment.tables import LABELS
from hstf.method.plr.anatomy_rules import AnatomyRules
from hstf.method.plr.calibration import Calibration
from hstf.runtime.errors import HstfError, join_problems
from hstf.runtime.files import read_json, sha256_file, write_json, write_text

FORMAT = 2
METADATA_SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
PRIVATE = {
    "trained_on",
    "held_out",
}  # facts kept with the weights that name cases; they do not leave the site


def run(args: argparse.Namespace) -> int:
    config = load_config(*args.config)
    folder = export(StageContext.of(config, "export", config.rounds))
    print(
        f"exported to {folder}; segment with: hstf predict --model {folder} --input SCANS --output SEGMENTATIONS"
    )
    return 0


def export(context: StageContext) -> Path:
    """Write the model of the last round to ``Layout.export``, which appears whole or not at all.

    Raises:
        HstfError: weights of the last round are missing; all are named.
    """
    layout = context.layout
    number = context.round
    weights = {name: layout.weights(number, name) for name in context.schedule.members(number)}
    missing = [str(path) for path in weights.values() if not path.is_file()]
    if missing:
        raise join_problems("the last round has no model yet; run the workflow first.", missing)
    with _whole_folder(layout.export) as folder:
        content = _content(context, _copy_weights(weights, folder))
        write_json(folder / "model.json", content)
        write_json(folder / "configs" / "metadata.json", bundle_metadata(content))
        write_text(folder / "README.md", model_card(content))
    return layout.export


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` that takes its place when the block ends well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(4)
    new, old = (target.with_name(f".{kind}-{mark}-{target.name}") for kind in ("tmp", "old"))
    try:
        new.mkdir()
        yield new
        if target.exists():
            target.rename(old)
        new.rename(target)
    finally:
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _copy_weights(weights: Mapping[str, Path], folder: Path) -> list[dict[str, Any]]:
    """Save each member without the names of cases; returns its entry in ``model.json``."""
    from hstf.models.registry import load_network, save_network

    entries = []
    for name, path in weights.items():
        network, meta = load_network(path)
        target = folder / "members" / f"{name}.pt"
        save_network(
            target, network, {key: value for key, value in meta.items() if key not in PRIVATE}
        )
        entries.append(
            {"name": name, "sha256": sha256_file(target), "trained_as": sha256_file(path)}
        )
    return entries


def _content(context: StageContext, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """``model.json``: what prediction needs, and where the model comes from."""
    layout = context.layout
    config = context.config
    known = None
    if config.predict.clean:
        known = Calibration.load(layout.calibration).applicable_rules(config.structures)
    return {
        "format": FORMAT,
        "experiment": context.experiment,
        "members": entries,
        "labels": dict(zip(config.class_names, config.class_values, strict=True)),
        "modalities": dict(config.modalities),
        "predict": config.predict.model_dump(mode="json"),
        "preprocess": config.preprocess.model_dump(mode="json"),
        "plan": read_json(layout.plan),
        "structure": known.model_dump(mode="json") if known else None,
        "provenance": {
            "hstf": __version__,
            "round": context.round,
            "steps": (config.student if context.round else config.warmup).steps,
            "cases": _case_counts(context),
            "packages": {
                name: importlib.metadata.version(name)
                for name in ("torch", "monai", "numpy", "nibabel")
            },
            "scores": _scores(layout.evaluation_summary(context.round)),
        },
    }


def _case_counts(context: StageContext) -> dict[str, int]:
    """Labelled, unlabelled and test cases, and the pseudo-labels of the last round by source."""
    sheet = context.sheet
    table = context.layout.labels_table(context.round)
    counts = {str(split): len(sheet.of(split)) for split in Split}
    for row in LABELS.records(table) if table.is_file() else []:
        key = f"pseudo-labels {row['source']}"
        counts[key] = counts.get(key, 0) + 1
    return counts


def _scores(summary: Path) -> dict[str, Any] | None:
    """Test Dice of the model, if it was evaluated: the mean with its interval, and each class."""
    if not summary.is_file():
        return None
    content = read_json(summary)
    classes = {name: values["dice"] for name, values in content["classes"].items()}
    return {"cases": content["cases"], "dice": content["dice"], "classes": classes}


def bundle_metadata(content: Mapping[str, Any]) -> dict[str, Any]:
    """``metadata.json`` of a MONAI bundle for the ``content`` of ``model.json``."""
    provenance, plan = content["provenance"], content["plan"]
    classes, modalities = list(content["labels"]), content["modalities"]
    version = f"1.0.{provenance['round']}"
    patch = [int(n) for n in plan["patch_size"]]
    kinds = ", ".join(dict.fromkeys(kind.upper() for kind in modalities.values()))
    return {
        "schema": METADATA_SCHEMA,
        "version": version,
        "changelog": {version: f"round {provenance['round']} of self-training"},
        "monai_version": provenance["packages"]["monai"],
        "pytorch_version": provenance["packages"]["torch"],
        "numpy_version": provenance["packages"]["numpy"],
        "required_packages_version": {
            "nibabel": provenance["packages"]["nibabel"],
            "hstf": provenance["hstf"],
        },
        "name": content["experiment"],
        "task": f"3D segmentation of {', '.join(classes[1:])}",
        "description": f"Segmentation network of the experiment {content['experiment']}, trained by self-training.",
        "authors": "see the owner of this folder",
        "copyright": "see the owner of this folder",
        "data_type": "nifti",
        "intended_use": INTENDED_USE,
        "network_data_format": {
            "inputs": {"image": _tensor("magnitude", kinds, list(modalities), patch)},
            "outputs": {"pred": _tensor("labels", "n/a", classes, patch)},
        },
    }


def _tensor(form: str, modality: str, channels: list[str], patch: list[int]) -> dict[str, Any]:
    return {
        "type": "image",
        "format": form,
        "modality": modality,
        "num_channels": len(channels),
        "spatial_shape": patch,
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {str(index): name for index, name in enumerate(channels)},
    }


INTENDED_USE = (
    "Research. Not a medical device; its output needs a physician's review before any clinical use."
)

CARD = """# {experiment}

Segments {classes} in 3D scans ({modalities}).

    hstf predict --model THIS_FOLDER --input scan.nii.gz --output segmentations/

| | |
|---|---|
| method | self-training, round {round}; the mean of {members} |
| training cases | {cases} |
| grid | {spacing} mm, patch {patch} voxels |
| label values | {labels} |
| made with | hstf {hstf}, torch {torch} |

## Accuracy on the test cases

{scores}

## Intended use

{use}
It knows scans like those it was trained on: other scanners, protocols, fields of view and patients are untested.
"""


def model_card(content: Mapping[str, Any]) -> str:
    """``README.md`` of an exported model."""
    provenance, plan = content["provenance"], content["plan"]
    labels = content["labels"]
    names = [entry["name"] for entry in content["members"]]
    return CARD.format(
        experiment=content["experiment"],
        classes=", ".join(list(labels)[1:]),
        modalities=", ".join(
            f"{name}: {kind.upper()}" for name, kind in content["modalities"].items()
        ),
        round=provenance["round"],
        members=f"{len(names)} members ({', '.join(names)})"
        if len(names) > 1
        else f"one member ({names[0]})",
        cases=", ".join(f"{count} {kind}" for kind, count in provenance["cases"].items()),
        spacing=" x ".join(f"{mm:g}" for mm in plan["spacing"]),
        patch=" x ".join(str(n) for n in plan["patch_size"]),
        labels=", ".join(f"{value} {name}" for name, value in labels.items()),
        hstf=provenance["hstf"],
        torch=provenance["packages"]["torch"],
        scores=_score_lines(provenance["scores"]),
        use=INTENDED_USE,
    )


def _score_lines(scores: Mapping[str, Any] | None) -> str:
    if scores is None or not scores["cases"]:
        return "Not measured: there were no test cases."
    lines = ["| class | mean Dice | standard deviation | cases |", "|---|---|---|---|"]
    for name, dice in scores["classes"].items():
        lines.append(
            f"| {name} | {_number(dice['mean'])} | {_number(dice['sd'])} | {dice['cases']} |"
        )
    overall = scores["dice"]
    interval = f"{_number(overall['mean'])} (95% interval {_number(overall['low'])} to {_number(overall['high'])})"
    return "\n".join(
        [*lines, "", f"Mean over classes: {interval}, {overall['patients']} patients."]
    )


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


@dataclass(frozen=True)
class ExportedModel:
    """An exported folder, checked."""

    folder: Path
    weights: list[Path]
    labels: dict[str, int]
    """File value of each class, in the order of the network's outputs."""
    modalities: dict[str, str]
    predict: PredictConfig
    preprocess: PreprocessConfig
    plan: Plan
    known: AnatomyRules | None
    """What segmentations are brought to."""

    @classmethod
    def read(cls, folder: Path) -> "ExportedModel":
        """Read ``folder`` and check its weights against their SHA-256.

        Raises:
            HstfError: no exported model, one of another format, or files that were changed.
        """
        content = read_model_json(folder)
        try:
            weights = [
                folder / "members" / f"{_plain(entry['name'])}.pt" for entry in content["members"]
            ]
            digests = [entry["sha256"] for entry in content["members"]]
            model = cls(
                folder, weights, dict(content["labels"]), dict(content["modalities"]),
                PredictConfig.model_validate(content["predict"]),
                PreprocessConfig.model_validate(content["preprocess"]), Plan.model_validate(content["plan"]),
                AnatomyRules.model_validate(content["structure"]) if content["structure"] else None,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise HstfError(
                f"{folder / 'model.json'}: is damaged ({error!r}). Export the model again."
            ) from error
        faults = [
            fault
            for path, digest in zip(weights, digests, strict=True)
            for fault in _weight_faults(path, digest)
        ]
        if faults or not weights:
            raise join_problems(
                f"{folder}: not the model that was exported.", faults or ["it has no members"]
            )
        return model


def read_model_json(folder: Path) -> dict[str, Any]:
    """``model.json`` of an exported folder.

    Raises:
        HstfError: no exported folder, or written by another version's format.
    """
    path = folder / "model.json"
    if not path.is_file():
        raise HstfError(
            f"{folder}: holds no model.json. Give a folder that `hstf export` wrote to --model."
        )
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise HstfError(
            f"{path}: is not of format {FORMAT}, which hstf {__version__} reads. Export the model again."
        )
    return content


def _plain(name: str) -> str:
    if not CASE_ID.fullmatch(name):
        raise ValueError(f"the member name {name!r} is no plain name")
    return name


def _weight_faults(path: Path, digest: str) -> list[str]:
    if not path.is_file():
        return [f"{path} is missing"]
    return (
        []
        if sha256_file(path) == digest
        else [f"{path} differs from what model.json says; copy the folder again"]
    )
