"""``hstf labels``: what the student learns from. A person's word comes before the pseudo-label.

Each case that is used gets its label and weights in native space, to look at, and as targets on the grid, to train on.
Without ``--shard`` the tables of the shards are joined into ``labels.csv``.
"""

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.cases import Case, Split, read_cases
from hstf.experiment.context import joined_rows, unlabelled_shard
from hstf.experiment.dependencies import stage_parameters
from hstf.experiment.layout import Layout
from hstf.experiment.overrides import Override, overrides_in_force
from hstf.imaging.arrays import read_array, write_array
from hstf.imaging.geometry import IGNORED, Geometry, misplacement
from hstf.imaging.label_values import class_indices, class_locations
from hstf.imaging.probabilities import most_likely, sharpen
from hstf.imaging.volumes import blank_volume, open_nifti, read_label, write_like
from hstf.method.plr.calibration import Calibration
from hstf.method.plr.weights import mean_weight
from hstf.runtime.errors import HstfError, join_faults
from hstf.runtime.files import atomic_path, read_csv, read_json, sha256_file, write_csv
from hstf.runtime.shards import CaseWork, read_table, row_of, run_shard
from hstf.stages.arguments import add_round_and_shard, run_shard_or_join

COLUMNS = ("round", "source", "reviewer", "reason", "predicted_dice", "weight_mean")


add_arguments = add_round_and_shard


def run(args: argparse.Namespace) -> int:
    return run_shard_or_join(args, labels, merge_labels)


def labels(config: Config, number: int, shard: str) -> int:
    """Write the labels of ``shard`` in round ``number``; returns how many cases were computed.

    Raises:
        HstfError: a wrong round or shard; faults of the overrides, all at once; pseudo-labels missing or edited.
    """
    cases = unlabelled_shard(config, number, shard)
    layout, soft = Layout.of(config), config.for_round(number).student.soft_targets
    every_case = {case.case_id for case in read_cases(config).of(Split.UNLABELLED)}
    in_force = overrides_in_force(config, number, every_case)
    check_human_labels(config, cases, in_force)
    pseudo = read_table(layout.pseudo_labels_table(number, shard))
    verdicts = {row["case_id"]: row for row in read_csv(layout.refine(number))}
    preprocessed = read_table(layout.preprocessed_table(shard), verify=False)
    teacher = read_table(layout.teacher_table(number, shard)) if soft else {}
    temperature = calibrated_temperature(config, number) if soft else None
    works = []
    for case in cases:
        inputs = {
            "geometry": row_of(preprocessed, case, "preprocess"),
            "label": row_of(pseudo, case, "refine"),
        }
        if soft:
            inputs |= {
                "teacher": row_of(teacher, case, "teacher"),
                "temperature": str(temperature),
            }
        row_of(verdicts, case, "refine.csv")
        decision = decide(verdicts[case.case_id], in_force.get(case.case_id), number)
        inputs |= {"decision": str(asdict(decision))}
        if decision.file is not None:
            inputs |= {"human label": sha256_file(decision.file)}
        writer = CaseWriter(config, number, case, decision, temperature)
        works.append(CaseWork(case.case_id, inputs, writer.outputs, writer.write))
    table = layout.labels_shard_table(number, shard)
    parameters = stage_parameters(config, "labels", number)
    return run_shard(table, parameters, works, COLUMNS, f"labels {number} {shard}")


def calibrated_temperature(config: Config, number: int) -> float:
    """The temperature of the teacher's probabilities in soft targets; 1 where refinement does not calibrate."""
    if not config.for_round(number).refine.calibrate:
        return 1.0
    return Calibration.load(Layout.of(config).calibration).temperature


@dataclass(frozen=True)
class Decision:
    """Where a case's label comes from."""

    round: int
    """Of the pseudo-label, or from which the person's word holds."""
    source: str
    """automatic, human, accepted (an automatic label that a person accepted) or rejected."""
    reviewer: str
    reason: str
    predicted_dice: float | None
    """None for a person's label."""
    file: Path | None
    """A person's label."""


def decide(row: Mapping[str, str], override: Override | None, number: int) -> Decision:
    """Join the verdict of refinement, a ``row`` of ``refine.csv``, and a person's ``override``."""
    predicted = float(row["predicted_dice"])
    if override is None:
        source = "automatic" if row["accepted"] == "1" else "rejected"
        return Decision(number, source, "", row["reason"], predicted, None)
    source = {"accept": "accepted", "replace": "human", "reject": "rejected"}[override.action]
    known = None if source == "human" else predicted
    return Decision(
        override.number, source, override.reviewer, override.reason, known, override.file
    )


def check_human_labels(
    config: Config, cases: Iterable[Case], in_force: Mapping[str, Override]
) -> None:
    """Refuse corrected labels that do not lie on their image's grid or hold values of no class.

    Raises:
        HstfError: with every fault of every label.
    """
    faults = [
        fault
        for case in cases
        if case.case_id in in_force and in_force[case.case_id].file is not None
        for fault in human_label_faults(config, case, in_force[case.case_id].file)  # type: ignore[arg-type]
    ]
    if faults:
        raise join_faults(
            f"{Layout.of(config).overrides}: {len(faults)} faults in corrected labels.", faults
        )


def human_label_faults(config: Config, case: Case, path: Path) -> list[str]:
    """What is wrong with a corrected label, as sentences."""
    try:
        image, label = open_nifti(case.images[0]), read_label(path)
    except HstfError as error:
        return [str(error)]
    tolerance = config.check.affine_tolerance_mm
    wrong = misplacement(
        label.data.shape, label.affine, image.shape[:3], np.asarray(image.affine), tolerance
    )
    faults = []
    if wrong:
        faults.append(
            f"{path}: {wrong}, {case.images[0]}. Save the correction with the image's geometry"
        )
    known = set(config.labels.values())
    unknown = sorted(set(np.unique(label.data).tolist()) - known)
    if unknown:
        faults.append(
            f"{path}: holds the values {', '.join(map(str, unknown))}, expected only"
            f" {', '.join(map(str, sorted(known)))}"
        )
    return faults


@dataclass(frozen=True)
class CaseWriter:
    """Writes the label of one case."""

    config: Config
    number: int
    case: Case
    decision: Decision
    temperature: float | None
    """For soft targets: the calibration of the teacher's probabilities."""

    @property
    def used(self) -> bool:
        return self.decision.source != "rejected"

    @property
    def files(self) -> list[Path]:
        """Label and weight in native space, target and locations on the grid."""
        folder, name = Layout.of(self.config).labels(self.number), self.case.case_id
        return [
            folder / f"{name}.nii.gz",
            folder / f"{name}.weight.nii.gz",
            folder / name / "target.b2nd",
            folder / name / "locations.npy",
        ]

    @property
    def outputs(self) -> list[Path]:
        return self.files if self.used else []

    def write(self) -> dict[str, Any]:
        """Write the case's files; returns the row of the table. Files of a case that is now rejected are removed."""
        row = {key: value for key, value in asdict(self.decision).items() if key != "file"}
        if not self.used:
            for path in self.files:
                path.unlink(missing_ok=True)
            return row
        values = read_label(self.decision.file or self._pseudo_label("")).data
        label = class_indices(values, self.config, self.decision.file or self.files[0])
        if self.decision.file is None:
            weight = read_label(self._pseudo_label(".weight")).data
        else:
            weight = np.where(label == IGNORED, 0, 255).astype(np.uint8)
        source = blank_volume(self.case.images[0])
        write_like(self.files[0], values, source)
        write_like(self.files[1], weight, source)
        self._write_target(label, weight)
        return row | {"weight_mean": mean_weight(label, weight)}

    def _pseudo_label(self, kind: str) -> Path:
        return (
            Layout.of(self.config).pseudo_labels(self.number) / f"{self.case.case_id}{kind}.nii.gz"
        )

    def _write_target(self, native_label: np.ndarray, native_weight: np.ndarray) -> None:
        layout, classes = Layout.of(self.config), len(self.config.class_names)
        geometry = Geometry.from_json(
            read_json(layout.preprocessed / self.case.case_id / "geometry.json")
        )
        label = geometry.label_to_grid(native_label, classes)
        if self.decision.file is None:
            weight = np.rint(geometry.to_grid(native_weight, order=1)).clip(0, 255).astype(np.uint8)
        else:  # full, however thin a scribble is
            weight = np.full(label.shape, 255, np.uint8)
        probabilities = None
        if self.temperature is not None and self.decision.file is None:
            folder = layout.teacher(self.number) / self.case.case_id
            probabilities = sharpen(read_array(folder / "probabilities.b2nd"), self.temperature)
        target, locations = self.files[2:]
        write_array(
            target,
            training_target(label, weight, classes, probabilities),
            self.config.preprocess.chunk,
        )
        with atomic_path(locations) as temporary:
            np.save(
                temporary, class_locations(label, classes, self.case.case_id), allow_pickle=False
            )


def training_target(
    label: np.ndarray, weight: np.ndarray, classes: int, probabilities: np.ndarray | None
) -> np.ndarray:
    """Target probabilities and weight, ``(K+1, X, Y, Z)`` uint8, of 255.

    One-hot, or the calibrated ``probabilities`` ``(K, X, Y, Z)``. Where their most likely class is not that of ``label``
    ``(X, Y, Z)``, the two classes change places: a clean-up did not believe the one and took the other, or, at a boundary,
    resampling decided between two nearly equal ones. So the label is always a most likely class of its target. Ignored
    voxels (255) have weight 0, and any class is equally likely.
    """
    target = np.empty((classes + 1, *label.shape), np.uint8)
    for index in range(classes):
        target[index] = 255 * (label == index).view(np.uint8)
    target[:classes, label == IGNORED] = round(255 / classes)
    target[classes] = np.where(label == IGNORED, 0, weight)
    if probabilities is not None:
        known, likely = label < classes, most_likely(probabilities)
        for index in range(classes):
            np.copyto(target[index], probabilities[index], where=known)
        differ = np.nonzero(known & (likely != label))
        here, there = (label[differ], *differ), (likely[differ], *differ)
        target[here], target[there] = target[there], target[here]
    return target


def merge_labels(config: Config, number: int) -> None:
    """Join the tables of the shards into ``labels.csv``.

    Raises:
        HstfError: a shard's table is missing.
    """
    layout = Layout.of(config)
    rows = joined_rows(
        config, partial(layout.labels_shard_table, number), layout.labels(number).name
    )
    write_csv(layout.labels_table(number), rows, ["case_id", *COLUMNS, "files", "sha256"])
    counts = {
        s: sum(row["source"] == s for row in rows)
        for s in ("automatic", "accepted", "human", "rejected")
    }
    print(
        f"labels {number}: {', '.join(f'{n} {source}' for source, n in counts.items())}", flush=True
    )
