"""Sections about what the results are based on: checks of the scans, the plan, and provenance."""

import platform
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from hstf import __version__
from hstf.config.track import without_credentials
from hstf.experiment.scan_tables import CHECK
from hstf.runtime.documents import Part
from hstf.runtime.files import find_files
from hstf.runtime.threads import own_cores
from hstf.stages.report.page import DASH, Block, Note, Section, Table, counted
from hstf.stages.report.results import Results
from hstf.stages.report.tables import Column, make_table

CHECK_COLUMNS = (
    Column("case_id", "Case"),
    Column("level", "Level"),
    Column("file", "File"),
    Column("found", "Found"),
    Column("expected", "Expected"),
    Column("what_to_do", "What to do"),
)
PLAN_COLUMNS = (Column("name", "Key"), Column("value", "Value"), Column("reason", "Reason"))
FACT_COLUMNS = (Column("name", "Fact"), Column("value", "Value"))
TIME_COLUMNS = (
    Column("stage", "Stage"),
    Column("jobs", "Jobs", digits=0),
    Column("minutes", "Minutes, all jobs", digits=1),
    Column("gigabytes", "Maximum memory (GB)", digits=1),
)
AXES_OF_THE_BODY = "The axes are left-right, back-front and foot-head."
AXES_OF_THE_SLICES = "The axes are those of the slices; the last one goes from slice to slice."
PACKAGES = ("torch", "monai", "numpy", "scipy", "nibabel", "snakemake", "mlflow")
DATED_FILES = (
    "check.csv",
    "plan.json",
    "round_*/*.csv",
    "round_*/*.json",
    "round_*/model/*/history.csv",
    "round_*/evaluation/*.json",
)
"""Files whose times are the beginning and the end of the experiment."""


def check_section(results: Results) -> Section:
    """Return the problems and warnings of ``hstf check``."""
    checks = results.frame(CHECK, results.layout.check)
    findings = checks[checks["level"] != "ok"]
    blocks = []
    if len(findings):
        caption = counted(len(findings), "finding")
        blocks.append(make_table(caption, CHECK_COLUMNS, findings, "check.csv"))
    missing = "The scans are not checked yet."
    if len(checks):
        cases = counted(checks["case_id"].nunique(), "case")
        missing = f"No problems were found in {cases}."
    return Section("check", "Checks", "", blocks, missing)


def plan_section(results: Results) -> Section:
    """Return the plan with the reasons of its values."""
    title = "Plan"
    plan = results.plan
    if plan is None:
        return Section("plan", title, "", [], "There is no plan yet.")
    rows = []
    for name in type(plan).model_fields:
        if name != "reasons":
            value = _value_text(getattr(plan, name))
            rows.append({"name": _words(name), "value": value, "reason": plan.reasons.get(name)})
    axes = AXES_OF_THE_BODY
    if results.config.preprocess.axes == "slices":
        axes = AXES_OF_THE_SLICES
    intro = (
        f"{axes} The section “plan” of the configuration sets the spacing, the patch, the batch,"
        " the levels and the channels."
    )
    table = make_table("The plan", PLAN_COLUMNS, rows, "plan.json")
    return Section("plan", title, intro, [table])


def _words(name: str) -> str:
    return name.replace("_", " ")


def _value_text(value: Any) -> str:
    """Write a value of the plan for a reader."""
    if isinstance(value, Part):
        parts = [f"{_words(name)} {_value_text(part)}" for name, part in value]
        return ", ".join(parts)
    if isinstance(value, tuple):
        is_nested = any(isinstance(item, tuple | Part) for item in value)
        separator = "; " if is_nested else ", "
        if len(value) == 3 and not is_nested:
            separator = " × "
        return separator.join(_value_text(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def provenance_section(results: Results) -> Section:
    """Return software, machine, times and configuration."""
    facts = {
        "Experiment": results.context.experiment,
        "Files": str(results.layout.root.resolve()),
        "Case sheet": results.config.cases,
        "Seed": str(results.config.seed),
        "First and last file written": _dates(results.layout.root),
        "Software": _software(),
        "Machine that wrote this page": _machine(),
    }
    rows = [{"name": name, "value": value} for name, value in facts.items()]
    table = make_table("Data, software and machine", FACT_COLUMNS, rows)
    blocks: list[Block] = [table, *_times(results), _configuration(results)]
    return Section("provenance", "Provenance", "", blocks)


def _configuration(results: Results) -> Note:
    path = results.layout.config
    if not path.is_file():
        return Note(["The complete configuration (config.yaml) is written by the workflow."])
    text = without_credentials(path.read_text(encoding="utf-8")).strip()
    return Note(
        [],
        commands=[text],
        title="Configuration, with all defaults",
        folded=True,
    )


def _software() -> str:
    packages = [f"hstf {__version__}", f"Python {platform.python_version()}"]
    packages += [_installed(name) for name in PACKAGES]
    return ", ".join(packages)


def _installed(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


def _machine() -> str:
    cores = len(own_cores())
    return f"{platform.node()}, {platform.system()} {platform.machine()}, {cores} cores"


def _dates(root: Path) -> str:
    """Return the times of the first and the last file of an experiment."""
    times: list[float] = []
    for pattern in DATED_FILES:
        times += [path.stat().st_mtime for path in find_files(root, pattern)]
    if not times:
        return DASH
    ends = (datetime.fromtimestamp(time).astimezone() for time in (min(times), max(times)))
    return " to ".join(f"{end:%Y-%m-%d %H:%M}" for end in ends)


def _times(results: Results) -> list[Table]:
    """Return run times and memory of the stages, from the benchmarks of Snakemake."""
    folder = results.layout.root / "benchmarks"
    frames = []
    for path in find_files(folder, "*.tsv") + find_files(folder, "*/*.tsv"):
        stage = path.relative_to(folder).parts[0].removesuffix(".tsv")
        frames.append(_benchmark(path).assign(stage=stage))
    if not frames:
        return []
    groups = pd.concat(frames).dropna(subset=["s"]).groupby("stage", sort=False)
    costs = pd.DataFrame(
        {
            "jobs": groups.size(),
            "minutes": groups["s"].sum() / 60,
            "gigabytes": groups["max_rss"].max() / 1000,
        }
    )
    caption = "Run time and memory of each stage"
    return [make_table(caption, TIME_COLUMNS, costs.reset_index(), "benchmarks/")]


def _benchmark(path: Path) -> pd.DataFrame:
    """Return seconds (``s``) and peak memory (``max_rss``, MB) of a job.

    Snakemake writes ``NA`` or ``-`` for what it could not measure in a very short job.
    """
    try:
        jobs = pd.read_csv(
            path,
            sep="\t",
            dtype=str,
        )
    except (ValueError, OSError):
        jobs = pd.DataFrame()
    jobs = jobs.reindex(columns=["s", "max_rss"]).head(1)
    return jobs.apply(pd.to_numeric, errors="coerce")
