"""The folds of the warm-up: which labelled patients a member does not see."""

from collections.abc import Sequence

import numpy as np

from hstf.experiment.cases import Case, refuse_few_patients
from hstf.experiment.schedule import fold_of, is_fold


def held_out_cases(member: str, labelled: Sequence[Case], folds: int, seed: int) -> list[Case]:
    """Return the labelled cases that a member does not see: whole patients.

    Args:
        member: name of the ensemble member.
        labelled: all labelled cases.
        folds: number of folds.
        seed: seed of the experiment, which draws the folds.

    Raises:
        HstfError: if there are fewer patients than folds.
    """
    refuse_few_patients(labelled, folds)
    if not is_fold(member):
        return []
    groups = sorted({case.group for case in labelled})
    np.random.default_rng(seed).shuffle(groups)
    held_out = set(groups[fold_of(member, folds) :: folds])
    return [case for case in labelled if case.group in held_out]
