"""``manifest.json``: what an experiment has, for programs.

All paths are relative to the folder of the experiment. Columns and keys of the files that it names
are described by the schemas in ``docs/reference/schemas/``.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from hstf import __version__
from hstf.experiment.cases import Split
from hstf.experiment.context import StageContext
from hstf.experiment.score_tables import ROUNDS
from hstf.runtime.documents import Document, Part
from hstf.runtime.errors import HstfError
from hstf.scoring.round_choice import choose_round

FORMAT = 1
"""Version of the content. Keys may be added without a new version."""


class ManifestRound(Part):
    """A round that has been evaluated."""

    round: int
    model: str
    """``warm-up`` or ``student``."""
    weights: dict[str, str]
    """File of each ensemble member."""
    tables: dict[str, str]
    """Tables and documents of the round that exist."""
    labelled: int
    pseudo_labelled: int
    test_cases: int
    dice: float | None
    """Mean test Dice, 0 to 1."""
    dice_low: float | None
    dice_high: float | None
    """The ends of its 95% interval."""
    structures: dict[str, float | None]
    """Mean test Dice of each class or region."""


class ManifestExport(Part):
    """The model that is exported."""

    folder: str
    round: int
    reason: str


class Manifest(Document):
    """``manifest.json``."""

    stage: ClassVar[str] = "report"

    format: int
    hstf: str
    """Version of HSTF."""
    experiment: str
    method: str
    seed: int
    classes: dict[str, int]
    """Value of each class in the files."""
    regions: dict[str, list[str]]
    """Classes of each region."""
    modalities: dict[str, str]
    cases: dict[str, int]
    """Number of cases of each split."""
    files: dict[str, str]
    """Files of the whole experiment that exist."""
    rounds: list[ManifestRound]
    export: ManifestExport | None
    """None if files of the evaluation cannot be read; the report names them."""


def write_manifest(context: StageContext) -> Path:
    """Write ``manifest.json``, after ``rounds.csv``.

    Returns:
        The file.
    """
    target = context.layout.manifest
    manifest(context).save(target)
    return target


def manifest(context: StageContext) -> Manifest:
    """Return what the experiment has so far."""
    config = context.config
    layout = context.layout
    regions = {name: list(classes) for name, classes in (config.regions or {}).items()}
    return Manifest(
        format=FORMAT,
        hstf=__version__,
        experiment=context.experiment,
        method=config.method,
        seed=config.seed,
        classes=dict(zip(config.class_names, config.class_values, strict=True)),
        regions=regions,
        modalities=dict(config.modalities),
        cases={str(split): len(context.cases(split)) for split in Split},
        files=_existing(
            layout.root,
            {
                "configuration": layout.config,
                "check": layout.check,
                "fingerprint": layout.fingerprint,
                "plan": layout.plan,
                "calibration": layout.calibration,
                "external_weights": layout.external_weights,
                "rounds": layout.rounds_table,
                "report": layout.report,
            },
        ),
        rounds=[_round(context, row) for row in _evaluated(layout.rounds_table)],
        export=_export(context),
    )


def _evaluated(table: Path) -> list[dict[str, Any]]:
    return ROUNDS.records(table) if table.is_file() else []


def _export(context: StageContext) -> ManifestExport | None:
    layout = context.layout
    try:
        choice = choose_round(context)
    except HstfError:
        return None
    return ManifestExport(
        folder=_relative(layout.root, layout.export),
        round=choice.round,
        reason=choice.reason,
    )


def _round(context: StageContext, row: Mapping[str, Any]) -> ManifestRound:
    layout = context.layout
    number = row["round"]
    weights = {}
    for member in context.schedule.members(number):
        weights[member] = _relative(layout.root, layout.weights(number, member))
    dices = {name: row[f"dice_of_{name}"] for name in context.config.structures}
    tables = {
        "monitor": layout.monitor(number),
        "evaluation_cases": layout.evaluation_cases(number),
        "evaluation_summary": layout.evaluation_summary(number),
    }
    # An earlier run may have left files of pseudo-labels that the round does not learn from.
    if context.schedule.has_pseudo_labels(number):
        pseudo_labels = {"refine": layout.refine(number), "labels": layout.labels_table(number)}
        tables = pseudo_labels | tables
        # Otherwise, the calibration of the experiment holds for the round.
        if context.schedule.external(context.config, number):
            tables["calibration"] = layout.round_calibration(number)
    return ManifestRound(
        round=number,
        model=row["model"],
        weights=weights,
        tables=_existing(layout.root, tables),
        labelled=row["labelled"],
        pseudo_labelled=row["pseudo_labelled"],
        test_cases=row["test_cases"],
        dice=row["dice"],
        dice_low=row["dice_low"],
        dice_high=row["dice_high"],
        structures=dices,
    )


def _existing(root: Path, paths: Mapping[str, Path]) -> dict[str, str]:
    return {name: _relative(root, path) for name, path in paths.items() if path.is_file()}


def _relative(root: Path, path: Path) -> str:
    """Return a path from the folder of the experiment; a reused warm-up is outside of it."""
    return Path(os.path.relpath(path, root)).as_posix()
