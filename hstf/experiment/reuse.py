"""Experiments that reuse data, the warm-up or weights of another one: what must agree."""

from collections.abc import Iterable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

from hstf.config.experiment import Config
from hstf.config.load import load_config
from hstf.experiment.cases import CaseSheet, Split, read_cases
from hstf.experiment.layout import Layout
from hstf.experiment.round_tables import TEACHER
from hstf.experiment.schedule import Schedule
from hstf.runtime.errors import HstfError, few, join_problems

DATA_STAGES = ("check", "plan", "preprocess")
DATA_KEYS = ("labels", "modalities", "preprocess", "shard_size")
"""Keys that must agree: otherwise reused scans, plan or network would be read in a wrong way."""
WARMUP_KEYS = ("regions", "warmup.folds", "warmup.fold_members", "warmup.seeds")
"""Keys that must agree in addition if the warm-up is reused."""
SCORE_KEYS = (
    "evaluate.empty",
    "evaluate.detection",
    "predict.overlap",
    "predict.flip_axes",
    "predict.clean",
)
"""The same for the scores of round 0, which all rounds are compared with."""


def check_reuse(config: Config) -> None:
    """Check that the experiments of ``reuse:`` exist and agree with this one.

    Raises:
        HstfError: with all problems.
    """
    problems = []
    for name, folder in config.reuse:
        if folder is not None:
            problems += _problems(config, f"reuse.{name}", Path(folder))
    if problems:
        raise join_problems("the results of another experiment cannot be reused.", problems)


def refuse_unfinished(config: Config) -> None:
    """Refuse to reuse results that do not exist yet.

    Otherwise Snakemake would stop with a list of missing files and no advice.

    Raises:
        HstfError: with the target of each experiment that must run first.
    """
    layout = Layout.of(config)
    problems = []
    if config.reuse.data is not None:
        files = [layout.plan, *_preprocessed_tables(config, layout)]
        problems += _unfinished("data", layout.data, "preprocess", files)
    if config.reuse.warmup is not None:
        members = Schedule.of(config).trained(0)
        files = [layout.weights(0, member) for member in members]
        problems += _unfinished("warmup", layout.warmup, "warmup", files)
    if problems:
        raise join_problems("the results of another experiment do not exist yet.", problems)


def _preprocessed_tables(config: Config, layout: Layout) -> list[Path]:
    """Return the tables of preprocessed cases that the stages of an experiment read."""
    sheet = read_cases(config)
    shards = list(sheet.shards(Split.LABELLED, config.shard_size))
    if Schedule.of(config).uses_unlabelled:
        shards += sheet.shards(Split.UNLABELLED, config.shard_size)
    return [layout.preprocessed_table(shard) for shard in shards]


def _unfinished(name: str, folder: Path, target: str, files: Iterable[Path]) -> list[str]:
    """Describe the files that a target of another experiment has not made yet."""
    missing = [file.relative_to(folder).as_posix() for file in files if not file.is_file()]
    if not missing:
        return []
    return [
        f"reuse.{name}: {folder} has no {few(missing)};"
        f" run 'snakemake {target}' with the configuration of that experiment first"
    ]


def _problems(config: Config, key: str, folder: Path) -> list[str]:
    if not (folder / "config.yaml").is_file():
        return [
            f"{key}: {folder} is not an experiment (there is no config.yaml);"
            " give a folder such as results/<experiment>"
        ]
    other = load_config(folder / "config.yaml")
    names = list(DATA_KEYS)
    if key == "reuse.warmup":
        names += [*WARMUP_KEYS, *SCORE_KEYS]
        if config.student.start == "previous_round":
            names.append("network")
        if config.pretrain.is_on or other.pretrain.is_on:
            names.append("pretrain")
    problems = _sheet_problems(config, other, key, folder)
    for name in names:
        here = attrgetter(name)(config)
        there = attrgetter(name)(other)
        if _ordered(here) != _ordered(there):
            problems.append(
                f"{key}: {name} is {there} in {folder} and {here} here; both must be the same"
            )
    return problems


def _ordered(value: Any) -> Any:
    """Return the items of a mapping: two mappings in another order are not the same."""
    return list(value.items()) if isinstance(value, Mapping) else value


def _sheet_problems(config: Config, other: Config, key: str, folder: Path) -> list[str]:
    """Describe test patients that the other experiment learned from, and other training cases."""
    try:
        ours = read_cases(config)
        theirs = read_cases(other)
    except HstfError as error:
        return [f"{key}: the case sheets cannot be compared with {folder}: {error}"]
    problems = []
    tested = {case.group for case in ours.cases if not case.split.is_training}
    seen = {case.group for case in theirs.cases if case.split.is_training}
    if tested & seen:
        problems.append(
            f"{key}: {few(sorted(tested & seen))} is a validation or test patient here and a"
            f" training patient in {folder}"
        )
    here = {case.case_id for case in ours.cases if case.split.is_training}
    missing = here - {case.case_id for case in theirs.cases if case.split.is_training}
    if missing:
        problems.append(
            f"{key}: {folder} has not preprocessed {few(sorted(missing))}; leave 'reuse:' out, or"
            " use the cases of that experiment"
        )
    labelled = {case.case_id for case in ours.of(Split.LABELLED)}
    learned = _learned_cases(other, theirs)
    if key == "reuse.warmup" and learned != labelled:
        problems.append(
            f"{key}: the warm-up of {folder} has other labelled cases than this experiment"
            f" ({few(sorted(learned ^ labelled))}); train a warm-up on these cases"
        )
    return problems


def _learned_cases(config: Config, sheet: CaseSheet) -> set[str]:
    """Return the cases that a warm-up learned from; those of its sheet if it is not done yet.

    The sheet may have changed since the warm-up was trained.
    """
    layout = Layout.of(config)
    learned: set[str] = set()
    for fold in Schedule.of(config).held_out:
        table = layout.out_of_fold_table(fold)
        if table.is_file():
            learned.update(row["case_id"] for row in TEACHER.records(table))
    return learned or {case.case_id for case in sheet.of(Split.LABELLED)}


def refuse_reused(config: Config, stage: str, number: int = 0) -> None:
    """Refuse a stage whose output belongs to another experiment.

    Args:
        config: the whole configuration.
        stage: name of the stage.
        number: the round; round 0 is evaluated in the experiment of the warm-up.

    Raises:
        HstfError: if the stage would write into another experiment.
    """
    folder = None
    if stage in DATA_STAGES:
        folder = config.reuse.data
    elif stage in ("pretrain", "warmup", "out_of_fold") or (stage == "evaluate" and number == 0):
        folder = config.reuse.warmup
    if folder is not None:
        raise HstfError(
            f"{stage}: this experiment reuses the results of {folder} ('reuse:')."
            " Run the stage there, or remove 'reuse:'."
        )


def refuse_missing_start(config: Config) -> None:
    """Refuse to start while the file ``network.start`` is missing.

    Snakemake would use the trainings that exist, although they started from something else.

    Raises:
        HstfError: if there is no such file.
    """
    start = config.network.start
    if start is not None and not Path(start).is_file():
        raise HstfError(
            f"network.start: there is no file {start}. Give the path of a file of weights,"
            f" relative to {Path.cwd()}, or leave the key out."
        )
