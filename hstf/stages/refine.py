"""``hstf refine``, pseudo-label refinement (PLR): predictions become labels, voxel weights and verdicts, on disk.

A shard's cases are refined on the planned grid (:mod:`hstf.method.plr.refinement`) and written in native space with the source's
geometry. Without ``--shard`` the tables of the shards are joined into ``refine.csv``, the least certain case first; there
the round's best cases are chosen among all. Where ``lesions:`` names any, ``<case>.lesions.csv`` tells what became of
each component, and ``lesions.csv`` joins them.
"""

import argparse
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.cases import Case
from hstf.experiment.context import joined_rows, unlabelled_shard
from hstf.experiment.dependencies import stage_parameters
from hstf.experiment.layout import Layout
from hstf.experiment.schedule import pseudo_labelled
from hstf.imaging.arrays import open_array
from hstf.imaging.geometry import Geometry
from hstf.imaging.label_values import class_indices
from hstf.imaging.overlays import draw_overlay, overlay_path, prune_overlays
from hstf.imaging.regions import mask, membership
from hstf.imaging.volumes import blank_volume, read_label, write_like
from hstf.method.plr.calibration import Calibration
from hstf.method.plr.refinement import (
    Refined,
    TeacherOutput,
    Verdict,
    judge,
    refine_case,
    select_best,
)
from hstf.method.plr.weights import cap_weight, mean_weight
from hstf.runtime.files import read_csv, read_json, sha256_file, write_csv
from hstf.runtime.shards import CaseWork, read_table, row_of, run_shard
from hstf.scoring.metrics import structure_dice
from hstf.stages.arguments import add_round_and_shard, run_shard_or_join

STEPS = ("low_confidence", "components", "lesions", "possible_lesions", "holes", "previous_round")
LESION_COLUMNS = (
    "case_id", "class", "component", "volume_ml", "probability", "kept", "mean_probability", "agreement", "x_mm", "y_mm",
    "z_mm",
)  # fmt: skip


add_arguments = add_round_and_shard


def run(args: argparse.Namespace) -> int:
    return run_shard_or_join(args, refine, merge_refined)


def refine(config: Config, number: int, shard: str) -> int:
    """Refine the cases of ``shard`` in round ``number``; returns how many were computed, the others being up to date.

    Raises:
        HstfError: a wrong round or shard; files that the stage reads are missing or changed.
    """
    cases = unlabelled_shard(config, number, shard)
    layout, round_config = Layout.of(config), config.for_round(number)
    tables = {
        "teacher": read_table(layout.teacher_table(number, shard)),
        "preprocessed": read_table(layout.preprocessed_table(shard), verify=False),
    }
    looks_back = (
        number > 1 and pseudo_labelled(config, number - 1) and round_config.refine.previous_round
    )
    if looks_back:
        tables["previous labels"] = read_table(layout.labels_shard_table(number - 1, shard))
    calibration = Calibration.load(layout.calibration)
    fingerprint = sha256_file(layout.calibration)
    works = []
    for case in cases:
        writer = CaseWriter(
            round_config, number, case, calibration,
            layout.labels(number - 1) / f"{case.case_id}.nii.gz" if looks_back else None,
        )  # fmt: skip
        works.append(
            CaseWork(
                case.case_id,
                {"calibration": fingerprint}
                | {name: row_of(rows, case, name) for name, rows in tables.items()},
                writer.outputs,
                writer.write,
            )
        )
    table = layout.pseudo_labels_table(number, shard)
    computed = run_shard(
        table,
        stage_parameters(config, "refine", number),
        works,
        columns(config),
        f"refine {number} {shard}",
    )
    prune_overlays(layout.pseudo_labels(number), read_csv(table), round_config.refine.overlays)
    return computed


def columns(config: Config) -> list[str]:
    """Columns of the table of pseudo-labels, beside case_id, files and sha256."""
    names = config.structures
    return [
        "predicted_dice", "predicted_dice_low", "predicted_dice_high", "accepted", "reason",
        *STEPS, "lesions_kept", "lesions_dropped", "previous_round_dice", "weight_mean",
        *(f"predicted_dice_{name}" for name in names),
        *(f"volume_ml_{name}" for name in names),
    ]  # fmt: skip


@dataclass(frozen=True)
class CaseWriter:
    """Refines one case and writes its files."""

    config: Config
    """As it is in this round."""
    number: int
    case: Case
    calibration: Calibration
    previous: Path | None
    """Label of the previous round, where the refinement looks back; a rejected case has no such file."""

    @property
    def outputs(self) -> list[Path]:
        folder, name = Layout.of(self.config).pseudo_labels(self.number), self.case.case_id
        lesions = [folder / f"{name}.lesions.csv"] if self.config.lesions else []
        return [folder / f"{name}.nii.gz", folder / f"{name}.weight.nii.gz", *lesions]

    def write(self) -> dict[str, Any]:
        """Write label, weight and overlay; returns the row of the table."""
        config, layout = self.config, Layout.of(self.config)
        preprocessed = layout.preprocessed / self.case.case_id
        geometry = Geometry.from_json(read_json(preprocessed / "geometry.json"))
        output = TeacherOutput.read(layout.teacher(self.number) / self.case.case_id)
        structures = config.structures
        refined = refine_case(
            output, self.calibration, structures, prod(geometry.spacing), config.refine
        )
        present = {
            name: bool(mask(refined.label, members).any()) for name, members in structures.items()
        }
        verdict = judge(refined.features, present, self.calibration, config.refine)
        for path in self.outputs[2:]:
            write_csv(path, self._lesion_rows(refined, geometry), LESION_COLUMNS)
        native = self._write_native(refined, geometry)
        if config.refine.overlays:
            draw_overlay(
                overlay_path(layout.pseudo_labels(self.number), self.case.case_id),
                open_array(preprocessed / "image.b2nd"), refined.label, refined.weight, geometry.spacing,
                f"{self.case.case_id}   predicted Dice {verdict.mean:.3f} ({verdict.low:.3f} to {verdict.high:.3f})",
                f"{'passes' if verdict.accepted else 'REJECTED'}: {verdict.reason}",
            )  # fmt: skip
        return _row(verdict, refined) | native

    def _lesion_rows(self, refined: Refined, geometry: Geometry) -> list[dict[str, Any]]:
        """Each component of the lesions, with its place in the coordinates of the image file (mm)."""
        return [
            {
                "case_id": self.case.case_id,
                "class": judged.structure,
                "component": judged.component.number,
                "volume_ml": judged.component.volume_ml,
                "probability": judged.probability,
                "kept": int(judged.kept),
                "mean_probability": judged.component.probability,
                "agreement": judged.component.agreement,
                **dict(
                    zip(
                        ("x_mm", "y_mm", "z_mm"),
                        geometry.grid_to_mm(judged.component.centre),
                        strict=True,
                    )
                ),
            }
            for judged in refined.lesions
        ]

    def _write_native(self, refined: Refined, geometry: Geometry) -> dict[str, Any]:
        source = blank_volume(self.case.images[0])
        label = geometry.probabilities_to_native(refined.probabilities)
        weight = geometry.scalar_to_native(refined.weight, order=1, fill=255)
        columns = self._look_back(label, weight)
        values = np.array(self.config.class_values, np.uint8)
        for path, data in zip(self.outputs[:2], (values[label], weight), strict=True):
            write_like(path, data, source)
        voxels = np.bincount(label.reshape(-1), minlength=len(values))
        structures = self.config.structures
        volumes = membership(structures) @ voxels * prod(source.spacing) / 1000
        return columns | {
            "weight_mean": mean_weight(label, weight),
            **{
                f"volume_ml_{name}": float(ml) for name, ml in zip(structures, volumes, strict=True)
            },
        }

    def _look_back(self, label: np.ndarray, weight: np.ndarray) -> dict[str, Any]:
        """Lower ``weight``, in place, where the previous round's label differs; all in native space."""
        if self.previous is None or not self.previous.is_file():
            return {"previous_round": 0, "previous_round_dice": None}
        previous = class_indices(read_label(self.previous).data, self.config, self.previous)
        differs = (label != previous) & (previous < len(self.config.class_names))
        cap_weight(weight, differs, self.config.refine.changed_weight)
        return {
            "previous_round": int(np.count_nonzero(differs)),
            "previous_round_dice": float(
                np.nanmean(structure_dice(label, previous, self.config.structures))
            ),
        }


def _row(verdict: Verdict, refined: Refined) -> dict[str, Any]:
    kept = sum(lesion.kept for lesion in refined.lesions)
    return {
        "predicted_dice": verdict.mean,
        "predicted_dice_low": verdict.low,
        "predicted_dice_high": verdict.high,
        "accepted": int(verdict.accepted),
        "reason": verdict.reason,
        **{step: refined.changed.get(step, 0) for step in STEPS},
        "lesions_kept": kept,
        "lesions_dropped": len(refined.lesions) - kept,
        **{f"predicted_dice_{name}": value for name, value in verdict.predicted.items()},
    }


def merge_refined(config: Config, number: int) -> None:
    """Join the tables of the shards into ``refine.csv``, lowest predicted Dice first, and select the round's cases.

    Raises:
        HstfError: a shard's table is missing.
    """
    layout = Layout.of(config)
    rows = joined_rows(
        config, partial(layout.pseudo_labels_table, number), layout.pseudo_labels(number).name
    )
    section = config.for_round(number).refine
    if section.select_cases:
        select_best(rows, section.share_in(number))
    rows.sort(key=lambda row: (float(row["predicted_dice"]), row["case_id"]))
    write_csv(layout.refine(number), rows, ["case_id", *columns(config), "files", "sha256"])
    if config.lesions:
        paths = [layout.pseudo_labels(number) / f"{row['case_id']}.lesions.csv" for row in rows]
        write_csv(
            layout.lesions(number),
            (line for path in paths for line in read_csv(path)),
            LESION_COLUMNS,
        )
    rejected = sum(row["accepted"] == "0" for row in rows)
    print(
        f"refine {number}: {len(rows) - rejected} pseudo-labels accepted, {rejected} rejected",
        flush=True,
    )
