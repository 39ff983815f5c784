"""Predicted Dice against corrected labels: what the decisions of reviewers show about calibration.

A corrected label is the reference for the version of the pseudo-label that it replaced. Two things
limit what it shows. A reviewer starts from the pseudo-label, so a voxel that nobody looked at
counts as right, and the measured Dice is an upper bound. Reviewers correct the doubtful cases
first, so corrected cases are no random sample.

The label of an unlabelled case is never read here; what is read was written by a reviewer.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.decisions import version_of
from hstf.experiment.layout import Layout
from hstf.experiment.overrides import Override, read_overrides
from hstf.experiment.review_tables import DECISIONS
from hstf.experiment.round_tables import REFINE
from hstf.experiment.schedule import Schedule
from hstf.imaging.label_values import class_indices
from hstf.imaging.volumes import read_label
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_sheet, sha256_file
from hstf.scoring.averages import mean
from hstf.scoring.confusion import structure_dice
from hstf.scoring.significance import rank_correlation

MINIMUM_RANKED = 6
"""With fewer cases a rank correlation means nothing."""
MEASURED = ("sha256", "result_sha256", "dice_before", "dice_after")
"""Columns of the table of decisions with what was measured when a label was saved."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class CorrectedCase:
    """A corrected case."""

    case_id: str
    round: int
    reviewer: str
    predicted: float
    """Predicted mean Dice of the pseudo-label that was corrected."""
    low: float | None
    """Its 90% interval; None if the pseudo-label was computed again since."""
    high: float | None
    measured: float
    """Mean Dice of this pseudo-label with the corrected label as reference. A structure that both
    lack has 1, as predicted Dice defines it."""

    @property
    def is_within_interval(self) -> float | None:
        """1 if the measured Dice is within the interval, 0 if not, None without an interval."""
        if self.low is None or self.high is None:
            return None
        return float(self.low <= self.measured <= self.high)


@dataclass(frozen=True)
class Feedback:
    """All corrected cases."""

    cases: list[CorrectedCase] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    """Cases that are left out: the pseudo-label that was corrected does not exist any more."""
    problems: list[str] = field(default_factory=list)
    """Files that could not be read."""

    @property
    def predicted(self) -> float | None:
        """Mean predicted Dice."""
        return mean(case.predicted for case in self.cases)

    @property
    def measured(self) -> float | None:
        """Mean measured Dice."""
        return mean(case.measured for case in self.cases)

    @property
    def coverage(self) -> float | None:
        """Fraction of the cases whose measured Dice is within the interval."""
        return mean(case.is_within_interval for case in self.cases)

    @property
    def correlation(self) -> float | None:
        """Spearman's rank correlation; None with fewer than :data:`MINIMUM_RANKED` cases."""
        if len(self.cases) < MINIMUM_RANKED:
            return None
        predicted = [case.predicted for case in self.cases]
        return rank_correlation(predicted, [case.measured for case in self.cases])

    @property
    def text(self) -> str:
        """What the corrected cases show, in a few sentences."""
        if not self.cases:
            return "No pseudo-label was corrected yet, so nothing can be compared."
        count = len(self.cases)
        noun = "case" if count == 1 else "cases"
        sentences = [
            f"Of {count} corrected {noun}: predicted Dice {self.predicted:.2f}, measured"
            f" {self.measured:.2f}."
        ]
        known = [case.is_within_interval for case in self.cases]
        with_interval = [value for value in known if value is not None]
        if with_interval:
            sentences.append(
                f"The measured Dice of {sum(with_interval):.0f} of {len(with_interval)} is within"
                " the 90% interval."
            )
        if self.correlation is not None:
            sentences.append(f"Rank correlation {self.correlation:.2f}.")
        return " ".join(sentences)


def feedback(
    config: Config, layout: Layout, schedule: Schedule, case_ids: Collection[str]
) -> Feedback:
    """Compare predicted Dice with the corrected labels of an experiment.

    Args:
        config: the keys ``labels`` and ``regions``.
        layout: its files.
        schedule: its rounds.
        case_ids: all unlabelled cases.

    Raises:
        HstfError: if the overrides folder or ``refine.csv`` cannot be read.
    """
    overrides = read_overrides(layout, schedule, case_ids, problems=[])
    rows = _measured_rows(layout)
    found = Feedback()
    refined: dict[int, dict[str, Row]] = {}
    for (number, case_id), override in sorted(overrides.items()):
        if override.file is None or not layout.refine(number).is_file():
            continue
        if number not in refined:
            records = REFINE.records(layout.refine(number))
            refined[number] = {row["case_id"]: row for row in records}
        row = refined[number].get(case_id)
        if row is not None:
            label = layout.pseudo_label(number, case_id)
            _add(found, config, override, label, row, rows.get((number, case_id), []))
    return found


def _add(
    found: Feedback,
    config: Config,
    override: Override,
    pseudo_label: Path,
    refined: Row,
    rows: list[dict[str, str]],
) -> None:
    """Add a corrected case, or the reason why it cannot be compared.

    Args:
        found: is extended.
        config: the keys ``labels`` and ``regions``.
        override: the corrected label.
        pseudo_label: the pseudo-label on disk.
        refined: its row of ``refine.csv``.
        rows: the rows of the case with a measured Dice.
    """
    assert override.file is not None
    present = version_of(refined)
    reviewer = override.decisions[-1].reviewer if override.decisions else ""
    version = present
    predicted: float | None = refined["predicted_dice"]
    measured: float | None
    saved = _saved(rows, sha256_file(override.file))
    if saved is not None:
        version, predicted, measured = saved
    else:
        seen = override.decisions[-1].version if override.decisions else None
        if seen and seen != present:
            found.changed.append(override.case_id)
            return
        try:
            measured = _measure(config, pseudo_label, override.file)
        except (HstfError, ValueError) as error:
            found.problems.append(f"{override.file}: could not be compared ({error})")
            return
    if predicted is None or measured is None:
        return
    has_interval = version == present
    found.cases.append(
        CorrectedCase(
            case_id=override.case_id,
            round=override.number,
            reviewer=reviewer,
            predicted=predicted,
            low=refined["predicted_dice_low"] if has_interval else None,
            high=refined["predicted_dice_high"] if has_interval else None,
            measured=measured,
        )
    )


def _measured_rows(layout: Layout) -> dict[tuple[int, str], list[dict[str, str]]]:
    """Return the rows of the table of decisions with a measured Dice, by round and case."""
    found: dict[tuple[int, str], list[dict[str, str]]] = {}
    if not layout.decisions.is_file():
        return found
    try:
        _, lines = read_sheet(layout.decisions, [column.name for column in DECISIONS.columns])
    except HstfError:
        return found  # whoever reads the decisions describes what is wrong
    for _, row in lines:
        if all(row.get(name) for name in MEASURED):
            number = row.get("round", "").partition(".")[0]
            if number.isdecimal():
                found.setdefault((int(number), row["case_id"]), []).append(row)
    return found


def _saved(rows: list[dict[str, str]], digest: str) -> tuple[str, float, float] | None:
    """Return version, predicted and measured Dice as they were noted when a label was saved.

    Args:
        rows: the rows of the case.
        digest: SHA-256 of the corrected label.
    """
    for row in reversed(rows):
        if row["result_sha256"].casefold() == digest:
            try:
                numbers = float(row["dice_before"]), float(row["dice_after"])
            except ValueError:
                continue
            return row["sha256"].casefold(), *numbers
    return None


def _measure(config: Config, pseudo_label: Path, corrected: Path) -> float | None:
    """Return the mean Dice of a pseudo-label with a corrected label as reference."""
    automatic = class_indices(read_label(pseudo_label).data, config, pseudo_label)
    reference = class_indices(read_label(corrected).data, config, corrected)
    values = structure_dice(automatic, reference, config.structures)
    return mean(values[~np.isnan(values)].tolist())
