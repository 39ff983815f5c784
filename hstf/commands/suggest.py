"""``hstf suggest``: which scans, and which slices, are most worth a person's time.

Writes below ``results/<experiment>/suggest/``:

- ``suggest.csv``: scans and slices, the most useful first, with reasons;
- ``templates/<case>.nii.gz``: the pseudo-label in the suggested slices, and ``ignore`` elsewhere;
- ``set_aside.csv``: the cases that ``--skip`` and ``--later`` name.

The predictions of the teacher are read, and never a label of an unlabelled case.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hstf.config.experiment import Config
from hstf.config.load import config_in_place
from hstf.experiment.cases import Case, Split, read_cases
from hstf.experiment.layout import Layout
from hstf.experiment.overrides import overrides_in_force
from hstf.experiment.plan import Plan
from hstf.experiment.review_tables import SUGGEST
from hstf.experiment.round_tables import REFINE
from hstf.experiment.schedule import Schedule
from hstf.experiment.set_aside import LATER, SKIP, holds, note
from hstf.experiment.set_aside import rows as rows_set_aside
from hstf.imaging.arrays import read_array
from hstf.imaging.geometry import GEOMETRY, Geometry
from hstf.imaging.spacing import slice_axis
from hstf.imaging.volumes import blank_volume, read_label, write_like
from hstf.method.slice_features import slice_features
from hstf.method.suggest import DOUBT, Candidate, Choice, Strategy, choose, doubt_by_slice
from hstf.method.tta_summary import AGREEMENT, DISAGREEMENT, PROBABILITIES, UNCERTAINTY, Agreement
from hstf.models.registry import load_network
from hstf.runtime.devices import choose_device
from hstf.runtime.errors import HstfError, few
from hstf.runtime.files import make_folder
from hstf.runtime.progress import track

ENTROPY = 0
"""Channel of the entropy of the uncertainty maps."""
IMAGE = "image.b2nd"


def run(args: argparse.Namespace) -> int:
    """Suggest scans and slices."""
    if args.scans < 0 or args.slices < 0 or args.time < 1 or not 0 <= args.random_fraction <= 1:
        raise HstfError(
            "--scans and --slices must be at least 0, --time at least 1, and --random-fraction"
            " between 0 and 1."
        )
    experiment = Experiment.opened(args.results, args.round)
    folder = args.output or experiment.layout.root / "suggest"
    aside = set_aside(folder, experiment, args.skip, args.later)
    pool = experiment.pool(aside, not args.no_features)
    rows = []
    chosen: list[Choice] = []
    for kind, count in (("scan", args.scans), ("slice", args.slices)):
        candidates = pool.scans if kind == "scan" else pool.slices
        known = pool.known_scans if kind == "scan" else pool.known_slices
        strategy = Strategy(count, args.time, args.random_fraction)
        choices = choose(candidates, known, strategy, experiment.config.seed)
        rows += [experiment.row(kind, rank, one) for rank, one in enumerate(choices, start=1)]
        chosen += choices if kind == "slice" else []
    make_folder(folder)
    SUGGEST.write(folder / "suggest.csv", rows)
    shown = lines(rows, folder) + experiment.write_templates(chosen, folder)
    print("\n".join(shown), flush=True)
    return 0


def lines(rows: Sequence[Mapping[str, Any]], folder: Path) -> list[str]:
    """Return what the command prints about the table."""
    shown = []
    for row in rows:
        place = f", slice {row['slice']} of axis {row['axis']}" if row["kind"] == "slice" else ""
        shown.append(f"{row['kind']} {row['rank']}: {row['case_id']}{place}: {row['reason']}")
    shown.append(f"Table: {folder / 'suggest.csv'}")
    return shown


def set_aside(
    folder: Path, experiment: "Experiment", skip: Sequence[str], later: Sequence[str]
) -> set[str]:
    """Add cases to the list of those that are not suggested, and return all that hold now.

    Raises:
        HstfError: if a name is no unlabelled case, or if the list cannot be read.
    """
    unknown = sorted({*skip, *later} - set(experiment.cases))
    if unknown:
        raise HstfError(
            f"--skip, --later: {few(unknown)}: not an unlabelled case of the case sheet."
        )
    number = experiment.number
    for action, names in ((SKIP, skip), (LATER, later)):
        if names:
            note(folder, names, action, number)
    return {row["case_id"] for row in rows_set_aside(folder) if holds(row, number)}


@dataclass
class Pool:
    """What can be suggested, and what is labelled."""

    scans: list[Candidate]
    slices: list[Candidate]
    known_scans: dict[str, np.ndarray]
    known_slices: dict[str, np.ndarray]


class Experiment:
    """The results that are read."""

    def __init__(self, config: Config, number: int) -> None:
        """Read nothing yet.

        Args:
            config: its configuration.
            number: the round whose predictions are used.
        """
        self.config = config.for_round(number)
        self.layout = Layout.of(config)
        self.schedule = Schedule.of(config)
        self.number = number

    @classmethod
    def opened(cls, results: Path, number: int | None) -> "Experiment":
        """Open the results of an experiment.

        Raises:
            HstfError: if there are none, or if the round has no pseudo-labels.
        """
        config = config_in_place(results)
        layout = Layout.of(config)
        last = Schedule.of(config).last
        rounds = [r for r in range(1, last + 1) if layout.refine(r).is_file()]
        if not rounds or (number is not None and number not in rounds):
            wanted = "no round has" if number is None else f"round {number} has no"
            raise HstfError(
                f"{layout.root}: {wanted} pseudo-labels (refine.csv is missing). Start the command"
                " after a round has been refined."
            )
        return cls(config, rounds[-1] if number is None else number)

    @cached_property
    def all_cases(self) -> tuple[Case, ...]:
        """All cases of the sheet."""
        return read_cases(self.config).cases

    @cached_property
    def cases(self) -> dict[str, Case]:
        """The unlabelled cases by name."""
        return {case.case_id: case for case in self.all_cases if case.split is Split.UNLABELLED}

    @cached_property
    def plan(self) -> Plan:
        """The plan."""
        return Plan.load(self.layout.plan)

    def axis_of(self, case_id: str) -> int:
        """Return the axis across the slices of a scan.

        It is that of its thick slices, or the axis of the maximum planned voxel size; of equal ones
        the last.
        """
        geometry = Geometry.load(self.layout.preprocessed / case_id / GEOMETRY)
        own = slice_axis(geometry.source_spacing)
        if own is not None:
            return own
        spacing = self.plan.spacing
        return max(range(3), key=lambda axis: (round(spacing[axis], 3), axis))

    @cached_property
    def predicted_dice(self) -> dict[str, float | None]:
        """Predicted Dice of each pseudo-label."""
        rows = REFINE.records(self.layout.refine(self.number))
        return {row["case_id"]: row["predicted_dice"] for row in rows}

    def pool(self, aside: set[str], with_features: bool) -> Pool:
        """Read what can be suggested.

        Cases that a reviewer has corrected or rejected are left out, and so are those set aside.

        Args:
            aside: cases that are not suggested.
            with_features: whether deep features are computed.

        Raises:
            HstfError: if no case has a prediction.
        """
        overrides = overrides_in_force(self.layout, self.schedule, self.number, list(self.cases))
        decided = {name for name, override in overrides.items() if override.action != "accept"}
        names = [name for name in self.cases if name not in aside | decided]
        if not names:
            print(
                f"All {len(self.cases)} unlabelled cases are corrected, rejected or set aside.",
                flush=True,
            )
        wanted = [self.cases[name] for name in self._predicted(names)]
        features = _Features(self) if with_features else None
        pool = Pool([], [], {}, {})
        for case in track(wanted, "suggest"):
            own = features.of(case) if features else None
            scan, slices = self._candidates(case, own)
            pool.scans.append(scan)
            pool.slices += slices
        if features is not None:
            labelled = [case for case in self.all_cases if case.split is Split.LABELLED]
            for case in track(labelled, "suggest: labelled cases"):
                if (self.layout.preprocessed / case.case_id / IMAGE).is_file():
                    own = features.of(case)
                    pool.known_slices[case.case_id] = own
                    pool.known_scans[case.case_id] = own.mean(axis=0, keepdims=True)
        return pool

    def _predicted(self, names: Sequence[str]) -> list[str]:
        """Return the cases with a prediction of the teacher, and name the others.

        Raises:
            HstfError: if there are cases and none of them has a prediction.
        """
        folder = self.layout.teacher(self.number)
        predicted = [name for name in names if (folder / name / PROBABILITIES).is_file()]
        missing = sorted(set(names) - set(predicted))
        if not missing:
            return predicted
        text = f"{folder}: has no prediction of {few(missing)}."
        if not predicted:
            raise HstfError(
                f"{text} Suggestions are made from these files. If the folder was deleted, restore"
                " it, or name another round by --round."
            )
        print(f"suggest: warning: {text} Not suggested: {len(missing)} cases.", flush=True)
        return predicted

    def _candidates(
        self, case: Case, features: np.ndarray | None
    ) -> tuple[Candidate, list[Candidate]]:
        """Return a scan and its slices as candidates."""
        name = case.case_id
        folder = self.layout.teacher(self.number) / name
        several = len(Agreement.load(folder / AGREEMENT).members) > 1
        channel = DISAGREEMENT if several else ENTROPY
        doubt, volume = doubt_by_slice(
            read_array(folder / PROBABILITIES),
            read_array(folder / UNCERTAINTY)[channel],
            self.config.structures,
            self.axis_of(name),
            prod(self.plan.spacing) / 1000,
        )
        empty = np.zeros(0)
        slices = []
        for position in range(len(next(iter(doubt.values())))):
            slices.append(
                Candidate(
                    name,
                    {key: float(values[position]) for key, values in doubt.items()},
                    {key: float(values[position]) for key, values in volume.items()},
                    empty if features is None else features[position],
                    position,
                )
            )
        scan = Candidate(
            name,
            {key: float(values.sum()) for key, values in doubt.items()},
            {key: float(values.sum()) for key, values in volume.items()},
            empty if features is None else features.mean(axis=0),
        )
        return scan, slices

    def row(self, kind: str, rank: int, choice: Choice) -> dict[str, Any]:
        """Return the row of a choice."""
        candidate = choice.candidate
        place: tuple[int | None, int | None] = (None, None)
        if candidate.position is not None:
            axis, index = self.native_slice(candidate.case_id, candidate.position)
            place = (index, axis)
        return {
            "rank": rank,
            "kind": kind,
            "case_id": candidate.case_id,
            "slice": place[0],
            "axis": place[1],
            "how": choice.how,
            "structure": choice.structure,
            "doubt_ml": candidate.doubt[choice.structure],
            "volume_ml": candidate.volume[choice.structure],
            "predicted_dice": self.predicted_dice.get(candidate.case_id),
            "like": choice.nearest,
            "distance": choice.distance,
            "reason": reason(choice),
        }

    def native_slice(self, case_id: str, position: int) -> tuple[int, int]:
        """Return the axis and the index of a slice of the grid in the file."""
        geometry = Geometry.load(self.layout.preprocessed / case_id / GEOMETRY)
        centre = [(size - 1) / 2 for size in geometry.grid_shape]
        to_voxel = np.linalg.inv(np.array(geometry.affine))
        across = self.axis_of(case_id)
        voxels = []
        for step in (0, 1):
            point = [*centre]
            point[across] = position + step
            voxels.append((to_voxel @ [*geometry.grid_to_mm(point), 1])[:3])
        axis = int(np.abs(voxels[1] - voxels[0]).argmax())
        index = int(np.clip(np.rint(voxels[0][axis]), 0, geometry.native_shape[axis] - 1))
        return axis, index

    def write_templates(self, choices: Sequence[Choice], folder: Path) -> list[str]:
        """Write a label for each case with suggested slices; return what the command prints.

        It has the pseudo-label in the suggested slices and the value of ``ignore`` elsewhere, so
        that only what a person has looked at is learned from. A template that a person has edited
        is kept.
        """
        ignored = self.config.ignore_value
        by_case: dict[str, list[int]] = {}
        for choice in choices:
            if choice.candidate.position is not None:
                by_case.setdefault(choice.candidate.case_id, []).append(choice.candidate.position)
        if not by_case:
            return []
        if ignored is None:
            return ["No templates: they need a value for voxels to ignore (labels: ignore)."]
        shown = [f"Templates for the slices: {folder / 'templates'}"]
        for name, positions in by_case.items():
            path = folder / "templates" / f"{name}.nii.gz"
            if path.is_file() and self._is_edited(name, read_label(path).data):
                shown.append(
                    f"Not written again, because it was edited: {path}. Save it as"
                    f" {self.layout.override(self.number, name)}, or delete it and start the"
                    " command again."
                )
                continue
            values = read_label(self.layout.pseudo_label(self.number, name)).data
            template = np.full(values.shape, ignored, values.dtype)
            for where in self._planes(name, positions):
                template[where] = values[where]
            write_like(path, template, blank_volume(self.cases[name].images[0]))
        return shown

    def _is_edited(self, name: str, template: np.ndarray) -> bool:
        """Return whether a template is not, in whole slices, the pseudo-label of some round."""
        known = template != self.config.ignore_value
        axis, _ = self.native_slice(name, 0)
        planes = tuple(other for other in range(3) if other != axis)
        if (known.any(axis=planes) != known.all(axis=planes)).any():
            return True
        for number in range(1, self.schedule.last + 1):
            path = self.layout.pseudo_label(number, name)
            values = read_label(path).data if path.is_file() else np.zeros(0)
            same_shape = values.shape == template.shape
            if same_shape and np.array_equal(values[known], template[known]):
                return False
        return True

    def _planes(self, name: str, positions: Sequence[int]) -> Iterator[tuple[slice | int, ...]]:
        for position in positions:
            axis, index = self.native_slice(name, position)
            plane: list[slice | int] = [slice(None)] * 3
            plane[axis] = index
            yield tuple(plane)


def reason(choice: Choice) -> str:
    """Return why a candidate is suggested."""
    candidate = choice.candidate
    name = choice.structure
    if choice.how == DOUBT:
        text = f"the ensemble is doubtful about {candidate.doubt[name]:.2g} ml of {name}"
    else:
        text = f"drawn at random from slices and scans with {name}"
    if choice.nearest and choice.nearest != candidate.case_id:
        text += f"; most like {choice.nearest}"
    return text


class _Features:
    """Computes deep features by the first member of the ensemble that made the predictions."""

    def __init__(self, experiment: Experiment) -> None:
        layout = experiment.layout
        previous = experiment.number - 1
        member = experiment.schedule.members(previous)[0]
        self.device = choose_device(experiment.config.device)
        network, _ = load_network(layout.weights(previous, member), self.device)
        self.network = network.parts[0]
        self.window = experiment.plan.patch_size
        self.folder = layout.preprocessed
        self.axis_of = experiment.axis_of

    def of(self, case: Case) -> np.ndarray:
        """Return the features ``(S, F)`` of the slices of a preprocessed case."""
        array = read_array(self.folder / case.case_id / IMAGE)
        image = torch.from_numpy(array).float()
        axis = self.axis_of(case.case_id)
        return slice_features(self.network, image, self.window, axis, self.device)
