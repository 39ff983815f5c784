"""Sections about what the results rest on: training, faults of the scans, the plan, provenance, and how to act."""

import os
import platform
import shlex
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from hstf import __version__
from hstf.config.track import without_credentials
from hstf.experiment.cases import Split
from hstf.experiment.tables import CHECK, HISTORY, LABELS
from hstf.runtime.errors import HstfError
from hstf.stages.report.figures import Figures, training_curves
from hstf.stages.report.page import (
    Block,
    Cell,
    Note,
    Section,
    Table,
    count_cell,
    counted,
    number_cell,
    text_cells,
)
from hstf.stages.report.results import Results, column, to_number
from hstf.stages.report.scores import round_name

PACKAGES = ("torch", "monai", "numpy", "scipy", "nibabel", "snakemake", "mlflow")
UNUSED = {
    "pseudo_labels": "not used yet",
    "images": "used as images",
    "labels": "not used by this method",
}
NO_CURVES = ("step", "learning_rate")
Curve = tuple[list[float], list[float]]


def training_section(results: Results, figures: Figures) -> Section:
    """The training curves of each round: a panel for each term of the loss, a line for each member."""
    blocks: list[Block] = []
    for number in reversed([0, *results.rounds]):
        if panels := _panels(results, number):
            name, title = f"training_round_{number}", f"Training, {round_name(number)}"
            caption = "Means over the steps since the point before. The last EMA weights are the model; nothing is selected."
            blocks.append(figures.add(name, title, training_curves(panels), caption))
    if chart := _csc_chart(results, figures):
        blocks.insert(0, chart)
    return Section("training", "Training", "", blocks, "No member is trained yet.")


def _panels(results: Results, number: int) -> dict[str, dict[str, Curve]]:
    panels: dict[str, dict[str, Curve]] = {}
    for member in results.schedule.members(number):
        rows = results.table(HISTORY, results.layout.history(number, member))
        for term in (name for name in (rows[0] if rows else ()) if name not in NO_CURVES):
            known = [
                row for row in rows if None not in (to_number(row["step"]), to_number(row[term]))
            ]
            if known:
                panels.setdefault(term, {})[member] = column(known, "step"), column(known, term)
    alone = len(panels) == 2 and "loss" in panels  # the only term is the loss itself
    return {"loss": panels["loss"]} if alone else panels


def _csc_chart(results: Results, figures: Figures) -> Block | None:
    """The terms of cross-scale consistency over the training, a line for each round: the mean of its members."""
    panels: dict[str, dict[str, Curve]] = {}
    for number in results.rounds:
        for term, lines in _panels(results, number).items():
            if term.startswith("csc"):
                shortest = min(len(steps) for steps, _ in lines.values())
                values = np.mean(
                    [values[:shortest] for _, values in lines.values()], axis=0
                ).tolist()
                steps = next(iter(lines.values()))[0][:shortest]
                panels.setdefault(term, {})[round_name(number)] = (steps, values)
    if not panels:
        return None
    caption = (
        "Disagreement of a network with itself at another input scale, as it enters the loss; it grows while its weight is"
        " ramped up."
    )
    return figures.add("csc", "Cross-scale consistency", training_curves(panels), caption)


def check_section(results: Results) -> Section:
    """What ``hstf check`` found fault with."""
    rows = results.table(CHECK, results.layout.check)
    faults = [row for row in rows if row["level"] != "ok"]
    columns = ("case_id", "level", "file", "found", "expected", "what_to_do")
    table = Table(
        counted(len(faults), "finding"),
        ("Case", "Level", "File", "Found", "Expected", "What to do"),
        [text_cells(row.get(key) for key in columns) for row in faults],
        "check.csv",
    )
    cases = counted(len({row["case_id"] for row in rows}), "case")
    missing = f"Nothing found fault with in {cases}." if rows else "The scans were not checked yet."
    return Section("check", "Checks", "", [table] if faults else [], missing)


def plan_section(results: Results) -> Section:
    """What the plan chose and why."""
    plan = results.document(results.layout.plan)
    reasons = plan.get("reasons", {})
    rows = [
        text_cells([_words(key), _value(value), reasons.get(key)])
        for key, value in plan.items()
        if key != "reasons"
    ]
    table = Table("The plan", ("What", "Value", "Why"), rows, "plan.json")
    intro = "Axes are left-right, back-front, foot-head. Anything can be set in the section “plan” of the configuration."
    return Section("plan", "Plan", intro, [table] if rows else [], "There is no plan yet.")


def _words(key: str) -> str:
    return key.replace("_", " ")


def _value(value: Any) -> str:
    """A value of the plan as a person would write it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(key)} {_value(item)}" for key, item in value.items())
    if isinstance(value, list):
        nested = any(isinstance(item, list | Mapping) for item in value)
        return ("; " if nested else " × " if len(value) == 3 else ", ").join(
            _value(item) for item in value
        )
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def tiles(results: Results) -> list[dict[str, str]]:
    """The counts that head the page."""
    counts = split_counts(results)
    last = max(
        (n for n in results.rounds if results.layout.labels_table(n).is_file()), default=None
    )
    rows = results.table(LABELS, results.layout.labels_table(last)) if last else []
    used = sum(row["source"] != "rejected" for row in rows)
    people = sum(row["source"] in ("corrected", "accepted") for row in rows)
    used_text = (
        f"{used} used in round {last}"
        if last
        else UNUSED[results.schedule.learns_from(results.schedule.last)]
    )
    people_text = str(people) if last else "–"
    return [
        {"name": "Labelled scans", "value": counts[Split.LABELLED], "note": "all that was given"},
        {"name": "Unlabelled scans", "value": counts[Split.UNLABELLED], "note": used_text},
        {"name": "Reviewed by people", "value": people_text, "note": "labels corrected or accepted"},
        {"name": "Test scans", "value": counts[Split.TEST], "note": "seen by the evaluation alone"},
        {"name": "Rounds after the warm-up", "value": str(results.schedule.last), "note": "planned in the configuration"},
    ]  # fmt: skip


def split_counts(results: Results) -> dict[Split, str]:
    """Cases of each split as text; dashes without a readable case sheet."""
    try:
        sheet = results.context.sheet
    except HstfError as error:
        results.faults.append(str(error))
        return dict.fromkeys(Split, "–")
    return {split: str(len(sheet.of(split))) for split in Split}


def provenance_section(results: Results) -> Section:
    """Where the numbers come from: software, machine, seed, times, configuration."""
    software = [
        f"hstf {__version__}",
        f"Python {platform.python_version()}",
        *map(_installed, PACKAGES),
    ]
    cores = len(os.sched_getaffinity(0))
    facts = [
        ("Experiment", results.context.experiment),
        ("Files", str(results.layout.root.resolve())),
        ("Case sheet", results.config.cases),
        ("Seed", str(results.config.seed)),
        ("First and last file written", " to ".join(_dates(results.layout.root))),
        ("Software", ", ".join(software)),
        (
            "Machine that wrote this page",
            f"{platform.node()}, {platform.system()} {platform.machine()}, {cores} cores",
        ),
    ]
    table = Table("What made this report", ("What", "Value"), [text_cells(fact) for fact in facts])
    text = (
        results.layout.config.read_text(encoding="utf-8")
        if results.layout.config.is_file()
        else "The resolved configuration (config.yaml) is not written yet."
    )
    commands = [without_credentials(text).strip()]
    configuration = Note(
        [], commands=commands, title="Configuration, with all defaults", folded=True
    )
    return Section("provenance", "Provenance", "", [table, *_times(results), configuration])


def _installed(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


def _dates(root: Path) -> list[str]:
    """Times of the oldest and the newest table or model of an experiment."""
    names = (
        "check.csv",
        "plan.json",
        "round_*/*.csv",
        "round_*/*.json",
        "round_*/model/*/history.csv",
        "round_*/evaluation/*.json",
    )
    times = sorted(path.stat().st_mtime for name in names for path in root.glob(name))
    return [
        datetime.fromtimestamp(t).astimezone().strftime("%Y-%m-%d %H:%M")
        for t in (times[:1] + times[-1:])
    ] or ["–"]


def _times(results: Results) -> list[Table]:
    """Run times and peak memory of the stages, from the benchmarks of the workflow."""
    folder = results.layout.root / "benchmarks"
    stages: dict[str, list[tuple[float, float]]] = {}
    for path in sorted(folder.rglob("*.tsv")):
        if row := _benchmark(path):
            stages.setdefault(path.relative_to(folder).parts[0].removesuffix(".tsv"), []).append(
                row
            )
    body = [
        [
            Cell(stage),
            count_cell(len(runs)),
            number_cell(sum(seconds for seconds, _ in runs) / 60, 1),
            number_cell(max(memory for _, memory in runs) / 1000, 1),
        ]
        for stage, runs in stages.items()
    ]
    titles = ("Stage", "Jobs", "Minutes together", "Most memory (GB)")
    return [Table("What each stage cost", titles, body, "benchmarks/")] if body else []


def _benchmark(path: Path) -> tuple[float, float] | None:
    """Seconds and peak megabytes of a job; a peak that was not measured counts as 0."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if len(lines) < 2:
        return None
    row = dict(zip(lines[0].split("\t"), lines[1].split("\t"), strict=False))
    seconds = to_number(row.get("s"))
    return None if seconds is None else (seconds, to_number(row.get("max_rss")) or 0.0)


def act_section(results: Results) -> Section:
    """Where to put a correction, and what to run afterwards."""
    number = results.rounds[0] if results.rounds else 1
    corrected = results.schedule.has_pseudo_labels(number)
    notes: list[Block] = (
        [_how_to_correct(results, number), _how_to_go_on(number)] if corrected else []
    )
    notes.append(_how_to_rerun(results, number))
    use = Note(
        ["The exported model of the last round needs no workflow."],
        commands=[
            f"hstf predict --model {_quoted(results.layout.export)} --input SCANS --output SEGMENTATIONS"
        ],
        title="Use the model",
    )
    return Section("act", "What to do next", "", [*notes, use])


def _how_to_correct(results: Results, number: int) -> Note:
    layout, ignore = results.layout, results.config.ignore_value
    values = ", ".join(f"{value} {name}" for name, value in results.config.labels.items())
    example = f"{number},<case>,reject,A. Reader,{datetime.now():%Y-%m-%d},motion artefact"
    lines = [
        f"Correct round_{number}/pseudo_labels/<case>.nii.gz in any NIfTI editor and save it, geometry unchanged, as"
        f" {layout.override(number, '<case>')}. Label values: {values}."
        + (f" {ignore} leaves voxels out of the training." if ignore is not None else ""),
        f"Or decide without drawing: a row in {layout.decisions} with the action accept, reject or replace.",
        "A decision holds from its round on. Leave the results folder as it is: edits there are found and named.",
    ]
    return Note(
        lines,
        commands=[f"round,case_id,action,reviewer,date,reason\n{example}"],
        title="Correct or judge a pseudo-label",
    )


def _how_to_go_on(number: int) -> Note:
    run = "snakemake --cores 8 --configfile <your configuration>"
    lines = [
        "The next run recomputes that case, the students that learn from it and what follows, nothing else; with -n it"
        " only tells what it would do. A target stops after a stage."
    ]
    return Note(lines, commands=[f"{run} -n\n{run}\n{run} round_{number}_labels"], title="Go on")


def _how_to_rerun(results: Results, number: int) -> Note:
    config = _quoted(results.layout.config)
    stages = ("refine", "labels") if results.schedule.has_pseudo_labels(number) else ()
    commands = [
        f"hstf {stage} --config {config} --round {number} --shard unlabelled_0" for stage in stages
    ]
    commands += [
        f"hstf evaluate --config {config} --round {number} --shard test_0",
        f"hstf report --config {config}",
    ]
    lines = ["Any stage runs by hand as well; it skips the cases that are up to date."]
    return Note(lines, commands=["\n".join(commands)], title="Run one stage")


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
