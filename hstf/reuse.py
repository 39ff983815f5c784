"""Experiments that build on another's data or warm-up: what must be the same, and what is not theirs to write."""

from pathlib import Path

from hstf.cases import Split, read_cases
from hstf.config import Config, load_config
from hstf.errors import HstfError, few, join_faults

DATA_STAGES = ("check", "plan", "preprocess")
MUST_AGREE = ("labels", "modalities", "preprocess")
"""Keys without which a reused plan or network would be read wrongly."""


def check_reuse(config: Config) -> None:
    """See that the experiments of ``reuse:`` are there and fit.

    Raises:
        HstfError: with every fault.
    """
    named = {f"reuse.{key}": folder for key, folder in config.reuse if folder is not None}
    faults = [fault for key, folder in named.items() for fault in _faults(config, key, Path(folder))]
    if faults:
        raise join_faults("another experiment's work cannot be reused.", faults)


def _faults(config: Config, key: str, folder: Path) -> list[str]:
    if not (folder / "config.yaml").is_file():
        return [
            f"{key}: {folder} holds no experiment (there is no config.yaml); name one, as results/<experiment>"
        ]
    other = load_config(folder / "config.yaml")
    differing = _sheet_faults(config, other, key, folder)
    trained = ["regions"] if key == "reuse.warmup" else []
    started = ["network"] if trained and config.student.start == "warmup" else []
    return differing + [
        f"{key}: {name} is {getattr(other, name)} in {folder} and {getattr(config, name)} here; both must be the same"
        for name in (*MUST_AGREE, *trained, *started)
        if getattr(other, name) != getattr(config, name)
    ]


def _sheet_faults(config: Config, other: Config, key: str, folder: Path) -> list[str]:
    """Test patients that the other experiment learned from, and labelled cases that its warm-up should have had."""
    try:
        ours, theirs = read_cases(config), read_cases(other)
    except HstfError as error:
        return [f"{key}: whether {folder} fits cannot be told: {error}"]
    tested = {case.group for case in ours.of(Split.TEST)}
    seen = sorted({case.group for case in theirs.cases if case.split is not Split.TEST} & tested)
    faults = (
        [f"{key}: {few(seen)} is tested here, but {folder} has it among its training cases"] if seen else []
    )
    learned, labelled = ({case.case_id for case in sheet.of(Split.LABELLED)} for sheet in (theirs, ours))
    if key == "reuse.warmup" and learned != labelled:
        faults.append(
            f"{key}: the warm-up of {folder} has other labelled cases than there are here"
            f" ({few(sorted(learned ^ labelled))}); train a warm-up on these"
        )
    return faults


def own_stage(config: Config, stage: str) -> Config:
    """``config``, where the output of ``stage`` is its own.

    Raises:
        HstfError: the stage would write into another experiment.
    """
    folder = config.reuse.data if stage in DATA_STAGES else config.reuse.warmup
    if folder is not None:
        raise HstfError(
            f"{stage} was done by {folder}, which 'reuse:' names. Run it there, or leave 'reuse:' out."
        )
    return config
