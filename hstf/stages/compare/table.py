"""The table of a comparison: means over seeds, paired tests, fraction of the gap, time."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np

from hstf.experiment.job_seconds import Compute
from hstf.scoring.averages import existing, mean, sample_deviation
from hstf.scoring.significance import Comparison, compare
from hstf.stages.compare.scores import METRICS, CellScores, RoundScores

SUPERVISED = "supervised"
REFERENCES = (SUPERVISED, "noisy_student")
"""Methods that all others are tested against."""
UPPER_BOUND = "full"
"""The method that learns from the labels of all cases."""
WARMUP = "warm-up"
ENSEMBLE = "ensemble"
ONE_NETWORK = "one network"


@dataclass(frozen=True)
class Entry:
    """A row of the table: a method, or the warm-up that most methods have in common."""

    name: str
    by_seed: Mapping[int, RoundScores]
    compute: Compute
    """Seconds of a seed including its warm-up, mean over the seeds."""
    is_single: bool = False
    """Whether the scores are those of one network of an ensemble."""

    @property
    def model(self) -> str:
        """What was scored: an ensemble or one network."""
        has_members = any(scores.single is not None for scores in self.seeds)
        return ENSEMBLE if has_members and not self.is_single else ONE_NETWORK

    def single(self) -> "Entry":
        """Return the entry with the scores of one network."""
        by_seed = {seed: scores.single or scores for seed, scores in self.by_seed.items()}
        return replace(self, by_seed=by_seed, is_single=True)

    @property
    def seeds(self) -> tuple[RoundScores, ...]:
        """The scores of each seed."""
        return tuple(self.by_seed.values())

    def of_seeds(self, seeds: Iterable[int]) -> "Entry":
        """Return the entry with some of its seeds."""
        return replace(self, by_seed={seed: self.by_seed[seed] for seed in seeds})

    @property
    def single_dice(self) -> float:
        """Mean Dice of one network, see :attr:`RoundScores.single_dice`."""
        return fmean(scores.single_dice for scores in self.seeds)

    def dice_tables(self) -> np.ndarray:
        """Return the Dice ``(M, N, S)`` of the networks of all seeds."""
        return np.concatenate([scores.by_structure["dice"] for scores in self.seeds])


def entries(
    cells: Sequence[CellScores],
    last: int,
) -> list[Entry]:
    """Return the warm-up and the methods with the seeds that are done.

    Args:
        cells: all cells of the comparison.
        last: number of the last round. A seed of a method is done if this round is evaluated.
    """
    found = []
    warmups = {}
    for cell in cells:
        if cell.has_common_warmup and 0 in cell.rounds:
            warmups[cell.seed] = (cell.rounds[0], cell.rounds[0].compute)
    if warmups:
        found.append(_entry(WARMUP, warmups))
    for method in dict.fromkeys(cell.method for cell in cells):
        done = {}
        for cell in cells:
            if cell.method == method and last in cell.rounds:
                done[cell.seed] = (cell.rounds[last], cell.compute)
        if done:
            found.append(_entry(method, done))
    return found


def _entry(
    name: str,
    seeds: Mapping[int, tuple[RoundScores, Compute]],
) -> Entry:
    """Make an entry from the scores and the total time of each seed."""
    by_seed = {seed: scores for seed, (scores, _) in seeds.items()}
    cpu = fmean(total.cpu for _, total in seeds.values())
    wall = fmean(total.wall for _, total in seeds.values())
    return Entry(name, by_seed, Compute(cpu, wall))


def table(
    found: Sequence[Entry],
    structures: Sequence[str],
    resamples: int = 2000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return rows with the columns of :func:`columns`: for each entry its ensemble and one network.

    An ensemble is compared with an ensemble, and one network with one network, on the seeds that
    both have.

    Args:
        found: the entries.
        structures: names of the structures.
        resamples: number of draws of patients for the intervals.
        seed: seed of the draws.
    """
    ensembles = {entry.name: entry for entry in found}
    singles = {entry.name: entry.single() for entry in found}
    rows = []
    for entry in _with_single_networks(found):
        by_name = singles if entry.is_single else ensembles
        row: dict[str, Any] = {"method": entry.name, "model": entry.model}
        row["seeds"] = len(entry.seeds)
        row |= _means_over_seeds(entry, structures)
        for name in REFERENCES:
            reference = by_name.get(name)
            is_other = reference is not None and reference.name != entry.name
            if reference is None or not is_other or not common_seeds(entry, reference):
                continue
            row |= _change(
                f"vs_{name}",
                tested(
                    entry,
                    reference,
                    resamples,
                    seed,
                ),
            )
        row["gap_fraction"] = gap_fraction(by_name, entry, WARMUP)
        row["label_gap_fraction"] = None
        if entry.name != WARMUP:
            row["label_gap_fraction"] = gap_fraction(by_name, entry, SUPERVISED)
        row["cpu_s"] = entry.compute.cpu
        row["wall_s"] = entry.compute.wall
        rows.append(row)
    return rows


def _with_single_networks(found: Sequence[Entry]) -> Iterator[Entry]:
    """Yield each entry and, if it has several members, one network of it."""
    for entry in found:
        yield entry
        if entry.model == ENSEMBLE:
            yield entry.single()


def columns(structures: Sequence[str]) -> list[str]:
    """Return the columns of :data:`hstf.experiment.score_tables.COMPARE_TABLE`."""
    names = ["method", "model", "seeds"]
    for metric in METRICS:
        names += [metric, f"{metric}_sd"]
    for reference in REFERENCES:
        change = f"vs_{reference}"
        names += [change, f"{change}_low", f"{change}_high", f"{change}_p"]
    names += ["gap_fraction", "label_gap_fraction", "cpu_s", "wall_s"]
    for metric in METRICS:
        for structure in structures:
            names += [f"{metric}_of_{structure}", f"{metric}_sd_of_{structure}"]
    return names


def _means_over_seeds(
    entry: Entry,
    structures: Sequence[str],
) -> dict[str, float | None]:
    """Return mean and standard deviation over the seeds of each metric, also for each structure."""
    row: dict[str, float | None] = {}
    for metric in METRICS:
        row |= _over_seeds(metric, "", [scores.mean(metric) for scores in entry.seeds])
        by_seed = [scores.structure_means(metric) for scores in entry.seeds]
        for name, values in zip(structures, np.transpose(by_seed), strict=True):
            row |= _over_seeds(metric, f"_of_{name}", values)
    return row


def _over_seeds(
    metric: str,
    suffix: str,
    scores: Iterable[float],
) -> dict[str, float | None]:
    """Return mean and sample standard deviation; one seed has no deviation.

    Args:
        metric: the metric.
        suffix: ``_of_<structure>``; empty for the mean over the structures.
        scores: score of each seed.
    """
    numbers = existing(scores)
    return {
        f"{metric}{suffix}": mean(numbers),
        f"{metric}_sd{suffix}": sample_deviation(numbers),
    }


def common_seeds(*entries: Entry) -> list[int]:
    """Return the seeds that all entries have. Not all are done in an unfinished comparison."""
    first, *others = entries
    common = set(first.by_seed).intersection(*(other.by_seed for other in others))
    return [seed for seed in first.by_seed if seed in common]


def tested(
    entry: Entry,
    reference: Entry,
    resamples: int,
    seed: int,
) -> Comparison:
    """Compare the Dice of two entries on the same test cases.

    The score of a case is its mean over the seeds that both have. As between rounds, the difference
    is that of the means over the structures, and the test ranks the patients by the mean of the
    differences of their structures.

    Args:
        entry: a method.
        reference: the method that it is compared with.
        resamples: number of draws of patients for the interval.
        seed: seed of the draws.
    """
    both = common_seeds(entry, reference)
    entry = entry.of_seeds(both)
    reference = reference.of_seeds(both)
    groups = entry.seeds[0].groups
    return compare(
        entry.dice_tables(),
        reference.dice_tables(),
        groups,
        resamples,
        seed,
    )


def _change(
    name: str,
    comparison: Comparison,
) -> dict[str, float | None]:
    change = comparison.difference
    return {
        name: change.mean,
        f"{name}_low": change.low,
        f"{name}_high": change.high,
        f"{name}_p": comparison.p_value,
    }


def gap_fraction(
    found: Mapping[str, Entry],
    entry: Entry,
    start: str,
) -> float | None:
    """Return the fraction of the gap that a method closes.

    The gap is between the mean Dice of one network of ``start`` (0) and of one network that learned
    from the labels of all cases (1). Single networks are compared, because an ensemble gains from
    averaging.

    Args:
        found: all entries by name.
        entry: the method.
        start: name of the entry where the gap begins.

    Returns:
        None if one of the ends is missing, if there is no common seed, or if the upper bound is not
        above the start.
    """
    if start not in found or UPPER_BOUND not in found:
        return None
    seeds = common_seeds(entry, found[start], found[UPPER_BOUND])
    if not seeds:
        return None
    dice = entry.of_seeds(seeds).single_dice
    lower = found[start].of_seeds(seeds).single_dice
    upper = found[UPPER_BOUND].of_seeds(seeds).single_dice
    return (dice - lower) / (upper - lower) if upper > lower else None
