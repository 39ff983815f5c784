"""Measure external teachers on the labelled cases, and choose the weight of each of their classes.

The predictions of the ensemble are those out of fold, not calibrated: refinement mixes before it
applies the temperature, too. An external teacher has learned from none of the labelled cases, so
that its predictions of them are as good as those of other cases.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np

from hstf.experiment.cases import Case, Split, names_of
from hstf.experiment.context import StageContext
from hstf.experiment.label_maps import values_of
from hstf.experiment.round_tables import EXTERNAL
from hstf.imaging.geometry import GEOMETRY, Geometry
from hstf.imaging.probabilities import most_likely
from hstf.method.external import (
    MINIMUM_GAIN,
    CaseDice,
    Choice,
    Groups,
    case_dice,
    choose_weight,
    group_dice,
    mix,
)
from hstf.method.external_weights import (
    ExternalWeights,
    GroupWeight,
    Mixture,
    TeacherWeights,
    groups_of,
    read_on_grid,
)
from hstf.method.plr.out_of_fold import LabelledCase, OutOfFoldCases, checked_cases
from hstf.runtime.shards import Row, read_shard
from hstf.scoring.confusion import structure_dice

MINIMUM_PATIENTS = 2
"""With fewer labelled patients nothing is known about the error of a gain."""


def measure(context: StageContext, names: Sequence[str]) -> ExternalWeights:
    """Choose the weights of external teachers and write ``external/weights.json``.

    Args:
        context: the stage ``external``.
        names: the teachers, in the order in which they are mixed.

    Raises:
        HstfError: if predictions or labels are missing or have changed.
    """
    cases = checked_cases(context)
    weights: dict[str, TeacherWeights] = {}
    mixture = Mixture(context.config, context.layout)
    for name in names:
        rows = labelled_rows(context, name)
        earlier = _of_same_rounds(mixture, name)
        teacher = LabelledTeacher.of(context, name, cases, rows, earlier)
        weights[name] = teacher.weights()
        for line in describe(name, weights[name]):
            print(line, flush=True)
        if weights[name].is_used:
            mixture = _with_teacher(mixture, context, name, weights[name], rows)
    found = ExternalWeights(teachers=weights)
    found.save(context.layout.external_weights)
    return found


def labelled_rows(context: StageContext, name: str) -> dict[str, Row]:
    """Read the predictions of the labelled cases by a teacher.

    Raises:
        HstfError: if tables or files are missing or have changed.
    """
    rows: dict[str, Row] = {}
    for shard, cases in context.shards(Split.LABELLED).items():
        table = context.layout.external_table(name, shard)
        rows |= read_shard(EXTERNAL, table, names_of(cases))
    return rows


def _of_same_rounds(mixture: Mixture, name: str) -> Mixture:
    """Return the mixture of those teachers that share a round with the teacher ``name``.

    No pseudo-label is a mixture with the others.
    """
    external = mixture.config.teacher.external
    teachers = {}
    for earlier, weights in mixture.teachers.items():
        if external[earlier].is_used_with(external[name]):
            teachers[earlier] = weights
    return replace(mixture, teachers=teachers)


def _with_teacher(
    mixture: Mixture,
    context: StageContext,
    name: str,
    weights: TeacherWeights,
    rows: dict[str, Row],
) -> Mixture:
    """Return the mixture with one more teacher: later ones must improve on it."""
    folder = context.layout.external_table(name, "labelled").parent
    return replace(
        mixture,
        teachers={**mixture.teachers, name: weights},
        folders={**mixture.folders, name: folder},
        rows={**mixture.rows, name: rows},
    )


@dataclass(frozen=True)
class LabelledTeacher:
    """An external teacher and its predictions of the labelled cases."""

    context: StageContext
    name: str
    cases: list[Case]
    """The labelled cases that it predicted."""
    rows: dict[str, Row]
    mixture: Mixture
    """The teachers before it that share a round with it."""
    values: dict[str, tuple[int, ...]]
    """Its values of each group."""
    groups: Groups

    @classmethod
    def of(
        cls,
        context: StageContext,
        name: str,
        cases: Sequence[Case],
        rows: dict[str, Row],
        mixture: Mixture,
    ) -> "LabelledTeacher":
        """Return the teacher with the cases that it predicted."""
        values = dict(values_of(context.config.teacher.external[name]))
        predicted = [case for case in cases if not rows[case.case_id]["missing"]]
        groups = groups_of(context.config, values)
        return cls(context, name, predicted, rows, mixture, values, groups)

    def weights(self) -> TeacherWeights:
        """Measure the teacher and choose the weight of each group."""
        dices = self._dices()
        patients = [case.group for case in self.cases]
        choices = []
        for row in range(len(self.groups)):
            choices.append(self._choice(dices, row, patients))
        chosen = [choice.weight if choice else 0.0 for choice in choices]
        mixed, together = self._together(chosen, dices)
        is_harmful = any(chosen) and together <= 0
        found = {}
        for row, (name, values) in enumerate(self.values.items()):
            found[name] = _group_weight(
                values, choices[row], patients, dices, row, mixed, is_harmful
            )
        missing = {name: row["missing"] for name, row in self.rows.items() if row["missing"]}
        return TeacherWeights(
            cases=len(self.cases),
            missing=missing,
            other_values=self._other_values(),
            groups=found,
        )

    def _choice(
        self, dices: Sequence[CaseDice], row: int, patients: Sequence[str]
    ) -> Choice | None:
        gains = np.array([dice.gains[row] for dice in dices])
        return choose_weight(gains, patients)

    def _dices(self) -> list[CaseDice]:
        structures = self.context.config.structures
        dices = []
        for case, external in self._read("weights"):
            dices.append(
                case_dice(case.output.probabilities, external, case.label, self.groups, structures)
            )
        return dices

    def _together(
        self, weights: Sequence[float], dices: Sequence[CaseDice]
    ) -> tuple[list[np.ndarray], float]:
        """Return the Dice of each group and the mean gain with the weights of all groups."""
        if not any(weights):
            return [dice.ensemble_groups for dice in dices], 0.0
        structures = self.context.config.structures
        of_groups = []
        gains = []
        for (case, external), before in zip(self._read("mixture"), dices, strict=True):
            mixed = mix(case.output.probabilities, external, self.groups, weights)
            label = most_likely(mixed)
            of_groups.append(group_dice(label, case.label, self.groups))
            after = structure_dice(label, case.label, structures)
            gains.append(float(np.nansum(after - before.ensemble)))
        return of_groups, float(np.mean(gains))

    def _read(self, step: str) -> Iterator[tuple[LabelledCase, np.ndarray]]:
        """Yield the cases with the predictions of the teacher, both on the planned grid."""
        layout = self.context.layout
        folder = layout.external_table(self.name, "labelled").parent
        is_soft = self.context.config.teacher.external[self.name].probabilities
        names = names_of(self.cases)
        title = f"external {self.name}"
        for case in OutOfFoldCases(title, layout, names, self.mixture).read(step):
            geometry = Geometry.load(layout.preprocessed / case.case_id / GEOMETRY)
            yield case, read_on_grid(folder, case.case_id, geometry, self.values, is_soft)

    def _other_values(self) -> tuple[int, ...]:
        """Return the values of the output that no group has."""
        known = {0, *(value for values in self.values.values() for value in values)}
        found = {int(value) for row in self.rows.values() for value in row["values"]}
        return tuple(sorted(found - known))


def _group_weight(
    values: tuple[int, ...],
    choice: Choice | None,
    patients: Sequence[str],
    dices: Sequence[CaseDice],
    row: int,
    mixed: Sequence[np.ndarray],
    is_harmful: bool,
) -> GroupWeight:
    """Return the weight of a group with its evidence."""
    if is_harmful:  # no group is mixed
        mixed = [case.ensemble_groups for case in dices]
    if choice is None:
        reason = "it predicted no labelled case that shows the class"
        content: dict[str, Any] = dict.fromkeys(("gain", "standard_error"))
        weight = 0.0
    else:
        pairs = zip(patients, dices, strict=True)
        shown = {patient for patient, case in pairs if not np.isnan(case.gains[row]).any()}
        reason = reason_of(choice, len(shown))
        error = choice.standard_error if isfinite(choice.standard_error) else None
        content = {"gain": choice.gain, "standard_error": error}
        weight = choice.weight
    if is_harmful and weight:
        reason = "the weights of all classes together lower the Dice"
        weight = 0.0
    return GroupWeight(
        values=values,
        weight=weight,
        reason=reason,
        dice=_mean([case.external[row] for case in dices]),
        ensemble_dice=_mean([case.ensemble_groups[row] for case in dices]),
        mixed_dice=_mean([case[row] for case in mixed]),
        **content,
    )


def reason_of(choice: Choice, patients: int) -> str:
    """Return why a group has its weight.

    Args:
        choice: its weight.
        patients: number of patients whose labels show the group.
    """
    if patients < MINIMUM_PATIENTS:
        return f"{patients} labelled patient is too few to measure it"
    change = f"weight {choice.best:g} changes the Dice by {choice.gain:+.3f}"
    noise = f"standard error {choice.standard_error:.3f}"
    if choice.weight:
        return f"{change} ({noise})"
    bound = max(choice.standard_error, MINIMUM_GAIN)
    return f"{change} at best, expected more than {bound:.3f} ({noise})"


def _mean(values: Sequence[Any]) -> float | None:
    """Return the mean of the values that are known; None if none is."""
    known = [float(value) for value in values if isfinite(value)]
    return float(np.mean(known)) if known else None


def describe(name: str, weights: TeacherWeights) -> Iterator[str]:
    """Yield the lines about a teacher for the log."""
    for group, found in weights.groups.items():
        decision = f"weight {found.weight:g}" if found.weight else "dropped"
        yield f"external {name}: {group}: {decision}, because {found.reason}"
    if weights.other_values:
        listed = ", ".join(map(str, weights.other_values[:20]))
        yield f"external {name}: values that 'labels' does not name are background: {listed}"
