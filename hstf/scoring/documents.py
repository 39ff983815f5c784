"""JSON documents of the evaluation: the scores of a test case, and the summary of a round."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import create_model

from hstf.runtime.documents import Document, Part
from hstf.scoring.absent_classes import AbsentCases, Presence, PresentCases
from hstf.scoring.averages import Statistics
from hstf.scoring.lesion_detection import CaseLesions
from hstf.scoring.lesion_summary import LesionSummary
from hstf.scoring.metrics import METRICS
from hstf.scoring.significance import Interval

StructureScores = dict[str, float | str | None]
"""Value of each metric of :data:`hstf.scoring.metrics.METRICS`, None if undefined, and
``empty``."""


MEMBER_METRICS = ("dice", "hd95_mm", "asd_mm")
"""Metrics of single ensemble members."""


class CaseScores(Document):
    """``scores/<case>.json``: the scores of one test case."""

    stage: ClassVar[str] = "evaluate"

    case_id: str
    group: str
    """The patient."""
    site: str
    classes: dict[str, StructureScores]
    """Metrics of each structure."""
    lesions: dict[str, CaseLesions]
    """Lesions of each structure that consists of lesions; empty if the reference is sparse."""
    members: dict[str, dict[str, StructureScores]]
    """:data:`MEMBER_METRICS` of each structure by each ensemble member."""

    def values(self, metric: str) -> list[float | None]:
        """Return the values of a metric for all structures."""
        return [scores[metric] for scores in self.classes.values()]  # type: ignore[misc]


class EmptyCounts(Part):
    """Test cases in which both label maps, the prediction or the reference lack a structure."""

    both: int
    prediction: int
    reference: int


if TYPE_CHECKING:

    class MetricStatistics(Part):
        """Statistics of each metric; the attributes are the names of METRICS."""

        dice: Statistics
else:
    MetricStatistics = create_model(
        "MetricStatistics", __base__=Part, **dict.fromkeys(METRICS, (Statistics, ...))
    )


class StructureSummary(MetricStatistics):
    """A structure in all test cases: statistics of each metric, and the cases that lack it."""

    empty: EmptyCounts
    present: PresentCases
    absent: AbsentCases

    @property
    def presence(self) -> Presence:
        """Test cases with and without the structure."""
        return Presence(present=self.present, absent=self.absent)


class MemberSummary(Part):
    """Mean test Dice of single ensemble members."""

    mean: float | None
    """Mean over the members."""
    each: dict[str, float | None]


class VoxelErrors(Part):
    """Errors of the voxels of all pseudo-labels."""

    kept_error: float | None
    """Fraction of wrong voxels among those with a weight of at least 0.5."""
    low_weight_error: float | None
    """Fraction of wrong voxels among the others."""
    kept_fraction: float | None
    """Fraction of the voxels with a weight of at least 0.5."""


class RiskPoint(Part):
    """A point of the risk-coverage curve."""

    weight: float
    """Minimum weight (0 to 1) of the voxels that are kept."""
    coverage: float
    """Fraction of the voxels that are kept."""
    error: float
    """Fraction of wrong voxels among them."""


class PseudoLabelSummary(Part):
    """The pseudo-labels of a round compared with withheld labels."""

    dice: Statistics
    """Mean Dice of the cases."""
    accepted: Statistics
    """The same of accepted cases."""
    rejected: Statistics
    """The same of rejected cases."""
    classes: dict[str, Statistics]
    """Dice of each structure."""
    spearman: float | None
    """Rank correlation of predicted and true Dice."""
    risk_coverage_area: float | None = None
    """Area under the risk-coverage curve of the cases; the risk is 1 - Dice."""
    worst_fifth_found: float | None = None
    """Fraction of the worst fifth by true Dice that is in the lowest fifth by predicted Dice."""
    interval_coverage: float | None
    """Fraction of the cases whose true Dice is within the 90% prediction interval."""
    voxels: VoxelErrors
    """Errors of all voxels."""
    foreground_voxels: VoxelErrors
    """Errors of the voxels that are foreground in the pseudo-label or in the withheld label."""
    risk_coverage: list[RiskPoint]
    """Risk-coverage curve of the same voxels."""


class EvaluationSummary(Document):
    """``summary.json``: the scores of a round, means over the test cases."""

    stage: ClassVar[str] = "evaluate"

    round: int
    model: Literal["warm-up", "student"]
    cases: int
    """Number of test cases."""
    patients: int
    dice: Interval
    """Mean Dice of the ensemble over the structures, with its 95% interval over patients. A
    structure that reference and prediction lack does not count, unless ``evaluate.empty`` is
    ``one``."""
    mean: dict[str, Statistics]
    """Statistics of each metric, mean over the structures."""
    classes: dict[str, StructureSummary]
    """Statistics of each structure."""
    lesions: dict[str, LesionSummary]
    """Detection of each structure that consists of lesions."""
    warnings: list[str]
    """Sentences about structures whose scores are no evidence."""
    members: MemberSummary
    pseudo_labels: PseudoLabelSummary | None
    """None if the round has no pseudo-labels, or if no withheld labels exist."""
