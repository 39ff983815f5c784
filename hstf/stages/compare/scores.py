"""What the cells of a comparison have written: scores of the test cases and computing time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hstf.config.experiment import Config
from hstf.experiment.comparison import Cell
from hstf.experiment.job import Job
from hstf.experiment.job_seconds import Compute, job_seconds
from hstf.experiment.jobs import Jobs
from hstf.experiment.last_run import benchmark_of
from hstf.experiment.layout import Layout
from hstf.experiment.score_tables import EVALUATION_CASES, EVALUATION_MEMBERS, SCALES
from hstf.runtime.errors import HstfError
from hstf.scoring.averages import balanced_mean, mean_or_nan, structure_means

METRICS = ("dice", "hd95_mm", "asd_mm")
"""Metrics of the comparison."""
WARMUP_STAGES = ("pretrain", "warmup", "out_of_fold", "calibrate", "external")
"""Stages that make the model of the warm-up. External teachers run once for all rounds."""
METHOD_STAGES = ("external", "calibrate", "teacher", "lesions", "refine", "labels", "student")
"""Stages of a round that belong to a method. Evaluation and the monitor are not counted."""


@dataclass(frozen=True)
class RoundScores:
    """Scores of the test cases of a round."""

    case_ids: tuple[str, ...]
    groups: tuple[str, ...]
    """The patient of each case."""
    by_structure: dict[str, np.ndarray]
    """``(M, N, S)`` of each metric by model, case and structure; NaN if there is no score. M is 1,
    or the number of ensemble members for the scores of one network."""
    compute: Compute
    single: "RoundScores | None" = None
    """Scores of one network: those of all members. None if there is one member."""

    @property
    def single_dice(self) -> float:
        """Mean Dice of one network."""
        return self.mean("dice") if self.single is None else self.single.mean("dice")

    def mean(self, metric: str) -> float:
        """Return the mean over the structures of the mean over the cases."""
        return mean_or_nan(balanced_mean(scores) for scores in self.by_structure[metric])

    def structure_means(self, metric: str) -> np.ndarray:
        """Return the mean over the cases of each structure ``(S,)``."""
        return structure_means(np.array([structure_means(t) for t in self.by_structure[metric]]))


@dataclass(frozen=True)
class CellScores:
    """The evaluated rounds of a cell."""

    method: str
    seed: int
    has_common_warmup: bool
    """Whether the cell reuses the warm-up that most methods have in common."""
    rounds: dict[int, RoundScores]
    compute: Compute
    """Seconds of the warm-up and of all rounds, evaluated or not."""
    scales: dict[float, float]
    """Mean Dice of the model of the last round at each input scale."""


def read_cell(cell: Cell) -> CellScores:
    """Read the scores of a cell.

    Raises:
        HstfError: if a table cannot be read.
    """
    config = cell.config
    layout = Layout.of(config)
    rounds = {}
    total = Compute(0, 0)
    for number in range(config.rounds + 1):
        if layout.evaluation_cases(number).is_file():
            rounds[number] = read_round(config, number)
            total += rounds[number].compute
        else:
            total += compute(config, number)
    path = layout.evaluation_scales(config.rounds)
    return CellScores(
        method=cell.method,
        seed=cell.seed,
        has_common_warmup=cell.has_common_warmup,
        rounds=rounds,
        compute=total,
        scales=read_scales(path, list(config.structures)),
    )


def read_round(
    config: Config,
    number: int,
) -> RoundScores:
    """Read scores and time of an evaluated round.

    Raises:
        HstfError: if a table cannot be read.
    """
    layout = Layout.of(config)
    structures = list(config.structures)
    frame = EVALUATION_CASES.read(layout.evaluation_cases(number))
    patients = dict(zip(frame["case_id"], frame["group"], strict=True))
    case_ids = tuple(patients)
    by_structure = {}
    for metric in METRICS:
        by_structure[metric] = _scores(
            frame,
            metric,
            case_ids,
            structures,
        )[None]
    scores = RoundScores(
        case_ids=case_ids,
        groups=tuple(patients.values()),
        by_structure=by_structure,
        compute=compute(config, number),
    )
    of_members = read_members(layout.evaluation_members(number), case_ids, structures)
    if not of_members:
        return scores
    return replace(scores, single=replace(scores, by_structure=of_members))


def read_members(
    path: Path,
    case_ids: Sequence[str],
    structures: Sequence[str],
) -> dict[str, np.ndarray]:
    """Read the scores ``(M, N, S)`` of the ensemble members by metric.

    Returns:
        Nothing if the table does not exist or has one member.
    """
    if not path.is_file():
        return {}
    frame = EVALUATION_MEMBERS.read(path)
    if frame["member"].nunique() < 2:
        return {}
    of_members = [rows for _, rows in frame.groupby("member", sort=False)]
    by_metric = {}
    for metric in METRICS:
        tables = [_scores(rows, metric, case_ids, structures) for rows in of_members]
        by_metric[metric] = np.array(tables)
    return by_metric


def read_scales(
    path: Path,
    structures: Sequence[str],
) -> dict[float, float]:
    """Read the mean Dice at each scale; empty if the table does not exist."""
    if not path.is_file():
        return {}
    return _mean_dice_by(SCALES.read(path), "scale", structures)


def _mean_dice_by(
    frame: pd.DataFrame,
    column: str,
    structures: Sequence[str],
) -> dict[Any, float]:
    """Return the mean Dice over the structures for each value of ``column``."""
    case_ids = tuple(frame["case_id"].unique())
    means = {}
    for value, rows in frame.groupby(column, sort=False):
        scores = _scores(
            rows,
            "dice",
            case_ids,
            structures,
        )
        means[value] = balanced_mean(scores)
    return means


def _scores(
    frame: pd.DataFrame,
    metric: str,
    case_ids: Sequence[str],
    structures: Sequence[str],
) -> np.ndarray:
    """Return a column as ``(N, S)`` by case and structure, NaN if there is no score."""
    wide = frame.pivot(index="case_id", columns="class", values=metric)
    table = wide.reindex(index=list(case_ids), columns=list(structures))
    return table.to_numpy(dtype=float)


def compute(
    config: Config,
    number: int,
) -> Compute:
    """Add up the time of the jobs that made the model of a round.

    The time of the warm-up is found in the experiment that trained it. Files of jobs that the
    experiment no longer has, such as those of an earlier ensemble member, do not count.
    """
    jobs = Jobs(config)
    total = Compute(0, 0)
    for job in jobs.all():
        file = jobs.root(job) / benchmark_of(job.name)
        if _makes_model(job, number) and file.is_file():
            total += job_seconds(file)
    return total


def _makes_model(job: Job, number: int) -> bool:
    """Return whether a job is part of making the model of a round."""
    if number:
        return job.round == number and job.stage in METHOD_STAGES
    return not job.round and job.stage in WARMUP_STAGES


def without_warmup(cell: CellScores) -> CellScores:
    """Leave out the scores of the warm-up; the others and the time stay."""
    rounds = {number: scores for number, scores in cell.rounds.items() if number}
    return replace(cell, rounds=rounds)


def refuse_different_cases(cells: Sequence[CellScores]) -> None:
    """Refuse cells that were scored on different test cases: scores are compared case by case.

    Raises:
        HstfError: if the test cases differ.
    """
    found: set[tuple[str, ...]] = set()
    for cell in cells:
        found.update(scores.case_ids for scores in cell.rounds.values())
    if len(found) > 1:
        raise HstfError(
            "compare: the experiments were scored on different test cases, for instance because the"
            " case sheet was edited. Bring them up to date: snakemake compare."
        )
