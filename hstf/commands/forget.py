"""``hstf forget``: remove everything of a case from an experiment, after a withdrawn consent.

Files of the case are listed and removed, and so is its row in the list of cases that are not
suggested. Tables that a stage wrote are written again by the next run, when the case is no longer
in the case sheet. Tables of jobs that the experiment does not have without the case, such as those
of a last shard with this case only, are removed. The case sheet and decisions stay, and their rows
are named. Models that learned from the case are named, too: the next run trains them again.
"""

import argparse
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hstf.config.load import load_config
from hstf.datasets.dicom.mapping import FILE as DICOM_FILE
from hstf.experiment.case_files import (
    CASE_FILES,
    Traces,
    existing,
    experiment_folders,
    find_traces,
    rows_of,
    sources_of,
)
from hstf.experiment.records import read_record
from hstf.experiment.set_aside import note
from hstf.models.registry import load_facts
from hstf.runtime.errors import HstfError, few
from hstf.runtime.files import read_json
from hstf.runtime.run_lock import active_run

MAXIMUM_LISTED = 40
"""Number of files of a kind that are listed."""
TRACKED = ("tracked/round_*.json", "round_*/track.json")
"""Files of the stage ``track`` with runs of MLflow."""


def run(args: argparse.Namespace) -> int:
    """Remove a case from an experiment."""
    forget(args.case, args.results, args.yes)
    return 0


def forget(case: str, root: Path, is_confirmed: bool = False) -> list[Path]:
    """List what an experiment has of a case, and remove it after a confirmation.

    Args:
        case: the case.
        root: ``results/<experiment>``.
        is_confirmed: whether to remove the files without a question.

    Returns:
        What was removed.

    Raises:
        HstfError: if no case can have this name, if the experiment knows nothing of the case, if a
            workflow is running, if nobody can confirm, or if files cannot be removed.
    """
    traces = find_traces(root, case)
    trained = [found for folder in experiment_folders(root) for found in _trained(folder, case)]
    if traces.is_empty and not any(found.is_known for found in trained):
        raise HstfError(
            f"{root}: has nothing of case {case!r}. Case ids are compared as a whole, with their"
            f" letter case.{_only_mentioned(traces)}"
        )
    _refuse_other_targets(case, traces)
    print("\n".join(_report(root, case, traces, trained)), flush=True)
    targets = traces.targets
    if targets or traces.set_aside:
        _refuse_running(root)
        if not is_confirmed and not _confirms(case, len(targets) + len(traces.set_aside)):
            print("Nothing was removed.")
            return []
        for rows in traces.set_aside:
            note(rows.table.parent, [case], "", 0)
        _remove(targets)
        print(f"{len(targets)} files and folders were removed.")
        if traces.set_aside:
            tables = ", ".join(str(rows.table) for rows in traces.set_aside)
            print(f"The row of the case was removed from {tables}.")
    print("\n".join(_what_to_do(root, case, traces, trained)), flush=True)
    return targets


def _only_mentioned(traces: Traces) -> str:
    """Return a sentence about files with the name in their text; empty if there are none."""
    if not traces.mentions:
        return ""
    names = few(str(path) for path in traces.mentions)
    return f" Its name is in the text of {names}: if this is the case, delete them."


def _refuse_other_targets(case: str, traces: Traces) -> None:
    """Refuse to remove what does not belong to the case, whatever was found.

    Raises:
        HstfError: if a file of the case does not have its name, or if a target is not inside of the
            folders that were searched.
    """
    other = [path for path in traces.files if case not in path.name]
    other += [path for path in traces.targets if not _is_inside(path, traces.folders)]
    if other:
        raise HstfError(
            f"nothing was removed: {other[0]} does not belong to case {case}."
            " This is an error of hstf; please report it."
        )


def _is_inside(path: Path, folders: Sequence[Path]) -> bool:
    """Return whether a path leads to something below one of the folders, and to none of them."""
    if path in folders:
        return False
    below = [path.relative_to(folder) for folder in folders if path.is_relative_to(folder)]
    return any(".." not in relative.parts for relative in below)


def _report(root: Path, case: str, traces: Traces, trained: Sequence["Trained"]) -> Iterator[str]:
    yield f"Case {case} in {root}"
    yield from _listed("Files of the case, which are removed", traces.files)
    yield from _listed(
        "Files that show or name it among others, which are removed and made again",
        [*traces.pictures, *traces.keys],
    )
    yield from _listed(
        "Tables with its suggestion, which are removed; `hstf suggest` writes them again",
        traces.suggestions,
    )
    yield from _listed(
        "Decisions about it that were not completely saved, which are removed", traces.pending
    )
    yield from _listed(
        "Lists of cases that are not suggested, from which its row is removed", traces.set_aside
    )
    yield from _listed(
        "Tables, records, keys and logs of jobs that do not exist without it, which are removed",
        traces.gone_jobs,
    )
    yield from _listed("Tables with its rows, which the next run writes again", traces.tables)
    yield from _listed(
        "Tables with its rows, which the next run does not write again", traces.other_tables
    )
    yield from _listed(
        "Other files with its name in the text; the next run writes those of its jobs again",
        traces.mentions,
    )
    yield from _listed("Learned from the case, or from what such a model predicted", trained)


def _listed(title: str, items: Sequence[object]) -> Iterator[str]:
    if not items:
        return
    yield f"\n{title} ({len(items)}):"
    for item in items[:MAXIMUM_LISTED]:
        yield f"  {item}"
    if len(items) > MAXIMUM_LISTED:
        yield f"  and {len(items) - MAXIMUM_LISTED} more"


@dataclass(frozen=True)
class Trained:
    """What learned from a case."""

    folder: Path
    how: str
    files: tuple[Path, ...] = ()
    """The weights, or the file that names them. Some jobs of the experiment may write them."""
    is_known: bool = True
    """Whether it is known that it learned from the case."""

    def __str__(self) -> str:
        return f"{self.folder}: {self.how}"


def _trained(folder: Path, case: str) -> Iterator[Trained]:
    """Yield the models of an experiment that learned from the case, and what was made from them."""
    sources = sources_of(folder, case)
    rounds = set(sources)
    if _is_pretrained_on(folder, case):
        rounds.add(0)
        place = folder / "pretrain"
        how = "from its image, and all rounds, which start from it"
        yield Trained(place, how, (place / "weights.pt",))
    weights = sorted(folder.glob("round_*/model/*/weights.pt"))
    for path in weights:
        number = _round_of(path)
        try:
            is_labelled = case in load_facts(path).get("trained_on", [])
        except HstfError:
            how = "not known, because its weights cannot be read"
            yield Trained(path.parent, how, (path,), is_known=False)
            continue
        if is_labelled:
            rounds.add(number)
            yield Trained(path.parent, "from its label", (path,))
        elif number in sources:
            yield Trained(path.parent, f"from its pseudo-label ({sources[number]})", (path,))
        elif how := _by_record(folder, path, case):
            rounds.add(number)
            yield Trained(path.parent, how, (path,))
    if not rounds:
        return
    first = min(rounds)
    how = f"all rounds after round {first}, which learn from the rounds before"
    yield Trained(folder, how, tuple(path for path in weights if _round_of(path) > first))
    for model in sorted(folder.glob("export*/model.json")):
        yield Trained(model.parent, "the exported model, and every copy of it", (model,))


def _by_record(folder: Path, weights: Path, case: str) -> str:
    """Return how a student learned from an unlabelled case by its record; empty if it did not.

    ``labels.csv`` shows what the next training reads. If it was written again after the training,
    for instance because the case is now rejected, it does not show what the weights learned from.
    """
    table = f"labels_table.round_{_round_of(weights)}"
    name = f"student.round_{_round_of(weights)}.{weights.parent.name}"
    student = read_record(folder / "records" / f"{name}.json")
    if student is None:
        return ""
    if case not in [other for other, _ in student.facts.get("other_patients", [])]:
        return ""
    if table not in student.before:
        return "from its image"
    labels = read_record(folder / "records" / f"{table}.json")
    if labels is not None and labels.digest == student.before[table]:
        return ""
    return "perhaps: the labels of its round were made again after its training"


def _round_of(weights: Path) -> int:
    return int(weights.parents[2].name.removeprefix("round_"))


def _is_pretrained_on(folder: Path, case: str) -> bool:
    """Return whether the pre-training used the image of the case; True if that is not known."""
    path = folder / "pretrain" / "weights.pt"
    if not path.is_file():
        return False
    try:
        return case in load_facts(path).get("images_of", [])
    except HstfError:
        return True


def _refuse_running(root: Path) -> None:
    holder = active_run(root)
    if holder:
        raise HstfError(
            f"a workflow is running in this folder or writes these results"
            f" ({holder.splitlines()[0]}). Wait until it has finished, or stop it."
        )


def _confirms(case: str, count: int) -> bool:
    """Ask whether to remove the files. An empty answer never confirms.

    Raises:
        HstfError: if there is no terminal to ask in.
    """
    if not sys.stdin.isatty():
        raise HstfError("nothing was removed, because nobody can confirm. Add --yes to remove.")
    question = f"\nRemove {count} files, folders and rows for good? Type {case} to confirm: "
    answer = input(question).strip()
    return bool(answer) and answer == case


def _remove(paths: Iterable[Path]) -> None:
    problems = []
    for path in paths:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            problems.append(f"{path}: {error.strerror or error}")
    if problems:
        raise HstfError("not removed: " + "; ".join(problems))


def _what_to_do(root: Path, case: str, traces: Traces, trained: Sequence[Trained]) -> Iterator[str]:
    yield "\nWhat is left to do:"
    for rows in traces.human_tables:
        yield f"  - Remove the row of the case from {rows}."
    for rows in traces.other_tables:
        yield f"  - Remove the row of the case from {rows}, or delete the table."
    for path in traces.scans:
        yield f"  - Delete {path}, unless it may be kept."
    for path in traces.linked:
        yield f"  - Delete {path}, unless it may be kept. A link led to it."
    for path in traces.human_files:
        yield f"  - Look at {path}, which has its name. Delete it, or remove the case from it."
    for path in traces.absent_overrides:
        yield (
            f"  - {path.absolute()}, the folder of overrides, does not exist. If reviewers"
            " corrected labels or made decisions, start this command in the folder where you start"
            " snakemake."
        )
    yield from _dicom_rows(root, case, traces.scans)
    yield from _final_models(traces, trained)
    if traces.human_tables or traces.tables or traces.pictures:
        yield (
            "  - Then run the workflow as usual. It trains again what learned from the case, and"
            " writes the tables without it."
        )
        yield (
            "  - After that, run this command again, until it finds nothing. The run notes the case"
            " as a reason of its jobs, and no run writes the tables of jobs that no longer exist."
        )
    if traces.sheet_problem:
        yield f"  - Which tables these are is not known now. {traces.sheet_problem}"
    tracked = list(_tracked(root))
    if tracked:
        yield (
            f"  - MLflow has {'; '.join(tracked)}. When a round is logged again, its run at this"
            " address is replaced; delete the other runs. Afterwards `mlflow gc` with the address"
            " of the store removes them for good."
        )
    config = load_config(root / "config.yaml")
    for folder in (config.reuse.data, config.reuse.warmup, *_siblings(root, case)):
        if folder:
            yield f"  - Do the same for another experiment: hstf forget {case} --results {folder}"
    for other in traces.same_patient:
        command = f"hstf forget {other} --results {root}"
        yield f"  - Do the same for another case of the patient: {command}"
    yield (
        "  - Not known to hstf are backups and copies of the results, and what hstf nnunet,"
        " dicomseg and predict wrote. Notes and logs of Snakemake in .snakemake/ may name scans."
    )


def _final_models(traces: Traces, trained: Iterable[Trained]) -> Iterator[str]:
    """Yield what to do about models that no run trains again, such as those of a removed round."""
    files = [path for found in trained for path in found.files]
    for path in dict.fromkeys(files):
        if not traces.is_made_again(path):
            state = path.parents[2] / "state" / path.parent.name
            too = f" and {state}" if state.is_dir() else ""
            yield f"  - Delete {path.parent}{too}: no run makes it again without the case."


def _dicom_rows(root: Path, case: str, scans: Sequence[Path]) -> Iterator[str]:
    """Yield what to do about ``dicom.csv``, which leads from the case back to the patient."""
    tables = _dicom_tables(Path(load_config(root / "config.yaml").cases), scans)
    found = [rows_of(table, name) for table in tables for name in _names_of_series(case, scans)]
    rows_of_case = [rows for rows in found if rows is not None]
    for rows in rows_of_case:
        yield f"  - Remove the row of the case from {rows}. It leads back to the patient."
    if not rows_of_case:
        yield (
            "  - If the scan was imported from DICOM, remove the row of the case from"
            f" {DICOM_FILE}, or from the file of --mapping. It leads back to the patient."
        )


def _names_of_series(case: str, scans: Iterable[Path]) -> list[str]:
    """Return the names that ``hstf import dicom`` may have given to the series of a case."""
    names = [scan.name.removesuffix(".gz").removesuffix(".nii") for scan in scans]
    return list(dict.fromkeys([case, *names]))


def _dicom_tables(sheet: Path, scans: Iterable[Path]) -> list[Path]:
    """Return the places where ``hstf import dicom`` writes its table, if nothing else is asked."""
    folders = [sheet.parent]
    for scan in scans:
        folders += [scan.parent, scan.parent.parent]
    tables = [folder / DICOM_FILE for folder in folders]
    return [table for table in dict.fromkeys(tables) if table.is_file()]


def _tracked(root: Path) -> Iterator[str]:
    """Yield the runs of MLflow, each once, also if the last attempt to log a round has failed."""
    found: dict[str, None] = {}
    for folder in experiment_folders(root):
        for pattern in TRACKED:
            for path in sorted(folder.glob(pattern)):
                found |= dict.fromkeys(_runs_in(path))
    yield from found


def _runs_in(path: Path) -> Iterator[str]:
    """Yield the runs of MLflow that a file of the stage ``track`` names."""
    try:
        content = read_json(path)
    except HstfError:
        yield f"perhaps a run of {path}, which is not readable"
        return
    for run in content.get("runs", [content]):
        if run.get("run_id"):
            yield f"{run.get('run')} in {run.get('uri')} (run id {run.get('run_id')})"


def _siblings(root: Path, case: str) -> Iterator[Path]:
    """Yield other experiments beside this one that have files of the case, or its warm-up."""
    for folder in sorted(root.parent.glob("*/")):
        is_other = folder.is_dir() and folder.resolve() != root.resolve()
        if is_other and (existing(folder, CASE_FILES, case) or _starts_from(folder, root)):
            yield folder


def _starts_from(folder: Path, root: Path) -> bool:
    """Return whether an experiment reuses the warm-up of another one, and so its labelled cases."""
    try:
        warmup = load_config(folder / "config.yaml").reuse.warmup
    except HstfError:
        return False
    return warmup is not None and Path(warmup).resolve() == root.resolve()
