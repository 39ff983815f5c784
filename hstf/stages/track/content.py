"""What MLflow shows of a round: parameters, training curves, scores and small files."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hstf.config.track import (
    without_credentials,
)
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.experiment.plan import Plan
from hstf.experiment.round_tables import HISTORY, LABELS, REFINE
from hstf.imaging.overlays import overlay_path
from hstf.runtime.files import read_json, sha256_file, sha256_json
from hstf.scoring.averages import finite_or_none, mean

DIGEST_LENGTH = 8
"""Number of hexadecimal digits that keep changed names apart."""
MAXIMUM_OVERLAYS = 8
PLAN_KEYS = {"spacing", "patch_size", "batch_size", "channels", "strides"}
"""Keys of the plan that are parameters of a run."""
COMMON_KEYS = {
    "preprocess",
    "network",
    "predict",
    "evaluate",
    "modalities",
    "labels",
    "regions",
    "lesions",
    "seed",
    "teacher",
    "refine",
}
"""Sections and keys of the configuration that are parameters of every run."""
WARMUP_KEYS = COMMON_KEYS | {"plan", "pretrain", "warmup", "calibrate"}
ROUND_KEYS = COMMON_KEYS | {"student"}


@dataclass(frozen=True)
class RoundLog:
    """What MLflow shows of a round."""

    parameters: dict[str, str]
    curves: list[tuple[str, int, float]]
    """Name, step and value of each point, from ``history.csv`` of each member."""
    scores: dict[str, float]
    files: list[tuple[Path, str]] = field(default_factory=list)
    """Each file and its folder among the artefacts."""
    case_files: list[tuple[Path, str]] = field(default_factory=list)
    """The same for pictures of single cases and tables of cases."""
    config_text: str = ""

    @property
    def digest(self) -> str:
        """SHA-256, equal for equal content."""
        files = []
        for path, folder in self.files + self.case_files:
            files.append((folder, path.name, sha256_file(path)))
        content = [
            self.parameters,
            self.curves,
            self.scores,
            files,
            self.config_text,
        ]
        return sha256_json(content)


def collect(context: StageContext) -> RoundLog:
    """Read the files of a round. Files that do not exist are left out."""
    layout = context.layout
    number = context.round
    text = ""
    if layout.config.is_file():
        text = layout.config.read_text(encoding="utf-8")
    curves = []
    for member in context.schedule.trained(number):
        curves += _curves(layout, number, member)
    scores = _summary_scores(layout, number)
    case_files = [(path, "") for path in _case_tables(layout, number)]
    # An earlier run may have left files of pseudo-labels that the round does not learn from.
    if context.schedule.has_pseudo_labels(number):
        scores |= _label_scores(layout, number)
        case_files += [(path, "") for path in _pseudo_label_tables(layout, number)]
        case_files += [(path, "overlays") for path in _overlays(layout, number)]
    return RoundLog(
        parameters=_parameters(context),
        curves=curves,
        scores=scores,
        files=[(path, "") for path in _small_files(layout, number)],
        case_files=case_files,
        config_text=without_credentials(text),
    )


def _parameters(context: StageContext) -> dict[str, str]:
    keys = ROUND_KEYS if context.round else WARMUP_KEYS
    if not context.config.pretrain.is_on:
        keys = keys - {"pretrain"}
    values = context.config.model_dump(mode="json", include=keys)
    values["planned"] = {}
    if context.layout.plan.is_file():
        plan = Plan.load(context.layout.plan)
        values["planned"] = plan.model_dump(mode="json", include=PLAN_KEYS)
    return {name: str(value) for name, value in flatten(values, ".")}


def flatten(content: Mapping[str, Any], separator: str) -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings with their paths, which MLflow accepts.

    Args:
        content: the mappings.
        separator: text between the keys of a path.

    Example:
        >>> list(flatten({"a": {"b": 1}, "c": 2}, "/"))
        [('a/b', 1), ('c', 2)]
    """
    for key, value in content.items():
        name = metric_name(str(key))
        if not isinstance(value, Mapping):
            yield name, value
            continue
        for inner_name, inner in flatten(value, separator):
            yield f"{name}{separator}{inner_name}", inner


def metric_name(text: str) -> str:
    """Return a part of a path that MLflow accepts; different texts have different names.

    Characters that MLflow refuses are replaced. A few digits of a digest then keep names apart that
    differ in these characters only, such as two names in Chinese.

    Example:
        >>> metric_name("left kidney")
        'left kidney'
        >>> metric_name("kidney (left)")
        'kidney _left_-72a21ac6'
    """
    name = re.sub(
        r"[^\w\-. ]",
        "_",
        text,
        flags=re.ASCII,
    )
    if name == text and name.strip("."):
        return name
    return f"{name}-{sha256_json(text)[:DIGEST_LENGTH]}"


def _curves(
    layout: Layout,
    number: int,
    member: str,
) -> list[tuple[str, int, float]]:
    """Return the points of the training curves of a member."""
    path = layout.history(number, member)
    rows = HISTORY.records(path) if path.is_file() else []
    prefix = f"{'student' if number else 'warmup'}/{member}"
    points = []
    for row in rows:
        for column, cell in row.items():
            value = None if column == "step" else finite_or_none(cell)
            if value is not None:
                points.append((f"{prefix}/{metric_name(column)}", row["step"], value))
    return points


def _summary_scores(layout: Layout, number: int) -> dict[str, float]:
    """Return all numbers of ``summary.json``."""
    path = layout.evaluation_summary(number)
    summary = read_json(path) if path.is_file() else {}
    scores = {}
    for name, value in flatten(summary, "/"):
        if isinstance(value, int | float):
            scores[f"test/{name}"] = float(value)
    return scores


def _label_scores(layout: Layout, number: int) -> dict[str, float]:
    """Return the number of labels of each source, and their mean predicted Dice."""
    path = layout.labels_table(number)
    rows = LABELS.records(path) if path.is_file() else []
    scores: dict[str, float] = {}
    for source, count in Counter(row["source"] for row in rows).items():
        scores[f"pseudo_labels/{source}"] = count
    dice = mean(row["predicted_dice"] for row in rows)
    if dice is not None:
        scores["pseudo_labels/predicted_dice"] = dice
    return scores


def _small_files(layout: Layout, number: int) -> list[Path]:
    """Return files that name no case."""
    paths = [layout.plan, layout.evaluation_summary(number)]
    return [path for path in paths if path.is_file()]


def _case_tables(layout: Layout, number: int) -> list[Path]:
    """Return files with something about each labelled or test case."""
    paths = [layout.evaluation_cases(number)]
    if not number:
        paths.append(layout.calibration)
    return [path for path in paths if path.is_file()]


def _pseudo_label_tables(layout: Layout, number: int) -> list[Path]:
    """Return files with something about each pseudo-label."""
    paths = [layout.refine(number), layout.labels_table(number)]
    return [path for path in paths if path.is_file()]


def _overlays(layout: Layout, number: int) -> list[Path]:
    """Return pictures of the least certain pseudo-labels, which come first in ``refine.csv``."""
    table = layout.refine(number)
    rows = REFINE.records(table) if table.is_file() else []
    folder = layout.pseudo_labels(number)
    paths = [overlay_path(folder, row["case_id"]) for row in rows]
    return [path for path in paths if path.is_file()][:MAXIMUM_OVERLAYS]
