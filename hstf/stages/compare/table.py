"""The table of a comparison: means and deviations over seeds, paired tests, share of the gap, compute."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

import numpy as np

from hstf.scoring.averages import known
from hstf.scoring.significance import Comparison, compare, mean_interval
from hstf.stages.compare.scores import METRICS, CellScores, RoundScores

SUPERVISED = "supervised"
REFERENCES = (SUPERVISED, "noisy_student")
CEILING = "full"
WARMUP = "warm-up"


@dataclass(frozen=True)
class Entry:
    """A row of the table: a method, or the warm-up that most methods share, with all its seeds."""

    name: str
    by_seed: Mapping[int, RoundScores]
    cpu: float
    """Seconds of a seed, its warm-up included; mean over the seeds."""
    wall: float

    @property
    def seeds(self) -> tuple[RoundScores, ...]:
        """The scores alone."""
        return tuple(self.by_seed.values())

    def of_seeds(self, seeds: Iterable[int]) -> "Entry":
        """The same with some of the seeds."""
        return replace(self, by_seed={seed: self.by_seed[seed] for seed in seeds})

    def mean(self, metric: str) -> float:
        """Mean over the seeds."""
        return fmean(scores.mean(metric) for scores in self.seeds)

    @property
    def single(self) -> float:
        """Mean Dice of one network: see :attr:`RoundScores.single`."""
        return fmean(scores.single for scores in self.seeds)

    def by_case(self, metric: str) -> np.ndarray:
        """``(cases,)``, mean over the seeds: values whose mean is the mean over the classes."""
        return np.mean([scores.by_case[metric] for scores in self.seeds], axis=0)

    def case_means(self, metric: str) -> np.ndarray:
        """``(cases,)``, mean over the seeds: each the plain mean over the classes that the case has."""
        return np.mean([scores.case_means(metric) for scores in self.seeds], axis=0)


def entries(cells: Sequence[CellScores], rounds: int) -> list[Entry]:
    """The warm-up and each method with its seeds, as far as their last round (number ``rounds``) is evaluated."""
    usual = {cell.seed: cell.rounds[0] for cell in cells if cell.usual_warmup and 0 in cell.rounds}
    found = [_entry(WARMUP, {seed: {0: scores} for seed, scores in usual.items()})] if usual else []
    for method in dict.fromkeys(cell.method for cell in cells):
        done = {
            cell.seed: cell.rounds
            for cell in cells
            if cell.method == method and rounds in cell.rounds
        }
        found += [_entry(method, done)] if done else []
    return found


def _entry(name: str, seeds: Mapping[int, Mapping[int, RoundScores]]) -> Entry:
    """Of each seed its rounds; the last is what counts."""
    compute = [[scores.compute for scores in rounds.values()] for rounds in seeds.values()]
    return Entry(
        name,
        {seed: rounds[max(rounds)] for seed, rounds in seeds.items()},
        fmean(sum(c.cpu for c in seed) for seed in compute),
        fmean(sum(c.wall for c in seed) for seed in compute),
    )


def table(
    found: Sequence[Entry], classes: Sequence[str], resamples: int = 2000, seed: int = 0
) -> list[dict[str, Any]]:
    """A row for each entry.

    Columns: ``method``; ``seeds``, their number; for each metric its mean over the seeds and the standard deviation
    over them (``<metric>_sd``), also of each class (``<metric>_<class>``); ``dice_single``, the Dice of one network;
    for each reference method the mean change of Dice (``vs_<method>``) with its 95% bootstrap interval over patients
    (``_low``, ``_high``) and ``_p`` of Wilcoxon's signed-rank test over patients, seeds averaged; ``gap_fraction``: part
    of the way from a network of the warm-up to one of ``full``, and ``label_gap_fraction`` from one of ``supervised``, which
    has had the same steps; ``cpu_s``, ``wall_s``: of all jobs of a seed. What is compared is compared on the seeds that
    all sides have.
    """
    by_name = {entry.name: entry for entry in found}
    rows = []
    for entry in found:
        row: dict[str, Any] = {"method": entry.name, "seeds": len(entry.seeds)}
        for metric in METRICS:
            row |= _over_seeds(metric, [scores.mean(metric) for scores in entry.seeds])
        for name in REFERENCES:
            if name in by_name and name != entry.name and shared_seeds(entry, by_name[name]):
                row |= _change(f"vs_{name}", tested(entry, by_name[name], resamples, seed))
        row |= {
            "dice_single": entry.single,
            "gap_fraction": gap_fraction(by_name, entry, WARMUP),
            "label_gap_fraction": None
            if entry.name == WARMUP
            else gap_fraction(by_name, entry, SUPERVISED),
            "cpu_s": entry.cpu,
            "wall_s": entry.wall,
        }
        for metric in METRICS:
            for k, name in enumerate(classes):
                row |= _over_seeds(
                    f"{metric}_{name}", [scores.class_means(metric)[k] for scores in entry.seeds]
                )
        rows.append(row)
    return rows


def columns(structures: Sequence[str]) -> list[str]:
    """Return the columns of ``table.csv``."""
    names = ["method", "seeds"]
    for metric in METRICS:
        names += [metric, f"{metric}_sd"]
    names.append("dice_single")
    for reference in REFERENCES:
        change = f"vs_{reference}"
        names += [change, f"{change}_low", f"{change}_high", f"{change}_p"]
    names += ["gap_fraction", "label_gap_fraction", "cpu_s", "wall_s"]
    for metric in METRICS:
        for structure in structures:
            names += [f"{metric}_{structure}", f"{metric}_{structure}_sd"]
    return names


def _over_seeds(name: str, scores: Iterable[float]) -> dict[str, float | None]:
    """Mean and sample standard deviation over the seeds; none of one seed."""
    numbers = [value for score in scores if (value := known(score)) is not None]
    return {
        name: fmean(numbers) if numbers else None,
        f"{name}_sd": stdev(numbers) if len(numbers) > 1 else None,
    }


def shared_seeds(*entries: Entry) -> list[int]:
    """The seeds that all have: a comparison that is not done yet lacks some here and there."""
    return [seed for seed in entries[0].by_seed if all(seed in entry.by_seed for entry in entries)]


def tested(entry: Entry, reference: Entry, resamples: int, seed: int) -> Comparison:
    """Dice of two entries on the same test cases, each case's the mean over the seeds that both have.

    As between rounds, the difference is that of the means over the classes, and the test ranks the patients by the mean
    over the classes that a case has.
    """
    both = shared_seeds(entry, reference)
    entry, reference = entry.of_seeds(both), reference.of_seeds(both)
    groups = entry.seeds[0].groups
    change = mean_interval(
        entry.by_case("dice") - reference.by_case("dice"), groups, resamples, seed
    )
    ranked = compare(
        entry.case_means("dice"), reference.case_means("dice"), groups, resamples, seed
    )
    return replace(ranked, difference=change)


def _change(name: str, comparison: Comparison) -> dict[str, float | None]:
    change = comparison.difference
    return {
        name: change.mean, f"{name}_low": change.low, f"{name}_high": change.high, f"{name}_p": comparison.p_value,
    }  # fmt: skip


def gap_fraction(found: Mapping[str, Entry], entry: Entry, start: str) -> float | None:
    """Part of the way from the mean Dice of a network of ``start`` (0) to that of one trained on every label (1) that a
    network of a method goes. A team against a single network would count what averaging gains.

    None without either end or a seed that all have, and where the ceiling does not lie above the start.
    """
    if start not in found or CEILING not in found:
        return None
    ends = found[start], found[CEILING]
    seeds = shared_seeds(entry, *ends)
    if not seeds:
        return None
    single, floor, ceiling = (side.of_seeds(seeds).single for side in (entry, *ends))
    return (single - floor) / (ceiling - floor) if ceiling > floor else None
