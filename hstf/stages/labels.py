"""``hstf labels``: what the student learns from. A manual override comes before the pseudo-label.

Each case that is used gets its label and weight in native space, to look at, and a target on the
planned grid, to train on. The target of a pseudo-label was stored by ``refine``; the target of a
corrected label is made here. Without ``--shard`` the tables of the shards are joined into
``labels.csv``.
"""

import argparse
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hstf.config.monitor import MonitorConfig
from hstf.experiment.cases import Case, Split, names_of
from hstf.experiment.context import StageContext
from hstf.experiment.decisions import NO_VERSION, Decision
from hstf.experiment.overrides import Override, overrides_in_force
from hstf.experiment.round_tables import LABELS, REFINE
from hstf.experiment.scan_tables import PREPROCESSED
from hstf.imaging.arrays import write_array
from hstf.imaging.class_locations import class_locations
from hstf.imaging.corrected_labels import examine_corrected_label
from hstf.imaging.geometry import GEOMETRY, Geometry
from hstf.imaging.label_values import IGNORED, class_indices
from hstf.imaging.volumes import blank_volume, read_label, write_like
from hstf.method.plr.targets import grid_weight, training_target
from hstf.method.plr.weights import mean_weight
from hstf.runtime.errors import HstfError, join_problems
from hstf.runtime.files import atomic_path, sha256_file
from hstf.runtime.shards import CaseWork, Row, digest_of, read_shard, run_shard

SOURCE_OF_ACTION = {"accept": "accepted", "replace": "corrected", "reject": "rejected"}
"""The column ``source`` by the action of a reviewer."""

SOURCES = ("automatic", "accepted", "corrected", "rejected")


def run(args: argparse.Namespace) -> int:
    """Write the labels of a shard, or join the tables of all shards."""
    context = StageContext.of_arguments(args, "labels")
    if args.shard is None:
        merge_labels(context)
    else:
        labels(context, args.shard)
    return 0


def labels(context: StageContext, shard: str) -> int:
    """Write the labels of a shard.

    Returns:
        The number of cases that were computed; the others were up to date.

    Raises:
        HstfError: if there is no such round or shard, if overrides have problems (the message lists
            all of them), or if pseudo-labels are missing or were edited.
    """
    cases = context.unlabelled_shard(shard)
    layout = context.layout
    number = context.round
    unlabelled = {case.case_id for case in context.cases(Split.UNLABELLED)}
    overrides = overrides_in_force(layout, context.schedule, number, unlabelled)
    names = names_of(cases)
    refined = read_shard(REFINE, layout.pseudo_labels_table(number, shard), names)
    verdicts = read_shard(REFINE, layout.refine(number), sorted(unlabelled), verify=False)
    preprocessed_table = layout.preprocessed_table(shard)
    preprocessed = read_shard(PREPROCESSED, preprocessed_table, names, endings=(GEOMETRY,))
    remarks = check_corrected_labels(context, cases, overrides)
    works = []
    for case in cases:
        name = case.case_id
        inputs = {
            "geometry": digest_of(preprocessed, name, "preprocess"),
            "label": digest_of(refined, name, "refine"),
        }
        digest_of(verdicts, name, "refine.csv")
        version = _version(refined[name])
        source = label_source(verdicts[name], overrides.get(name), number, version)
        if name in remarks:
            source = replace(source, reason=remarks[name], review="question")
        inputs["decision"] = str(asdict(source))
        if source.file is not None:
            inputs["corrected label"] = sha256_file(source.file)
        label = CaseLabel(context, case, source, inputs.get("corrected label"))
        works.append(CaseWork(name, inputs, label.outputs, label.write))
    path = layout.labels_shard_table(number, shard)
    return run_shard(LABELS, path, context.parameters, works, f"labels {number} {shard}")


def _version(row: Row) -> str:
    """Return the SHA-256 of a pseudo-label without its weight and its target."""
    digests = dict(zip(row["files"], row["sha256"], strict=True))
    return str(digests[f"{row['case_id']}.nii.gz"])


def merge_labels(context: StageContext) -> None:
    """Join the tables of the shards into ``labels.csv``.

    Raises:
        HstfError: if the table of a shard is missing, or if the weights of all voxels are near 0.
    """
    layout = context.layout
    number = context.round
    path_of = partial(layout.labels_shard_table, number)
    rows = context.joined_records(LABELS, path_of, layout.labels(number).name)
    refuse_weightless(rows, number, context.config.monitor)
    LABELS.write(layout.labels_table(number), rows)
    counts = Counter(row["source"] for row in rows)
    summary = ", ".join(f"{counts[source]} {source}" for source in SOURCES)
    opened = sum(row["review"] == "open" for row in rows)
    if opened:
        summary += f"; {opened} acceptances were made for another version and do not count"
    print(f"labels {number}: {summary}", flush=True)


def refuse_weightless(rows: Iterable[Row], number: int, section: MonitorConfig) -> None:
    """Refuse pseudo-labels from which a student would learn nothing, or print a warning.

    Args:
        rows: rows of ``labels.csv``.
        number: the round.
        section: the keys ``on_collapse`` and ``minimum_weight`` of ``monitor:``.

    Raises:
        HstfError: if the mean weight of the foreground of all cases that are used is near 0, and
            ``monitor.on_collapse`` is ``stop``.
    """
    stops = section.on_collapse == "stop"
    weights = []
    for row in rows:
        if row["source"] != "rejected" and row["weight_mean"] is not None:
            weights.append(row["weight_mean"])
    if float(np.mean(weights or [1.0])) >= section.minimum_weight:
        return
    text = (
        f"the mean voxel weight of the {len(weights)} labels of round {number} is"
        f" {np.mean(weights):.3f}, expected at least {section.minimum_weight:g}"
        " (monitor.minimum_weight): a student learns next to nothing from them. The teacher is"
        " unsure everywhere. Train the warm-up for more steps, label more cases, or lower"
        " refine.entropy_weight and refine.disagreement_weight."
    )
    if stops:
        raise HstfError(f"{text} To go on anyway, set monitor.on_collapse to continue.")
    print(f"labels: warning: {text}", flush=True)


@dataclass(frozen=True)
class LabelSource:
    """Where the label of a case comes from."""

    round: int
    """Round of the pseudo-label, or round from which the override applies."""
    source: str
    """One of :data:`SOURCES`."""
    reviewer: str
    reason: str
    review: str
    """What a reviewer should look at, see the table."""
    predicted_dice: float | None
    """None for a corrected label."""
    file: Path | None
    """The corrected label."""


def label_source(row: Row, override: Override | None, number: int, version: str) -> LabelSource:
    """Join the verdict of the refinement with a manual override.

    Args:
        row: the row of the case in ``refine.csv``.
        override: the override that is in force, if there is one.
        number: the round.
        version: SHA-256 of the pseudo-label.
    """
    predicted_dice = row["predicted_dice"]
    verdict = "automatic" if row["accepted"] else "rejected"
    automatic = LabelSource(number, verdict, "", row["reason"], "", predicted_dice, None)
    if override is None:
        return automatic
    decision = override.decision_on(version)
    if override.action == "accept" and decision is None:
        reason = f"{_open_acceptance(override.decisions[-1])} ({row['reason']})"
        return replace(automatic, reason=reason, review="open")
    review = ""
    if decision is None and override.decisions:
        decision = override.decisions[-1]
        if override.action == "reject" and decision.version:
            review = "earlier version"
    return LabelSource(
        override.number,
        SOURCE_OF_ACTION[override.action],
        decision.reviewer if decision else "",
        decision.reason if decision else "",
        review,
        None if override.action == "replace" else predicted_dice,
        override.file,
    )


def _open_acceptance(decision: Decision) -> str:
    """Describe an acceptance that does not count."""
    if decision.version is None:
        return f"accepted by {decision.who} after the run was started; start it again"
    if decision.version == NO_VERSION:
        return f"accepted by {decision.who} before there was a pseudo-label; look at it"
    return f"accepted by {decision.who} for an earlier version; look at it again"


def check_corrected_labels(
    context: StageContext, cases: Iterable[Case], overrides: Mapping[str, Override]
) -> dict[str, str]:
    """Refuse corrected labels that do not fit their image, and question unusual ones.

    Returns:
        By case, what is unusual about a corrected label that no row confirms.

    Raises:
        HstfError: with all problems of all labels.
    """
    layout = context.layout
    problems = []
    remarks = {}
    for case in cases:
        name = case.case_id
        override = overrides.get(name)
        if override is None or override.file is None:
            continue
        # A reviewer who writes a row has looked at the file, so it is compared with nothing.
        pseudo_label = None if override.decisions else layout.pseudo_label(context.round, name)
        found = examine_corrected_label(context.config, case, override.file, pseudo_label)
        problems += found.problems
        confirmation = (
            f"If this is meant, confirm it by a row in {layout.decisions}:"
            f" {override.number},{name},replace,<reviewer>,<date>,<reason>"
        )
        problems += [f"{override.file}: {text}. {confirmation}" for text in found.questions]
        for text in found.remarks:
            remarks[name] = text
            print(f"labels: warning: {override.file}: {text}. {confirmation}", flush=True)
    if problems:
        raise join_problems(
            f"{layout.overrides}: {len(problems)} problems in corrected labels.", problems
        )
    return remarks


@dataclass(frozen=True)
class CaseLabel:
    """Writes what the student learns from one case."""

    context: StageContext
    case: Case
    source: LabelSource
    corrected_sha256: str | None
    """SHA-256 of the corrected label, if there is one."""

    @property
    def is_used(self) -> bool:
        """Whether the student learns from the case."""
        return self.source.source != "rejected"

    @property
    def files(self) -> list[Path]:
        """Label and weight in native space, target and patch centres on the grid."""
        folder = self.context.layout.labels(self.context.round)
        name = self.case.case_id
        return [
            folder / f"{name}.nii.gz",
            folder / f"{name}.weight.nii.gz",
            folder / name / "target.b2nd",
            folder / name / "locations.npy",
        ]

    @property
    def outputs(self) -> list[Path]:
        """The files, if the case is used."""
        return self.files if self.is_used else []

    def write(self) -> dict[str, Any]:
        """Write the files of the case and return its row of the table.

        The files of a case that is no longer used are removed.
        """
        row = asdict(self.source)
        del row["file"]
        if not self.is_used:
            for path in self.files:
                path.unlink(missing_ok=True)
            return row
        path = self.source.file or self._pseudo_label(".nii.gz")
        values = read_label(path).data
        self._refuse_new_correction()
        label = class_indices(values, self.context.config, path)
        if self.source.file is None:
            weight = read_label(self._pseudo_label(".weight.nii.gz")).data
        else:
            weight = np.where(label == IGNORED, 0, 255).astype(np.uint8)
        image = blank_volume(self.case.images[0])
        write_like(self.files[0], values, image)
        write_like(self.files[1], weight, image)
        self._write_target(label, weight)
        row["weight_mean"] = mean_weight(label, weight)
        return row

    def _refuse_new_correction(self) -> None:
        """Refuse a corrected label that was saved while it was read.

        Raises:
            HstfError: if the file is not the one that the record of the case names.
        """
        path = self.source.file
        if path is not None and sha256_file(path) != self.corrected_sha256:
            raise HstfError(f"{path}: was saved while it was read. Start the run again.")

    def _pseudo_label(self, suffix: str) -> Path:
        folder = self.context.layout.pseudo_labels(self.context.round)
        return folder / f"{self.case.case_id}{suffix}"

    def _write_target(self, native_label: np.ndarray, native_weight: np.ndarray) -> None:
        """Write target and patch centres on the planned grid."""
        config = self.context.config
        classes = len(config.class_names)
        preprocessed = self.context.layout.preprocessed / self.case.case_id
        geometry = Geometry.load(preprocessed / GEOMETRY)
        label = geometry.label_to_grid(native_label, classes)
        target, locations = self.files[2:]
        if self.source.file is None and config.student.soft_targets:
            link_or_copy(self._pseudo_label(".target.b2nd"), target)
        else:
            if self.source.file is None:
                weight = grid_weight(native_weight, geometry)
            else:
                # A corrected voxel counts fully, however thin a scribble is.
                weight = np.full(label.shape, 255, np.uint8)
            array = training_target(label, weight, classes, None)
            write_array(target, array, config.preprocess.chunk)
        centres = class_locations(label, classes, self.case.case_id)
        with atomic_path(locations) as temporary:
            np.save(temporary, centres, allow_pickle=False)


def link_or_copy(source: Path, target: Path) -> None:
    """Create ``target`` as a second name of ``source``; copy it if the disk has no hard links."""
    with atomic_path(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
