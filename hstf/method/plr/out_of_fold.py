"""The labelled cases with their out-of-fold predictions, one at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from hstf.experiment.cases import Case, Split, names_of
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.experiment.round_tables import TEACHER
from hstf.experiment.scan_tables import PREPROCESSED
from hstf.imaging.arrays import read_array
from hstf.imaging.geometry import GEOMETRY, Geometry
from hstf.method.external_weights import Mixture
from hstf.method.tta_summary import TtaSummary
from hstf.runtime.progress import track
from hstf.runtime.shards import Row, check_case_ids, read_shard, refuse_changed_files

LABEL = "label.b2nd"
"""File name of a preprocessed label."""


@dataclass(frozen=True)
class LabelledCase:
    """An out-of-fold prediction and the label of the case, both on the planned grid."""

    case_id: str
    output: TtaSummary
    label: np.ndarray
    """``(X, Y, Z)`` uint8 class index, 255 where unknown."""
    voxel_mm3: float


@dataclass(frozen=True)
class OutOfFoldCases:
    """The labelled cases. Each step reads them from disk again, because memory holds only one.

    Example:
        >>> from hstf.config.experiment import Config
        >>> cases = OutOfFoldCases("calibrate", Layout.of(Config()), case_ids=[])
        >>> [case.case_id for case in cases.read("voxels")]
        []
    """

    stage: str
    """The stage that reads them, for the progress."""
    layout: Layout
    case_ids: Sequence[str]
    mixture: Mixture | None = None
    """External teachers that are mixed into the predictions."""

    def read(self, step: str) -> Iterator[LabelledCase]:
        """Yield the cases and show the progress of ``step``."""
        for case_id in track(self.case_ids, f"{self.stage}: {step}"):
            case = read_case(self.layout, case_id)
            if self.mixture is not None:
                case = replace(case, output=self.mixture.mixed(case_id, case.output))
            yield case


def read_case(layout: Layout, case_id: str) -> LabelledCase:
    """Read prediction and label of a labelled case."""
    folder = layout.preprocessed / case_id
    geometry = Geometry.load(folder / GEOMETRY)
    return LabelledCase(
        case_id,
        TtaSummary.load(layout.out_of_fold / case_id),
        read_array(folder / LABEL),
        prod(geometry.spacing),
    )


def checked_cases(context: StageContext) -> list[Case]:
    """Return the labelled cases after checking their files.

    Raises:
        HstfError: if files are missing or have changed, or if a case has no out-of-fold prediction.
    """
    layout = context.layout
    cases = context.cases(Split.LABELLED)
    predicted: list[Row] = []
    for fold in context.schedule.held_out:
        table = layout.out_of_fold_table(fold)
        rows = TEACHER.records(table)
        refuse_changed_files(rows, table)
        predicted += rows
    check_case_ids(predicted, names_of(cases), layout.out_of_fold_table("fold_*"))
    for shard, shard_cases in context.shards(Split.LABELLED).items():
        read_shard(
            PREPROCESSED,
            layout.preprocessed_table(shard),
            names_of(shard_cases),
            endings=(LABEL, GEOMETRY),
        )
    return cases
