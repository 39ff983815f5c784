"""Experiments that build on another's data or warm-up: what must be the same, and what is not theirs to write."""

from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

from hstf.config.experiment import Config
from hstf.config.load import load_config
from hstf.experiment.cases import Split, read_cases
from hstf.experiment.layout import Layout
from hstf.experiment.schedule import warmup_members
from hstf.experiment.tables import TEACHER
from hstf.runtime.errors import HstfError, few, join_problems

DATA_STAGES = ("check", "plan", "preprocess")
MUST_AGREE = ("labels", "modalities", "preprocess", "shard_size")
"""Keys without which reused scans, plan or network would be read wrongly; of mappings the order counts."""


def check_reuse(config: Config) -> None:
    """See that the experiments of ``reuse:`` are there and fit.

    Raises:
        HstfError: with every fault.
    """
    named = {f"reuse.{key}": folder for key, folder in config.reuse if folder is not None}
    faults = [
        fault for key, folder in named.items() for fault in _faults(config, key, Path(folder))
    ]
    if faults:
        raise join_problems("another experiment's work cannot be reused.", faults)


def _faults(config: Config, key: str, folder: Path) -> list[str]:
    if not (folder / "config.yaml").is_file():
        return [
            f"{key}: {folder} holds no experiment (there is no config.yaml); name one, as results/<experiment>"
        ]
    other = load_config(folder / "config.yaml")
    differing = _sheet_faults(config, other, key, folder)
    trained = ["regions", "warmup.folds", "warmup.seeds"] if key == "reuse.warmup" else []
    started = ["network"] if trained and config.student.start == "previous_round" else []
    return differing + [
        f"{key}: {name} is {attrgetter(name)(other)} in {folder} and {attrgetter(name)(config)} here; both must be the same"
        for name in (*MUST_AGREE, *trained, *started)
        if _in_order(attrgetter(name)(other)) != _in_order(attrgetter(name)(config))
    ]


def _in_order(value: Any) -> Any:
    """Of mappings the items: two with the same items in another order are not the same."""
    return list(value.items()) if isinstance(value, Mapping) else value


def _sheet_faults(config: Config, other: Config, key: str, folder: Path) -> list[str]:
    """Test patients that the other experiment learned from, and labelled cases that its warm-up should have had."""
    try:
        ours, theirs = read_cases(config), read_cases(other)
    except HstfError as error:
        return [f"{key}: whether {folder} fits cannot be told: {error}"]
    tested = {case.group for case in ours.of(Split.TEST)}
    seen = sorted({case.group for case in theirs.cases if case.split is not Split.TEST} & tested)
    faults = (
        [f"{key}: {few(seen)} is tested here, but {folder} has it among its training cases"]
        if seen
        else []
    )
    labelled = {case.case_id for case in ours.of(Split.LABELLED)}
    learned = _learned(other) or {case.case_id for case in theirs.of(Split.LABELLED)}
    if key == "reuse.warmup" and learned != labelled:
        faults.append(
            f"{key}: the warm-up of {folder} has other labelled cases than there are here"
            f" ({few(sorted(learned ^ labelled))}); train a warm-up on these"
        )
    return faults


def _learned(config: Config) -> set[str]:
    """The cases that the warm-up learned from, whatever its sheet says by now; none where it is not done."""
    layout = Layout.of(config)
    learned: set[str] = set()
    for member in warmup_members(config):
        table = layout.out_of_fold_table(member)
        if table.is_file():
            learned.update(row["case_id"] for row in TEACHER.records(table))
    return learned


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
    elif stage == "warmup" or (stage == "evaluate" and number == 0):
        folder = config.reuse.warmup
    if folder is not None:
        raise HstfError(
            f"{stage}: this experiment reuses the results of {folder} ('reuse:')."
            " Run the stage there, or remove 'reuse:'."
        )
