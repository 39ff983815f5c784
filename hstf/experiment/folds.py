"""The folds of the warm-up: which labelled cases a member does not see."""

from collections.abc import Mapping, Sequence

import numpy as np

from hstf.experiment.cases import Case
from hstf.experiment.schedule import fold_of, is_fold
from hstf.runtime.errors import HstfError


def units_of_folds(patients: Mapping[str, str]) -> dict[str, str]:
    """Return what is held out as a whole together with each labelled case: its patient.

    A single patient is divided into its scans. The networks of the folds have then seen the
    patient whom they predict, so that the calibration is optimistic (``check`` warns about it),
    but an experiment with one labelled patient is possible.

    Args:
        patients: patient of each labelled case.

    Returns:
        The patient of each case, or the case itself if all show the same patient.

    Example:
        >>> units_of_folds({"a1": "a", "a2": "a", "b1": "b"})
        {'a1': 'a', 'a2': 'a', 'b1': 'b'}
        >>> units_of_folds({"a1": "a", "a2": "a"})
        {'a1': 'a1', 'a2': 'a2'}
    """
    if len(set(patients.values())) == 1:
        return {case_id: case_id for case_id in patients}
    return dict(patients)


def patients_of(cases: Sequence[Case]) -> dict[str, str]:
    """Return the patient of each case."""
    return {case.case_id: case.group for case in cases}


def refuse_too_many_folds(labelled: Sequence[Case], folds: int) -> None:
    """Refuse a warm-up with a fold that has no case.

    Raises:
        HstfError: if there are fewer labelled patients (scans of a single patient) than ``folds``.
    """
    units = units_of_folds(patients_of(labelled))
    count = len(set(units.values()))
    if count >= folds:
        return
    is_single = len(set(patients_of(labelled).values())) == 1
    what = "labelled scans, all of one patient" if is_single else "labelled patients"
    advice = "label more patients"
    if count > 1:
        advice += f", or set warmup.folds to {count}"
    raise HstfError(f"warmup.folds is {folds}, but there are {count} {what}: {advice}.")


def held_out_cases(member: str, labelled: Sequence[Case], folds: int, seed: int) -> list[Case]:
    """Return the labelled cases that a member does not see: whole patients.

    Args:
        member: name of the ensemble member.
        labelled: all labelled cases. If they show a single patient, scans are held out.
        folds: number of folds.
        seed: seed of the experiment, which draws the folds.

    Raises:
        HstfError: if there are fewer patients than folds.
    """
    refuse_too_many_folds(labelled, folds)
    if not is_fold(member):
        return []
    unit_of = units_of_folds(patients_of(labelled))
    units = sorted(set(unit_of.values()))
    np.random.default_rng(seed).shuffle(units)
    held_out = set(units[fold_of(member, folds) :: folds])
    return [case for case in labelled if unit_of[case.case_id] in held_out]
