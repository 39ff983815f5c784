"""Label-free evidence about the model of a round, and what in it shows a collapse.

Students that learn from their own errors can lose a class: each round predicts a little less of
it, and every pseudo-label still looks consistent. The stage ``monitor`` therefore lets the model of
each round predict the same unlabelled cases and compares the volumes of all structures with those
of earlier rounds and of the labelled cases. No label of an unlabelled case is read.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np

from hstf.config.monitor import MonitorConfig
from hstf.experiment.layout import Layout
from hstf.imaging.regions import Structures, structure_mask
from hstf.runtime.documents import Document, Part
from hstf.runtime.errors import join_problems
from hstf.scoring.confusion import confusion, table_dice

KNOWN_FRACTION = 0.25
"""A structure that cases may lack must have been found in this fraction of the cases before."""
KNOWN_CASES = 2
"""The same as a number of cases."""


class StructureFound(Part):
    """How much of a structure the model of a round finds in the monitored cases."""

    present: int
    """Number of cases in which it is found."""
    mean_ml: float
    """Mean volume over all monitored cases."""


class LabelledStructure(Part):
    """A structure in the labels of the labelled cases."""

    every_case: bool
    """Whether every labelled case has it, as far as labels show: no dense label lacks it, and at
    least half of all labels have it."""
    mean_ml: float | None
    """Mean volume over the cases with dense labels; None without any."""


class RoundMonitor(Document):
    """``round_<r>/monitor.json``: label-free evidence about the model of a round."""

    stage = "monitor"

    round: int
    cases: int
    """Number of unlabelled cases that were predicted."""
    structures: dict[str, StructureFound]
    labelled: dict[str, LabelledStructure]
    """The same structures in the labelled cases."""
    member_dice: dict[str, float]
    """Mean pairwise Dice of the ensemble members by structure; empty for a single member."""
    teacher_dice: dict[str, float]
    """Mean Dice with the teacher of the round by structure; empty without pseudo-labels."""
    collapse: list[str]
    """What shows that the model has collapsed; empty for a sound model."""
    warnings: list[str]
    """Structures that no round has found so far, although no labelled case is known to lack
    them."""


def volumes_ml(label: np.ndarray, structures: Structures, voxel_ml: float) -> dict[str, float]:
    """Return the volume of each structure in a label map.

    Args:
        label: ``(X, Y, Z)`` class index.
        structures: classes of each structure.
        voxel_ml: volume of a voxel in millilitres.
    """
    volumes = {}
    for name, classes in structures.items():
        volumes[name] = int(np.count_nonzero(structure_mask(label, classes))) * voxel_ml
    return volumes


def found_structures(volumes: Sequence[Mapping[str, float]]) -> dict[str, StructureFound]:
    """Summarise the volumes of at least one case.

    Example:
        >>> found_structures([{"liver": 2.0}, {"liver": 0.0}])["liver"]
        StructureFound(present=1, mean_ml=1.0)
    """
    found = {}
    for name in volumes[0]:
        values = [case[name] for case in volumes]
        present = sum(value > 0 for value in values)
        found[name] = StructureFound(present=present, mean_ml=float(np.mean(values)))
    return found


def labelled_structures(
    volumes: Sequence[Mapping[str, float]], are_dense: Sequence[bool]
) -> dict[str, LabelledStructure]:
    """Summarise the labels of at least one labelled case.

    A sparse label can show that a case has a structure. It shows neither that the case lacks it nor
    its volume.

    Args:
        volumes: volume (ml) of each structure in each label.
        are_dense: whether each label is dense.

    Example:
        The second label has a scribble of 0.1 ml:

        >>> labelled_structures([{"liver": 2.0}, {"liver": 0.1}], [True, False])["liver"]
        LabelledStructure(every_case=True, mean_ml=2.0)
    """
    found = {}
    for name in volumes[0]:
        values = [case[name] for case in volumes]
        dense = [value for value, is_dense in zip(values, are_dense, strict=True) if is_dense]
        with_structure = sum(value > 0 for value in values)
        # A few scribbles do not show that all other cases have a structure, such as a lesion.
        every_case = all(value > 0 for value in dense) and 2 * with_structure >= len(values)
        mean_ml = float(np.mean(dense)) if dense else None
        found[name] = LabelledStructure(every_case=every_case, mean_ml=mean_ml)
    return found


def pairwise_dice(labels: Sequence[np.ndarray], structures: Structures) -> dict[str, float]:
    """Return the mean Dice of all pairs of label maps by structure; empty for a single one.

    A structure that both lack has Dice 1.

    Args:
        labels: label map ``(X, Y, Z)`` of each ensemble member.
        structures: classes of each structure.
    """
    rows = []
    classes = 1 + max(index for indices in structures.values() for index in indices)
    for first, second in combinations(labels, 2):
        rows.append(table_dice(confusion(first, second, classes), structures, 1.0))
    if not rows:
        return {}
    return dict(zip(structures, np.mean(rows, axis=0).tolist(), strict=True))


def mean_by_structure(cases: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean over the cases by structure; empty without cases."""
    if not cases:
        return {}
    return {name: float(np.mean([case[name] for case in cases])) for name in cases[0]}


def collapse_findings(
    now: RoundMonitor, earlier: Iterable[RoundMonitor], section: MonitorConfig
) -> list[str]:
    """Describe what shows that the model of a round has collapsed.

    A structure is compared with the earlier round that found most of it, so that a slow loss over
    several rounds is seen, too.

    Args:
        now: the round.
        earlier: all earlier rounds, the warm-up first.
        section: section ``monitor`` of the configuration.
    """
    findings = []
    rounds = list(earlier)
    for name in now.structures:
        findings += _loss_of(name, now, rounds, section)
    bound = section.minimum_agreement
    if now.member_dice:
        agreement = float(np.mean(list(now.member_dice.values())))
        if agreement < bound:
            findings.append(
                f"the ensemble members agree on nothing: their mean pairwise Dice is"
                f" {agreement:.2f}, expected at least {bound:g}"
            )
    return findings


def _loss_of(
    name: str, now: RoundMonitor, earlier: Sequence[RoundMonitor], section: MonitorConfig
) -> list[str]:
    """Describe the loss of a structure, with at most one sentence."""
    if not earlier:
        return []
    found = now.structures[name]
    labelled = now.labelled[name]
    best = max(earlier, key=lambda monitor: monitor.structures[name].present)
    before = best.structures[name]
    cases = f"found in {found.present} of {now.cases} unlabelled cases"
    reference = f"round {best.round} found it in {before.present}"
    if not labelled.every_case:
        known = max(KNOWN_CASES, KNOWN_FRACTION * now.cases)
        vanished = found.present == 0 and before.present >= known and section.minimum_presence > 0
        return [f"{name} has vanished: {cases}; {reference}"] if vanished else []
    if found.present < section.minimum_presence * before.present:
        return [
            f"{name} vanishes: {cases}; {reference}, and no labelled case is known to lack it",
        ]
    most = max(earlier, key=lambda monitor: monitor.structures[name].mean_ml)
    volume = most.structures[name].mean_ml
    expected = volume
    references = f"{volume:.3g} ml in round {most.round}"
    if labelled.mean_ml is not None:
        expected = min(volume, labelled.mean_ml)
        references += f" and {labelled.mean_ml:.3g} ml in the labelled cases"
    if found.mean_ml < section.minimum_volume * expected:
        return [f"{name} shrinks: its mean volume is {found.mean_ml:.3g} ml, but {references}"]
    return []


def never_found(now: RoundMonitor, earlier: Iterable[RoundMonitor]) -> list[str]:
    """Describe the structures of all labelled cases that no round has found in most cases."""
    warnings = []
    rounds = [*earlier, now]
    for name, labelled in now.labelled.items():
        most = max(monitor.structures[name].present for monitor in rounds)
        if labelled.every_case and 2 * most < now.cases:
            found = now.structures[name].present
            warnings.append(
                f"{name} is found in {found} of {now.cases} unlabelled cases only, although no"
                " labelled case is known to lack it. Raise warmup.steps, or label more cases"
            )
    return warnings


def refuse_collapsed(layout: Layout, number: int, section: MonitorConfig) -> None:
    """Refuse to continue from a round whose model has collapsed.

    If rounds are not monitored, a file that an earlier run left does not count.

    Args:
        layout: files of the experiment.
        number: the round that the next one continues from.
        section: section ``monitor`` of the configuration.

    Raises:
        HstfError: with what shows the collapse, if ``monitor.on_collapse`` is ``stop``.
    """
    path = layout.monitor(number)
    if section.on_collapse == "continue" or not section.cases or not path.is_file():
        return
    findings = RoundMonitor.load(path).collapse
    if findings:
        advice = (
            "Earlier rounds are as they were. To finish with the best of them, set rounds to"
            f" {number}. To train the round again, change student.steps or refine."
        )
        if number == 0:
            advice = "Train the warm-up for more steps (warmup.steps), or label more cases."
        raise join_problems(
            f"The model of round {number} has collapsed, so no further round is started"
            f" ({path} has the evidence). {advice} To go on anyway, set monitor.on_collapse to"
            " continue.",
            findings,
        )
