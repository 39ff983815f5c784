"""The weights of external teachers, and the mixture of their predictions with the ensemble's.

The stage ``external`` writes ``external/weights.json``. The calibration of a round and the
refinement read it with the predictions of the external teachers, and mix both in the same way:
before the temperature is applied, so that the calibration is that of the mixture.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from hstf.config.experiment import Config
from hstf.config.external import members_of
from hstf.experiment.cases import Split, names_of
from hstf.experiment.context import StageContext
from hstf.experiment.label_maps import Values
from hstf.experiment.layout import Layout
from hstf.experiment.round_tables import EXTERNAL
from hstf.imaging.arrays import read_array
from hstf.imaging.geometry import GEOMETRY, Geometry
from hstf.imaging.probabilities import entropy
from hstf.imaging.slabs import slabs
from hstf.imaging.volumes import read_image
from hstf.method.external import SLAB_VALUES, Groups, mix
from hstf.method.tta_summary import DISAGREEMENT, ENTROPY, TtaSummary
from hstf.runtime.documents import Document, Part
from hstf.runtime.shards import Row, read_shard


class GroupWeight(Part):
    """What the labelled cases show about a class or region that an external teacher knows."""

    values: tuple[int, ...]
    """Its values in the output."""
    weight: float
    """Its weight in the mixture (0 to 1)."""
    reason: str
    """Why it has this weight."""
    dice: float | None
    """Mean Dice of the external teacher on the labelled cases; None if no case shows it."""
    ensemble_dice: float | None
    """Mean Dice of the out-of-fold predictions of the ensemble, on the same cases."""
    mixed_dice: float | None
    """Mean Dice of the mixture with the weights of all groups, on the same cases."""
    gain: float | None
    """Mean gain of Dice with the best weight above 0, less what other structures lose."""
    standard_error: float | None
    """Standard error of the gain over the patients; None with a single patient."""


class TeacherWeights(Part):
    """The weights of an external teacher."""

    cases: int
    """Labelled cases that it predicted."""
    missing: dict[str, str]
    """Labelled cases without a prediction, and why."""
    other_values: tuple[int, ...]
    """Values of the output that ``labels`` does not name, which are background; without 0."""
    groups: dict[str, GroupWeight]
    """By class or region."""

    @property
    def weights(self) -> list[float]:
        """The weight of each group."""
        return [group.weight for group in self.groups.values()]

    @property
    def values(self) -> Values:
        """The values of each group."""
        return {name: group.values for name, group in self.groups.items()}

    @property
    def is_used(self) -> bool:
        """Whether the teacher has a weight."""
        return any(self.weights)


class ExternalWeights(Document):
    """``external/weights.json``: the weight of each class of each external teacher.

    Example:
        >>> liver = GroupWeight(
        ...     values=(5,), weight=0.5, reason="", dice=0.9, ensemble_dice=0.8, mixed_dice=0.92,
        ...     gain=0.12, standard_error=0.03,
        ... )
        >>> teacher = TeacherWeights(cases=3, missing={}, other_values=(), groups={"liver": liver})
        >>> ExternalWeights(teachers={"other_hospital": teacher}).used(["other_hospital"])
        ['other_hospital']
    """

    stage = "external"

    teachers: dict[str, TeacherWeights]

    def used(self, names: Iterable[str]) -> list[str]:
        """Return those of ``names`` that have a weight."""
        return [name for name in names if self.teachers[name].is_used]


def calibration_path(context: StageContext) -> Path:
    """Return the calibration of the round of the stage: that of the ensemble, or of a mixture."""
    if context.schedule.external(context.config, context.round):
        return context.layout.round_calibration(context.round)
    return context.layout.calibration


def groups_of(config: Config, names: Iterable[str]) -> Groups:
    """Return the groups of an external teacher.

    Args:
        config: configuration with ``labels`` and ``regions``.
        names: the classes and regions that it knows.
    """
    classes = config.class_names
    members = []
    for name in names:
        of_group = members_of(name, classes, config.regions)
        members.append(tuple(sorted(classes.index(class_name) for class_name in of_group)))
    return Groups(tuple(members), len(classes))


def read_on_grid(
    folder: Path, case_id: str, geometry: Geometry, values: Values, is_soft: bool
) -> np.ndarray:
    """Read the prediction of an external teacher on the planned grid.

    Args:
        folder: folder of the table of the teacher.
        case_id: the case.
        geometry: geometry of the case.
        values: values of each group.
        is_soft: whether it has probabilities.

    Returns:
        Numbers of the groups or probabilities, as :func:`hstf.method.external.mix` takes them.
    """
    if is_soft:
        return read_array(folder / f"{case_id}.b2nd")
    labels = read_image(folder / f"{case_id}.nii.gz", is_mask=True).data
    numbers = np.zeros(labels.shape, np.uint8)
    for number, of_group in enumerate(values.values(), start=1):
        numbers[np.isin(labels, of_group)] = number
    return geometry.label_to_grid(numbers, len(values) + 1)


@dataclass(frozen=True)
class Mixture:
    """The predictions of the external teachers that have a weight, for some cases."""

    config: Config
    """Configuration with ``teacher.external``, ``labels`` and ``regions``."""
    layout: Layout
    teachers: Mapping[str, TeacherWeights] = field(default_factory=dict)
    """The external teachers in the order in which they are mixed."""
    folders: Mapping[str, Path] = field(default_factory=dict)
    """Folder of the predictions of each teacher."""
    rows: Mapping[str, Mapping[str, Row]] = field(default_factory=dict)
    """Rows of the tables of each teacher by case."""

    @classmethod
    def of_shard(cls, context: StageContext, shard: str) -> "Mixture":
        """Read the tables of a shard of unlabelled cases in the round of the stage.

        Raises:
            HstfError: if tables or files are missing or have changed.
        """
        names = names_of(context.shard(shard))
        return cls._of(context, {shard: names}, Split.UNLABELLED)

    @classmethod
    def of_split(cls, context: StageContext, split: Split) -> "Mixture":
        """Read the tables of all labelled or all unlabelled cases.

        Raises:
            HstfError: as :meth:`of_shard`.
        """
        shards = {name: names_of(cases) for name, cases in context.shards(split).items()}
        return cls._of(context, shards, split)

    @classmethod
    def _of(cls, context: StageContext, shards: Mapping[str, list[str]], split: Split) -> "Mixture":
        config = context.config
        layout = context.layout
        names = context.schedule.external(config, context.round)
        if not names:
            return cls(config, layout)
        weights = ExternalWeights.load(layout.external_weights)
        folders = {}
        rows: dict[str, dict[str, Row]] = {}
        for name in weights.used(names):
            number = 0
            if split is Split.UNLABELLED and config.teacher.external[name].prompt == "label":
                number = context.round
            rows[name] = {}
            for shard, cases in shards.items():
                table = layout.external_table(name, shard, number)
                rows[name].update(read_shard(EXTERNAL, table, cases))
                folders[name] = table.parent
        return cls(config, layout, {name: weights.teachers[name] for name in rows}, folders, rows)

    def inputs(self, case_id: str) -> dict[str, str]:
        """Return what the mixture of a case is made from, for its record."""
        inputs = {}
        for name, weights in self.teachers.items():
            row = self.rows[name][case_id]
            inputs[f"external {name}"] = ";".join(row["sha256"]) or f"missing: {row['missing']}"
            inputs[f"weights of {name}"] = weights.model_dump_json(include={"groups"})
        return inputs

    def mixed(self, case_id: str, summary: TtaSummary) -> TtaSummary:
        """Mix the external teachers into the prediction of the ensemble.

        A teacher without a prediction of this case is left out. The entropy becomes that of the
        mixture, and the disagreement grows by the probability that the external teachers move.
        """
        probabilities = summary.probabilities
        for name, weights in self.teachers.items():
            if self.rows[name][case_id]["missing"]:
                continue
            external = self._read(name, case_id)
            groups = groups_of(self.config, weights.groups)
            probabilities = mix(probabilities, external, groups, weights.weights)
        if probabilities is summary.probabilities:
            return summary
        uncertainty = mixed_uncertainty(summary, probabilities)
        return replace(summary, probabilities=probabilities, uncertainty=uncertainty)

    def _read(self, name: str, case_id: str) -> np.ndarray:
        geometry = Geometry.load(self.layout.preprocessed / case_id / GEOMETRY)
        is_soft = self.config.teacher.external[name].probabilities
        values = self.teachers[name].values
        return read_on_grid(self.folders[name], case_id, geometry, values, is_soft)


def mixed_uncertainty(summary: TtaSummary, mixed: np.ndarray) -> np.ndarray:
    """Return the uncertainty ``(3, X, Y, Z)`` uint8 of a mixture.

    Args:
        summary: the ensemble.
        mixed: ``(K, X, Y, Z)`` uint8, 255 times the probability of the mixture.
    """
    uncertainty = summary.uncertainty.copy()
    for slab in slabs(mixed.shape[1:], SLAB_VALUES // len(mixed)):
        after = mixed[:, slab].astype(np.float32) / 255
        before = summary.probabilities[:, slab].astype(np.float32) / 255
        differs = (mixed[:, slab] != summary.probabilities[:, slab]).any(axis=0)
        entropies = np.rint(255 * entropy(after)).clip(0, 255).astype(np.uint8)
        np.copyto(uncertainty[ENTROPY, slab], entropies, where=differs)
        moved = np.rint(127.5 * np.abs(after - before).sum(axis=0))
        total = uncertainty[DISAGREEMENT, slab] + moved
        uncertainty[DISAGREEMENT, slab] = total.clip(0, 255).astype(np.uint8)
    return uncertainty
