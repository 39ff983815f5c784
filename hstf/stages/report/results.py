"""What an experiment has written so far.

Files that do not exist yet are empty. A file that cannot be read is reported once.
"""

from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from hstf.experiment.cases import Split, names_of
from hstf.experiment.context import StageContext
from hstf.experiment.last_run import RUN_FILE, LastRun
from hstf.experiment.plan import Plan
from hstf.experiment.round_tables import LABELS, REFINE
from hstf.experiment.score_tables import EVALUATION_CASES
from hstf.method.external_weights import ExternalWeights
from hstf.method.plr.calibration import Calibration
from hstf.runtime.documents import Document
from hstf.runtime.errors import HstfError
from hstf.runtime.tables import Table
from hstf.scoring.absent_classes import Presence
from hstf.scoring.control import Control, can_have_control, read_control
from hstf.scoring.documents import EvaluationSummary
from hstf.scoring.feedback import Feedback, feedback
from hstf.scoring.monitoring import RoundMonitor
from hstf.scoring.round_choice import RoundChoice, choose_round
from hstf.scoring.round_comparison import is_scored_on_other_cases
from hstf.scoring.rounds import rounds_table

AnyDocument = TypeVar("AnyDocument", bound=Document)


class Results:
    """Reads the files of an experiment for the report."""

    def __init__(self, context: StageContext) -> None:
        """Read nothing yet.

        Args:
            context: the stage ``report``.
        """
        self.context = context
        self.config = context.config
        self.layout = context.layout
        self.schedule = context.schedule
        self.problems: list[str] = []
        """Sentences about files that exist but cannot be read."""

    @property
    def last(self) -> int:
        """Number of the last round."""
        return self.schedule.last

    @property
    def rounds(self) -> list[int]:
        """Rounds of self-training, without the warm-up."""
        return list(range(1, self.last + 1))

    @property
    def pseudo_label_rounds(self) -> list[int]:
        """Rounds that learn from pseudo-labels. An earlier run may have left files of others."""
        return [number for number in self.rounds if self.schedule.has_pseudo_labels(number)]

    @property
    def has_pseudo_labels(self) -> bool:
        """Whether a round learns from pseudo-labels."""
        return bool(self.pseudo_label_rounds)

    @property
    def structures(self) -> list[str]:
        """Names of the regions or, without regions, of the classes."""
        return list(self.config.structures)

    @property
    def kind(self) -> str:
        """What a structure is called: ``class`` or ``region``."""
        return self.config.structure_kind

    @property
    def kinds(self) -> str:
        """What several structures are called."""
        return "regions" if self.config.regions else "classes"

    @cached_property
    def scores(self) -> list[dict[str, Any]]:
        """A row for each evaluated round; this writes ``rounds.csv``."""
        try:
            return rounds_table(self.context)
        except (HstfError, KeyError, TypeError) as error:
            self.problems.append(f"The table of rounds could not be made: {error}")
            return []

    @cached_property
    def control(self) -> Control | None:
        """The control; None if there is none or if its scores cannot be read."""
        try:
            return read_control(self.context)
        except (HstfError, KeyError, TypeError) as error:
            self.problems.append(f"The control could not be compared: {error}")
            return None

    @property
    def can_have_control(self) -> bool:
        """Whether ``evaluate.control`` has an effect; false without a readable case sheet."""
        try:
            return can_have_control(self.context)
        except HstfError:
            return False

    @cached_property
    def sites(self) -> dict[str, str]:
        """Site of each case; empty without a readable case sheet."""
        try:
            return {case.case_id: case.site for case in self.context.sheet.cases}
        except HstfError:
            return {}

    @cached_property
    def images(self) -> dict[str, tuple[Path, ...]]:
        """Image files of each case; empty without a readable case sheet."""
        try:
            return {case.case_id: case.images for case in self.context.sheet.cases}
        except HstfError:
            return {}

    @cached_property
    def last_run(self) -> LastRun | None:
        """What the last run of the workflow did; None if it is not known."""
        return self._document(LastRun, self.layout.root / RUN_FILE)

    @cached_property
    def split_counts(self) -> dict[Split, str]:
        """Number of cases of each split; dashes without a readable case sheet."""
        try:
            return {split: str(len(self.context.cases(split))) for split in Split}
        except HstfError as error:
            self.problems.append(str(error))
            return dict.fromkeys(Split, "–")

    @cached_property
    def has_other_warmup_cases(self) -> bool:
        """Whether the warm-up is of another experiment and was scored on other test cases."""
        try:
            return is_scored_on_other_cases(self.context)
        except HstfError as error:
            self.problems.append(str(error))
            return True

    @cached_property
    def choice(self) -> RoundChoice | None:
        """Which round is exported, and why; None if a file about it cannot be read."""
        try:
            return choose_round(self.context)
        except HstfError as error:
            self.problems.append(str(error))
            return None

    @cached_property
    def plan(self) -> Plan | None:
        """The plan."""
        return self._document(Plan, self.layout.plan)

    @cached_property
    def calibration(self) -> Calibration | None:
        """The calibration of the ensemble."""
        return self._document(Calibration, self.layout.calibration)

    @cached_property
    def round_calibrations(self) -> dict[int, Calibration | None]:
        """The calibration of each round that has pseudo-labels.

        It is that of the ensemble, or of its mixture with the external teachers of the round.
        """
        found = {}
        for number in self.pseudo_label_rounds:
            found[number] = self.calibration
            if self.schedule.external(self.config, number):
                path = self.layout.round_calibration(number)
                found[number] = self._document(Calibration, path)
        return found

    @cached_property
    def external_weights(self) -> ExternalWeights | None:
        """The weights of the external teachers; None if there are none."""
        return self._document(ExternalWeights, self.layout.external_weights)

    @cached_property
    def pseudo_labels(self) -> dict[int, pd.DataFrame]:
        """``refine.csv`` and ``labels.csv`` of each round that has pseudo-labels, by case.

        Columns of ``labels.csv`` that both tables have are called ``<column>_used``. The least
        certain cases come first: those that were rejected, then the lowest predicted Dice.
        """
        joined = {}
        for number in self.pseudo_label_rounds:
            refined = self.frame(REFINE, self.layout.refine(number))
            if len(refined):
                labels = self.frame(LABELS, self.layout.labels_table(number))
                both = refined.merge(
                    labels,
                    "left",
                    on="case_id",
                    suffixes=("", "_used"),
                )
                joined[number] = both.sort_values(["accepted", "predicted_dice"], kind="stable")
        return joined

    @cached_property
    def feedback(self) -> Feedback:
        """Predicted Dice against the corrected labels."""
        try:
            cases = names_of(self.context.cases(Split.UNLABELLED))
            return feedback(self.config, self.layout, self.schedule, cases)
        except HstfError as error:
            return Feedback(problems=[f"Corrected labels could not be compared. {error}"])

    def labels(self, number: int) -> pd.DataFrame:
        """Return ``labels.csv`` of a round."""
        return self.frame(LABELS, self.layout.labels_table(number))

    def test_cases(self, number: int) -> pd.DataFrame:
        """Return the scores of the test cases in a round, a row for each case and structure."""
        return self.frame(EVALUATION_CASES, self.layout.evaluation_cases(number))

    def case_dice(self, number: int) -> dict[str, float]:
        """Return the mean Dice of each test case over the structures that have one."""
        means = self.test_cases(number).groupby("case_id", sort=False)["dice"].mean()
        return {str(case_id): float(dice) for case_id, dice in means.dropna().items()}

    def presence(self, number: int) -> dict[str, Presence]:
        """Return for each structure in how many test cases it is present and found."""
        summary = self.summary(number)
        if summary is None or not summary.cases:
            return {}
        return {name: scores.presence for name, scores in summary.classes.items()}

    def monitor(self, number: int) -> RoundMonitor | None:
        """Return the label-free evidence about a round; None if there is none."""
        return self._document(RoundMonitor, self.layout.monitor(number))

    def summary(self, number: int) -> EvaluationSummary | None:
        """Return the summary of the evaluation of a round; None if it cannot be read."""
        return self._document(EvaluationSummary, self.layout.evaluation_summary(number))

    def frame(
        self,
        table: Table,
        path: Path,
    ) -> pd.DataFrame:
        """Read a table; it has no rows if the file is missing or cannot be read."""
        try:
            if path.is_file():
                return table.read(path)
        except HstfError as error:
            self._report(path, error)
        return pd.DataFrame(columns=table.header())

    def _document(
        self,
        kind: type[AnyDocument],
        path: Path,
    ) -> AnyDocument | None:
        """Read a document; None if the file is missing or cannot be read."""
        try:
            return kind.load(path) if path.is_file() else None
        except HstfError as error:
            self._report(path, error)
            return None

    def _report(
        self,
        path: Path,
        error: Exception,
    ) -> None:
        """Report once that a file cannot be read."""
        reason = str(error).removeprefix(f"{path}: ").replace("\n", " ")
        sentence = f"{path} could not be read. The report lacks its content. Reason: {reason}"
        if sentence not in self.problems:
            self.problems.append(sentence)
