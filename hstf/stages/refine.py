"""``hstf refine``, pseudo-label refinement (PLR): predictions become labels, weights and verdicts.

The cases of a shard are refined on the planned grid (:mod:`hstf.method.plr.refinement`) and written
in native space with the header of the source. The target for the training is stored beside them.
Without ``--shard`` the tables of the shards are joined into ``refine.csv``, the lowest predicted
Dice first, and the best cases of the round are selected. If the configuration has lesions,
``<case>.lesions.csv`` lists the components, and ``lesions.csv`` joins these lists.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.cases import Case, names_of
from hstf.experiment.context import StageContext
from hstf.experiment.round_tables import LABELS, LESIONS, REFINE, TEACHER
from hstf.experiment.scan_tables import PREPROCESSED
from hstf.imaging.affines import steps_of
from hstf.imaging.arrays import open_array, write_array
from hstf.imaging.geometry import GEOMETRY, Geometry
from hstf.imaging.label_values import class_indices
from hstf.imaging.overlays import draw_overlay, overlay_path, prune_overlays
from hstf.imaging.probabilities import apply_temperature
from hstf.imaging.regions import membership, structure_mask
from hstf.imaging.spacing import voxel_mm3
from hstf.imaging.volumes import blank_volume, read_label, write_like
from hstf.method.external_weights import Mixture, calibration_path
from hstf.method.plr.calibration import Calibration
from hstf.method.plr.lesion_bounds import LesionBounds
from hstf.method.plr.refinement import Refined, Verdict, judge, refine_case, select_best
from hstf.method.plr.targets import grid_weight, training_target
from hstf.method.plr.weights import cap_weight, mean_weight
from hstf.method.tta_summary import TtaSummary
from hstf.runtime.shards import CaseWork, digest_of, read_shard, refuse_changed_files, run_shard
from hstf.runtime.stamps import sha256_once
from hstf.scoring.averages import mean
from hstf.scoring.confusion import structure_dice
from hstf.scoring.dropped_lesions import dropped_lesions

STEPS = (
    "low_confidence",
    "components",
    "lesions",
    "possible_lesions",
    "holes",
    "previous_round",
)
"""Columns with the number of voxels that each step of the refinement changed."""


def run(args: argparse.Namespace) -> int:
    """Refine a shard, or join the tables of all shards."""
    context = StageContext.of_arguments(args, "refine")
    if args.shard is None:
        merge_refined(context)
    else:
        refine(context, args.shard)
    return 0


def refine(context: StageContext, shard: str) -> int:
    """Refine the cases of a shard.

    Returns:
        The number of cases that were computed; the others were up to date.

    Raises:
        HstfError: if there is no such round or shard, or if files are missing or have changed.
    """
    cases = context.unlabelled_shard(shard)
    layout = context.layout
    number = context.round
    names = names_of(cases)
    preprocessed_table = layout.preprocessed_table(shard)
    tables = {
        "teacher": read_shard(TEACHER, layout.teacher_table(number, shard), names),
        "preprocessed": read_shard(PREPROCESSED, preprocessed_table, names),
    }
    if _uses_previous_round(context):
        previous_table = layout.labels_shard_table(number - 1, shard)
        tables["previous labels"] = read_shard(LABELS, previous_table, names)
    mixture = Mixture.of_shard(context, shard)
    path_of_calibration = calibration_path(context)
    calibration = Calibration.load(path_of_calibration)
    calibration_digest = sha256_once(path_of_calibration)
    bounds = _bounds(context)
    works = []
    for case in cases:
        inputs = {"calibration": calibration_digest, "lesion bounds": json.dumps(bounds)}
        for name, rows in tables.items():
            inputs[name] = digest_of(rows, case.case_id, name)
        inputs |= mixture.inputs(case.case_id)
        refinement = CaseRefinement(context, case, calibration, bounds, mixture)
        works.append(CaseWork(case.case_id, inputs, refinement.outputs, refinement.write))
    path = layout.pseudo_labels_table(number, shard)
    title = f"refine {number} {shard}"
    structures = list(context.config.structures)
    computed = run_shard(REFINE, path, context.parameters, works, title, structures=structures)
    ranked = sorted(REFINE.records(path), key=_certainty)
    ranked_cases = [row["case_id"] for row in ranked]
    prune_overlays(layout.pseudo_labels(number), ranked_cases, context.config.refine.overlays)
    return computed


def _bounds(context: StageContext) -> dict[str, float]:
    """Return the probability from which lesions are kept in this round, by structure."""
    if not context.config.lesions or not context.config.refine.judge_lesions:
        return {}
    return LesionBounds.load(context.layout.lesion_bounds(context.round)).probabilities


def _certainty(row: Mapping[str, Any]) -> tuple[bool, float]:
    """Return the key by which the least certain case comes first."""
    return row["accepted"], row["predicted_dice"]


def merge_refined(context: StageContext) -> None:
    """Join the tables of the shards into ``refine.csv`` and select the best cases of the round.

    Raises:
        HstfError: if the table of a shard is missing.
    """
    layout = context.layout
    number = context.round
    section = context.config.refine
    folder = layout.pseudo_labels(number)
    path_of = partial(layout.pseudo_labels_table, number)
    rows = context.joined_records(REFINE, path_of, folder.name)
    if section.select_cases:
        select_best(rows, section.accepted_fraction_in(number))
    rows.sort(key=lambda row: (row["predicted_dice"], row["case_id"]))
    REFINE.write(layout.refine(number), rows, list(context.config.structures))
    if context.config.lesions:
        lesions = []
        refuse_changed_files(rows, layout.refine(number), (".lesions.csv",))
        for row in rows:
            lesions += LESIONS.records(folder / f"{row['case_id']}.lesions.csv")
        LESIONS.write(layout.lesions(number), lesions)
        for sentence in dropped_lesions(lesions, context.config.lesions):
            print(f"refine {number}: warning: {sentence}.", flush=True)
    accepted = sum(row["accepted"] for row in rows)
    rejected = len(rows) - accepted
    print(f"refine {number}: {accepted} pseudo-labels accepted, {rejected} rejected", flush=True)


def _uses_previous_round(context: StageContext) -> bool:
    """Return whether the label of the previous round lowers voxel weights."""
    has_previous = context.schedule.has_pseudo_labels(context.round - 1)
    return has_previous and context.config.refine.previous_round


@dataclass(frozen=True)
class CaseRefinement:
    """Refines one case and writes its files."""

    context: StageContext
    case: Case
    calibration: Calibration
    bounds: Mapping[str, float]
    """Probability from which components of lesions are kept, by structure."""
    mixture: Mixture
    """External teachers that are mixed into the prediction."""

    @property
    def config(self) -> Config:
        """The configuration of the stage."""
        return self.context.config

    @property
    def outputs(self) -> list[Path]:
        """Label and weight in native space, the target on the grid, and a table of lesions."""
        folder = self.context.layout.pseudo_labels(self.context.round)
        name = self.case.case_id
        outputs = [
            folder / f"{name}.nii.gz",
            folder / f"{name}.weight.nii.gz",
            folder / f"{name}.target.b2nd",
        ]
        if self.config.lesions:
            outputs.append(folder / f"{name}.lesions.csv")
        return outputs

    def write(self) -> dict[str, Any]:
        """Write the files of the case and return its row of the table."""
        preprocessed = self.context.layout.preprocessed / self.case.case_id
        geometry = Geometry.load(preprocessed / GEOMETRY)
        teacher_folder = self.context.layout.teacher(self.context.round)
        ensemble = TtaSummary.load(teacher_folder / self.case.case_id)
        output = self.mixture.mixed(self.case.case_id, ensemble)
        structures = self.config.structures
        voxel_mm3 = prod(geometry.spacing)
        refined = refine_case(
            output,
            self.calibration,
            structures,
            voxel_mm3,
            self.config.refine,
            self.bounds,
        )
        present = {}
        for name, region_classes in structures.items():
            present[name] = bool(structure_mask(refined.label, region_classes).any())
        verdict = judge(refined.features, present, self.calibration, self.config.refine)
        if self.config.lesions:
            LESIONS.write(self.outputs[3], self._lesion_rows(refined, geometry))
        native = self._write_native(refined, geometry, output)
        if self.config.refine.overlays:
            self._draw(refined, verdict, geometry)
        return _row(verdict, refined) | native

    def _draw(self, refined: Refined, verdict: Verdict, geometry: Geometry) -> None:
        """Draw label and weights over the image, for the report.

        The verdict is not in the picture: :func:`merge_refined` may still change it.
        """
        name = self.case.case_id
        layout = self.context.layout
        interval = f"{verdict.low:.3f} to {verdict.high:.3f}"
        draw_overlay(
            overlay_path(layout.pseudo_labels(self.context.round), name),
            open_array(layout.preprocessed / name / "image.b2nd"),
            refined.label,
            refined.weight,
            geometry.spacing,
            name,
            f"predicted Dice {verdict.mean:.3f} ({interval})",
        )

    def _lesion_rows(self, refined: Refined, geometry: Geometry) -> list[dict[str, Any]]:
        """Return a row for each component of the lesions, with its centre in the image file."""
        rows = []
        for judged in refined.lesions:
            component = judged.component
            x, y, z = geometry.grid_to_mm(component.centre)
            rows.append(
                {
                    "case_id": self.case.case_id,
                    "class": judged.structure,
                    "component": component.number,
                    "volume_ml": component.volume_ml,
                    "probability": judged.probability,
                    "kept": judged.kept,
                    "mean_probability": component.probability,
                    "agreement": component.agreement,
                    "x_mm": x,
                    "y_mm": y,
                    "z_mm": z,
                }
            )
        return rows

    def _write_native(
        self, refined: Refined, geometry: Geometry, output: TtaSummary
    ) -> dict[str, Any]:
        """Write label, weight and target; return the columns that depend on them."""
        source = blank_volume(self.case.images[0])
        label = geometry.probabilities_to_native(refined.probabilities)
        weight = geometry.scalar_to_native(refined.weight, order=1, fill=255)
        columns = self._compare_with_previous_round(label, weight)
        values = np.array(self.config.class_values, np.uint8)
        write_like(self.outputs[0], values[label], source)
        write_like(self.outputs[1], weight, source)
        self._write_target(label, weight, geometry, output)
        voxels = np.bincount(label.reshape(-1), minlength=len(values))
        structures = self.config.structures
        volumes = membership(structures) @ voxels * voxel_mm3(steps_of(source.affine)) / 1000
        columns["weight_mean"] = mean_weight(label, weight)
        for name, volume in zip(structures, volumes, strict=True):
            columns[f"volume_ml_of_{name}"] = float(volume)
        return columns

    def _write_target(
        self,
        native_label: np.ndarray,
        native_weight: np.ndarray,
        geometry: Geometry,
        output: TtaSummary,
    ) -> None:
        """Write the training target, made from the native label as a reviewer sees it."""
        classes = len(self.config.class_names)
        label = geometry.label_to_grid(native_label, classes)
        weight = grid_weight(native_weight, geometry)
        temperature = self.calibration.temperature if self.config.refine.calibrate else 1.0
        probabilities = apply_temperature(output.probabilities, temperature)
        target = training_target(label, weight, classes, probabilities)
        write_array(self.outputs[2], target, self.config.preprocess.chunk)

    def _compare_with_previous_round(self, label: np.ndarray, weight: np.ndarray) -> dict[str, Any]:
        """Lower ``weight``, in place, where the label of the previous round differs.

        A case that was rejected in the previous round has no label to compare with.
        """
        layout = self.context.layout
        path = layout.labels(self.context.round - 1) / f"{self.case.case_id}.nii.gz"
        if not _uses_previous_round(self.context) or not path.is_file():
            return {"previous_round": 0, "previous_round_dice": None}
        previous = class_indices(read_label(path).data, self.config, path)
        differs = (label != previous) & (previous < len(self.config.class_names))
        cap_weight(weight, differs, self.config.refine.changed_weight)
        dice = structure_dice(label, previous, self.config.structures)
        return {
            "previous_round": int(np.count_nonzero(differs)),
            "previous_round_dice": mean(dice.tolist()),
        }


def _row(verdict: Verdict, refined: Refined) -> dict[str, Any]:
    kept = sum(lesion.kept for lesion in refined.lesions)
    row: dict[str, Any] = {
        "predicted_dice": verdict.mean,
        "predicted_dice_low": verdict.low,
        "predicted_dice_high": verdict.high,
        "accepted": verdict.accepted,
        "reason": verdict.reason,
        "lesions_kept": kept,
        "lesions_dropped": len(refined.lesions) - kept,
    }
    for step in STEPS:
        row[step] = refined.changed.get(step, 0)
    for name, value in verdict.predicted.items():
        row[f"predicted_dice_of_{name}"] = value
    return row
