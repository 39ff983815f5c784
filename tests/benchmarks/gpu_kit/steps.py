"""The jobs of a workflow as steps that run anywhere, and which of them are left to do.

A step is done when its record says so: a file named by the step's key, which covers its command, its parameters and, through
the keys of the steps before, all it comes from. Files of a done step may be missing as long as no step left to do reads
them: arrays that are quickly made again need not travel.

Runs on a bare Python, without any package.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parcel import read_json, write_json

KIT = ".gpu_kit"  # folder of the kit below the project's
STATE = "state"  # folder of the resumable states of trainings, below a round's
SMALL = 64 * 2**10  # files up to this size always travel


@dataclass(frozen=True)
class Step:
    """A job of the workflow."""

    key: str
    rule: str
    command: str
    inputs: tuple[str, ...]
    """Files of other steps."""
    outputs: tuple[str, ...]
    folders: tuple[str, ...]
    """Folders that the command expects."""

    @property
    def joins(self) -> bool:
        """Whether it only joins the tables of shards: who reads its output reads the shards' files too."""
        return self.rule.endswith("_table")


def load_steps(root: Path) -> list[Step]:
    """The steps in an order in which they can run."""
    values = read_json(root / KIT / "steps.json")["steps"]
    return [Step(**{k: tuple(v) if isinstance(v, list) else v for k, v in step.items()}) for step in values]


@dataclass(frozen=True)
class Records:
    """What is known about the steps, one file each."""

    root: Path

    def path(self, step: Step) -> Path:
        """The record of a step."""
        return self.root / KIT / "records" / f"{step.key}.json"

    def done(self, step: Step) -> bool:
        """Whether the step ended well."""
        return bool(read_json(self.path(step), {}).get("done"))

    def files(self, step: Step) -> list[str]:
        """What the step has written so far, relative to the project's folder."""
        return list(read_json(self.path(step), {}).get("files", []))

    def add(self, step: Step, files: Iterable[str], done: bool, seconds: float) -> None:
        """Note what a step wrote in ``seconds``. The state of a training that is done is not worth keeping."""
        known: dict[str, Any] = read_json(self.path(step), {})
        names = {*known.get("files", []), *files}
        if done:
            names = {name for name in names if STATE not in Path(name).parts}
        seconds += known.get("seconds", 0.0)
        content = {"rule": step.rule, "command": step.command, "done": done, "seconds": round(seconds, 1)}
        write_json(self.path(step), {**content, "files": sorted(names)})

    def complete(self, step: Step) -> bool:
        """Whether all that the step wrote is here."""
        return all((self.root / name).is_file() for name in self.files(step))


def split_steps(steps: Sequence[Step], records: Records) -> tuple[list[Step], list[Step]]:
    """``(left to do, done and read by what is left to do)``, each in running order."""
    left: list[Step] = []
    read: list[Step] = []
    wanted: set[str] = set()
    for step in reversed(steps):
        is_read = not wanted.isdisjoint(step.outputs)
        if not records.done(step) or (is_read and not records.complete(step)):
            left.append(step)
            wanted.update(step.inputs)
        elif is_read:
            read.append(step)
            if step.joins:
                wanted.update(step.inputs)
    return left[::-1], read[::-1]


def files_to_send(
    steps: Sequence[Step], records: Records, made_again: Iterable[str], budget: int | None = None,
    known: Iterable[str] = (),
) -> tuple[list[str], list[str]]:  # fmt: skip
    """``(files, left out)`` of the steps, most needed first: tables, what is read later, states of trainings, the rest.

    Args:
        made_again: rules whose files are quicker made again than sent.
        budget: bytes in all; without it, only what the steps left to do need is sent.
        known: files that the other side has already.
    """
    left, read = split_steps(steps, records)
    kept = [step for step in steps if step.rule not in set(made_again)]
    names = {step.key: [n for n in records.files(step) if (records.root / n).is_file()] for step in steps}

    def size(name: str) -> int:
        return (records.root / name).stat().st_size

    tables = [n for step in steps for n in names[step.key] if size(n) <= SMALL and step in kept]
    needed = [n for step in read if step in kept for n in names[step.key]]
    begun = [n for step in left if step in kept for n in names[step.key]]
    rest = [] if budget is None else sorted((n for step in kept for n in names[step.key]), key=size)
    own = [str(path.relative_to(records.root)) for path in (records.root / KIT / "records").glob("*.json")]
    candidates = dict.fromkeys([*own, *tables, *needed, *begun, *rest])
    sent: list[str] = []
    out: list[str] = []
    for name in candidates:
        if name in set(known):
            continue
        if budget is None or budget >= size(name):
            budget = None if budget is None else budget - size(name)
            sent.append(name)
        else:
            out.append(name)
    return sent, out
