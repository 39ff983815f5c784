"""What the cells of a comparison have written: scores of the test cases by round, and the compute that went into them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.comparison import Cell
from hstf.experiment.layout import Layout
from hstf.experiment.schedule import Schedule
from hstf.experiment.tables import EVALUATION_CASES, EVALUATION_MEMBERS, SCALES
from hstf.runtime.errors import HstfError
from hstf.runtime.tables import Table
from hstf.scoring.averages import class_balanced, known
from hstf.scoring.rounds import case_mean

METRICS = ("dice", "hd95_mm", "asd_mm")
LEARNING = ("teacher", "refine", "labels", "student")
"""Stages of a round that belong to the method; evaluation is left out."""


@dataclass(frozen=True)
class Compute:
    """Seconds of all jobs together, as Snakemake measured them; an interrupted job counts from its last start."""

    cpu: float
    wall: float

    def __add__(self, other: "Compute") -> "Compute":
        return Compute(self.cpu + other.cpu, self.wall + other.wall)


@dataclass(frozen=True)
class RoundScores:
    """The test cases of a round."""

    case_ids: tuple[str, ...]
    groups: tuple[str, ...]
    """The patient of each case."""
    by_class: dict[str, np.ndarray]
    """By metric ``(cases, classes or regions)``, NaN where there is no score."""
    compute: Compute
    of_members: tuple[float, ...] = ()
    """Mean Dice of each member alone."""

    @property
    def single(self) -> float:
        """Mean Dice of one network: of the members of a team, the mean of what each has alone."""
        return fmean(self.of_members) if self.of_members else self.mean("dice")

    @cached_property
    def by_case(self) -> dict[str, np.ndarray]:
        """By metric ``(cases,)``: values whose mean is the mean over the classes."""
        return {metric: class_balanced(scores) for metric, scores in self.by_class.items()}

    def case_means(self, metric: str) -> np.ndarray:
        """``(cases,)``: mean over the classes that a case has a score of; NaN without any."""
        return np.array([case_mean(scores) for scores in self.by_class[metric]])

    def mean(self, metric: str) -> float:
        """Mean over the classes of the mean over the cases."""
        return _mean(self.by_case[metric])

    def class_means(self, metric: str) -> np.ndarray:
        """Mean over the cases, of each class."""
        return np.array([_mean(column) for column in self.by_class[metric].T])


@dataclass(frozen=True)
class CellScores:
    """A cell as far as it is done."""

    method: str
    seed: int
    usual_warmup: bool
    """Its warm-up is the one that most methods share."""
    rounds: dict[int, RoundScores]
    scales: dict[float, float]
    """Mean Dice at each input scale, by the last round's model."""


def read_cell(cell: Cell) -> CellScores:
    """The scores of a cell, of those rounds that are evaluated.

    Raises:
        HstfError: a table cannot be read.
    """
    layout, config = Layout.of(cell.config), cell.config
    done = [n for n in range(config.rounds + 1) if layout.evaluation_cases(n).is_file()]
    rounds = {n: read_round(config, n) for n in done}
    scales = layout.evaluation_scales(config.rounds)
    return CellScores(
        cell.method,
        cell.seed,
        config.reuse.warmup is not None,
        rounds,
        read_scales(scales, list(config.structures)),
    )


def read_round(config: Config, number: int) -> RoundScores:
    """Scores and compute of an evaluated round."""
    rows = EVALUATION_CASES.records(Layout.of(config).evaluation_cases(number))
    cases = {row["case_id"]: row["group"] for row in rows}
    names = list(config.structures)
    scores = {
        metric: _array(rows, ("case_id", tuple(cases)), ("class", names), metric)
        for metric in METRICS
    }
    alone = read_members(Layout.of(config).evaluation_members(number), names)
    return RoundScores(tuple(cases), tuple(cases.values()), scores, compute(config, number), alone)


def read_members(path: Path, classes: Sequence[str]) -> tuple[float, ...]:
    """Mean Dice (mean over the classes) of each member; empty without the table."""
    return tuple(_dice_by(EVALUATION_MEMBERS, path, "member", classes).values())


def read_scales(path: Path, classes: Sequence[str]) -> dict[float, float]:
    """Mean Dice (mean over the classes) by scale; empty where nothing was scored."""
    return {float(scale): dice for scale, dice in _dice_by(SCALES, path, "scale", classes).items()}


def _dice_by(table: Table, path: Path, column: str, classes: Sequence[str]) -> dict[Any, float]:
    """Mean Dice (mean over the classes) of the rows with each value of ``column``; empty without the table."""
    rows = table.records(path) if path.is_file() else []
    cases = tuple(dict.fromkeys(row["case_id"] for row in rows))
    arrays = {
        value: _array(
            [r for r in rows if r[column] == value], ("case_id", cases), ("class", classes), "dice"
        )
        for value in dict.fromkeys(row[column] for row in rows)
    }
    return {value: _mean(class_balanced(array)) for value, array in arrays.items()}


def _array(
    rows: Iterable[dict[str, Any]],
    first: tuple[str, Sequence[str]],
    second: tuple[str, Sequence[str]],
    value: str,
) -> np.ndarray:
    """The column ``value`` by two others, NaN where there is none."""
    (row_key, row_names), (column_key, column_names) = first, second
    array = np.full((len(row_names), len(column_names)), np.nan)
    places = (
        {name: k for k, name in enumerate(row_names)},
        {name: k for k, name in enumerate(column_names)},
    )
    for row in rows:
        number = known(row[value])
        if number is not None:
            array[places[0][row[row_key]], places[1][row[column_key]]] = number
    return array


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def compute(config: Config, number: int) -> Compute:
    """What the models of a round took, from the benchmarks of their jobs; the warm-up's wherever it was trained."""
    if number == 0:
        folder, own = Layout.of(config).warmup / "benchmarks", Layout.of(config).root / "benchmarks"
        files = [folder / "warmup" / f"{member}.tsv" for member in Schedule.of(config).members(0)]
        files.append(own / "calibrate.tsv")
    else:
        folder = Layout.of(config).root / "benchmarks"
        files = [f for stage in LEARNING for f in (folder / stage).glob(f"round_{number}[_.]*tsv")]
    return sum((_benchmark(file) for file in files if file.is_file()), Compute(0, 0))


def _benchmark(file: Path) -> Compute:
    """A job's seconds; Snakemake leaves out the CPU time of very short ones."""
    lines = [line.split("\t") for line in file.read_text().splitlines()]
    rows = [dict(zip(lines[0], line, strict=False)) for line in lines[1:]]
    return Compute(
        sum(_seconds(row.get("cpu_time")) for row in rows),
        sum(_seconds(row.get("s")) for row in rows),
    )


def _seconds(text: str | None) -> float:
    try:
        return known(text) or 0.0
    except ValueError:  # "NA", "-"
        return 0.0


def refuse_different_cases(cells: Sequence[CellScores]) -> None:
    """Scores are compared case by case.

    Raises:
        HstfError: cells were scored on different test cases.
    """
    found = {scores.case_ids for cell in cells for scores in cell.rounds.values()}
    if len(found) > 1:
        raise HstfError(
            "compare: the experiments were scored on different test cases, as after an edit of the case sheet."
            " Bring them up to date: snakemake compare."
        )
