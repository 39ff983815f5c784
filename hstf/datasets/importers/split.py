"""Assign cases to the splits labelled, unlabelled, validation and test.

Patients stay together. The draw is seeded and stratified by site and spacing. No label is read:
which cases are labelled must not depend on the content of labels that are withheld afterwards.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hstf.datasets.importers.dataset import DataSet, FoundCase
from hstf.experiment.cases import Split
from hstf.runtime.errors import HstfError, join_problems
from hstf.runtime.files import read_sheet, read_text_of_person

GOLDEN = (5**0.5 - 1) / 2
"""Fractional part of the golden ratio, the step of the additive recurrence in :func:`draw`."""
STREAMS = {"labelled": 0, "test": 1, "validation": 2}
"""Random streams of the draws."""
MAXIMUM_NAMES = 20
"""Number of unknown names that an error message lists."""

Stratum = tuple[str, str, float]
"""Site, additional criterion and voxel volume of a patient."""
Patients = Mapping[str, Sequence[FoundCase]]
"""Cases of each patient."""


@dataclass(frozen=True)
class Request:
    """The requested splits. Names are names of cases or patients."""

    labelled: int | list[str] | None = None
    """Number or names of labelled patients; ``None``: all that have labels."""
    test: int | list[str] = 0
    """Number or names of test patients."""
    validation: int | list[str] = 0
    """Number or names of validation patients."""
    order: list[str] | None = None
    """Replaces the draw: the first patients of the list are labelled, the last are for testing, and
    those before them for validation."""
    splits: Mapping[str, Split] | None = None
    """Split of each case or patient. Those without a split are unlabelled. Replaces all else."""
    seed: int = 0
    test_sites: frozenset[str] = frozenset()
    """Sites whose patients are all test patients."""


def assign(
    dataset: DataSet,
    request: Request,
    volumes: Mapping[str, float],
) -> dict[str, Split]:
    """Return the split of each case.

    Cases without a label are left out if their patient is a validation or test patient.

    Args:
        dataset: the cases.
        request: the requested splits.
        volumes: voxel volume (mm³) of each case.

    Raises:
        HstfError: if more patients are requested than exist, if names are unknown, or if there are
            too few labelled patients.
    """
    patients: dict[str, list[FoundCase]] = defaultdict(list)
    for case in dataset.cases:
        patients[case.patient].append(case)
    _leave_sites_out(dataset, request)
    if request.splits is not None:
        chosen = _as_given(patients, request.splits)
    else:
        chosen = _choose(patients, request, volumes)
    splits = {}
    labelled = []
    for case in dataset.cases:
        split = chosen.get(case.case_id, Split.UNLABELLED)
        if case.has_label:
            splits[case.case_id] = split
            if split is Split.LABELLED:
                labelled.append(case.patient)
        elif split in (Split.TEST, Split.VALIDATION):
            dataset.leave_out(
                case.case_id,
                f"has no label, and its patient is a {split.value} patient",
            )
        else:
            splits[case.case_id] = Split.UNLABELLED
    _refuse_few_labelled(dataset, splits, labelled)
    return splits


def _refuse_few_labelled(
    dataset: DataSet, splits: Mapping[str, Split], labelled: Sequence[str]
) -> None:
    """Refuse labelled cases that cannot be divided into folds.

    Several scans of one patient are enough, unless all scans seem to show this patient.

    Args:
        dataset: the cases.
        splits: split of each case.
        labelled: patient of each labelled case.

    Raises:
        HstfError: if there are too few labelled patients.
    """
    patients = len(set(labelled))
    others = {case.patient for case in dataset.cases} - set(labelled)
    if patients > 1 or (len(labelled) > 1 and others):
        return
    tests = sum(split is Split.TEST for split in splits.values())
    with_label = sum(case.has_label for case in dataset.cases)
    raise HstfError(
        f"{patients} labelled patients, expected at least 2 (or 1 with several scans, if there are"
        " other patients), because the warm-up uses cross-validation."
        f" {with_label} of {len(dataset.cases)} cases have a label, and {tests} are test cases."
    )


def _choose(
    patients: Patients,
    request: Request,
    volumes: Mapping[str, float],
) -> dict[str, Split]:
    """Return the split of cases for requested numbers or names."""
    official = []
    free = []
    for name, cases in patients.items():
        if any(case.official is Split.TEST for case in cases):
            official.append(name)
        elif any(_can_be_labelled(case) for case in cases):
            free.append(name)
    if official and request.test:
        raise HstfError(
            f"the data set has an official test set of {len(official)} patients. Remove --test, or"
            " define the split of each case with --split."
        )
    sampler = _Sampler(patients, request, volumes)
    test = official or _draw(sampler, free, request.test, "test")
    for name in free:
        if any(case.site in request.test_sites for case in patients[name]):
            test.append(name)
    test_patients = set(test)
    rest = [name for name in free if name not in test_patients]
    validation = set(_draw(sampler, rest, request.validation, "validation"))
    rest = [name for name in rest if name not in validation]
    wanted = request.labelled
    if wanted is None:
        wanted = len(rest)
    labelled = sampler.select(rest, wanted, "labelled")
    by_patient = dict.fromkeys(sorted(test_patients), Split.TEST)
    by_patient |= dict.fromkeys(sorted(validation), Split.VALIDATION)
    by_patient |= dict.fromkeys(labelled, Split.LABELLED)
    splits = {}
    for name, split in by_patient.items():
        for case in patients[name]:
            withheld = split is Split.LABELLED and not _can_be_labelled(case)
            splits[case.case_id] = Split.UNLABELLED if withheld else split
    return splits


def _can_be_labelled(case: FoundCase) -> bool:
    """Return whether training may read the label of a case."""
    return case.has_label and case.official is not Split.UNLABELLED


def _draw(
    sampler: "_Sampler", free: Sequence[str], wanted: int | list[str], option: str
) -> list[str]:
    """Return the requested test or validation patients.

    Patients that are named for another purpose are excluded from a draw.
    """
    request = sampler.request
    pool = list(free)
    for other, names in (("labelled", request.labelled), ("validation", request.validation)):
        if isinstance(names, list) and other != option:
            named = set(_resolve(names, list(sampler.patients), other, sampler.patients))
            pool = [name for name in pool if name not in named]
    return sampler.select(pool, wanted, option)


def _leave_sites_out(dataset: DataSet, request: Request) -> None:
    """Leave out cases of test sites that have no label.

    They cannot be scored, and training must not see their site.

    Raises:
        HstfError: if a site is unknown, or if the split is defined in another way, too.
    """
    if not request.test_sites:
        return
    sites = {case.site for case in dataset.cases}
    unknown = sorted(request.test_sites - sites)
    if unknown:
        known = ", ".join(sorted(sites - {""})) or "not known"
        raise HstfError(
            f"--test-site {', '.join(unknown)}: no case is of this site. Sites are {known}."
        )
    if request.splits is not None or request.test:
        raise HstfError("--test-site defines the test cases: remove --test and --split.")
    kept = []
    for case in dataset.cases:
        if case.site in request.test_sites and not case.has_label:
            dataset.leave_out(case.case_id, "has no label, and its site is a test site")
        else:
            kept.append(case)
    dataset.cases = kept


@dataclass(frozen=True)
class _Sampler:
    """Selects patients by name, from the given order, or at random."""

    patients: Patients
    request: Request
    volumes: Mapping[str, float]

    def select(
        self,
        pool: list[str],
        wanted: int | list[str],
        option: str,
    ) -> list[str]:
        """Return ``wanted`` patients of ``pool``.

        Args:
            pool: patients to select from.
            wanted: number or names of patients.
            option: ``labelled``, ``test`` or ``validation``, for the draw and the messages.

        Raises:
            HstfError: if there are too few patients, or if a name is unknown.
        """
        if not isinstance(wanted, int):
            return _resolve(wanted, pool, option, self.patients)
        if wanted > len(pool):
            raise HstfError(
                f"--{option} {wanted} requests more patients than have labels: {len(pool)}."
            )
        if self.request.order is None:
            drawn = draw(pool, self.stratum, [self.request.seed, STREAMS[option]])
            return drawn[:wanted]
        ordered = self._in_order(pool, self.request.order)
        if wanted > len(ordered):
            raise HstfError(
                f"--{option} {wanted} requests more patients than --order lists: {len(ordered)}."
            )
        if option != "labelled":
            return ordered[len(ordered) - wanted :]
        return ordered[:wanted]

    def _in_order(self, pool: list[str], order: Iterable[str]) -> list[str]:
        names = _resolve(order, list(self.patients), "order", self.patients)
        return [name for name in names if name in pool]

    def stratum(self, name: str) -> Stratum:
        """Return the stratum of a patient, from the first case."""
        case = self.patients[name][0]
        # Two digits: scanners of a series differ slightly in their spacing.
        volume = float(f"{self.volumes[case.case_id]:.2g}")
        return case.site, case.stratum, volume


def draw(
    names: Iterable[str],
    stratum: Callable[[str], Stratum],
    seed: Sequence[int],
) -> list[str]:
    """Return all ``names`` in a random order whose every beginning is spread over the strata.

    The names are sorted by stratum, in random order within each stratum. Steps of the golden
    ratio, the additive recurrence of lowest discrepancy, then visit them. A smaller draw is part of
    a larger one with the same seed.
    """
    rng = np.random.default_rng(list(seed))
    shuffled = [str(name) for name in rng.permutation(sorted(names))]
    remaining = sorted(shuffled, key=stratum)
    position = rng.random()
    count = len(remaining)
    order: list[str] = []
    for step in range(count):
        rank = (position + step * GOLDEN) % 1 * count
        # Take the nearest remaining name, because each name can be taken only once.
        index = int(rank * len(remaining) / count)
        index = min(index, len(remaining) - 1)
        order.append(remaining.pop(index))
    return order


def _resolve(
    names: Iterable[str],
    pool: Sequence[str],
    option: str,
    patients: Patients,
) -> list[str]:
    """Return the patients that ``names`` of patients or cases refer to, without duplicates.

    Raises:
        HstfError: if a name does not refer to a patient of ``pool``.
    """
    patient_of = {}
    for patient, cases in patients.items():
        for case in cases:
            patient_of[case.case_id] = patient
    known = set(pool)
    found = []
    unknown = []
    for name in names:
        patient = name if name in patients else patient_of.get(name, name)
        found.append(patient)
        if patient not in known:
            unknown.append(patient)
    if unknown:
        raise join_problems(
            f"--{option}: {len(unknown)} of {len(found)} names refer to no patient that can be"
            f" {option}.",
            unknown[:MAXIMUM_NAMES],
        )
    return list(dict.fromkeys(found))


def _as_given(
    patients: Patients,
    splits: Mapping[str, Split],
) -> dict[str, Split]:
    """Return the split of each case from ``splits`` of cases or patients.

    Raises:
        HstfError: if a name is unknown, a patient has two splits, or a label is missing.
    """
    names = set(patients)
    chosen: dict[str, Split] = {}
    divided = []
    without_label = []
    for patient, cases in patients.items():
        of_patient = set()
        default = splits.get(patient, Split.UNLABELLED)
        for case in cases:
            split = splits.get(case.case_id, default)
            names.add(case.case_id)
            chosen[case.case_id] = split
            of_patient.add(split)
            if split is not Split.UNLABELLED and not case.has_label:
                without_label.append(f"{case.case_id} is {split}, but has no label")
        if len(of_patient) > 1:
            divided.append(f"{patient} is {' and '.join(sorted(of_patient))}")
    unknown = sorted(set(splits) - names)
    if unknown:
        raise join_problems(
            f"--split: {len(unknown)} names refer to no case or patient.",
            unknown[:MAXIMUM_NAMES],
        )
    if divided or without_label:
        raise join_problems(
            "--split: each patient belongs to one split, and labelled and test cases need a label.",
            [*divided, *without_label],
        )
    return chosen


def read_names(path: Path) -> list[str]:
    """Read names of cases or patients, one in each line. Further columns are ignored.

    Raises:
        HstfError: if the file is missing, unreadable or empty.
    """
    names = []
    for line in read_text_of_person(path).splitlines():
        words = re.split(r"[,;\s]+", line.strip().strip(",;"))
        name = words[0].strip('"')
        if name and not name.startswith("#"):
            names.append(name)
    if not names:
        raise HstfError(f"{path}: contains no name: expected one in each line.")
    return names


def read_groups(path: Path) -> dict[str, str]:
    """Return the patient of each case in a table with the columns ``case_id`` and ``group``."""
    header, rows = read_sheet(path, ("case_id", "group"))
    if not {"case_id", "group"} <= set(header):
        return {}
    return {row["case_id"]: row["group"] for _, row in rows if row["group"]}


def read_splits(path: Path) -> dict[str, Split]:
    """Read a table with the columns ``case_id`` (or ``group``) and ``split``.

    Raises:
        HstfError: if a column is missing, or a split is unknown.
    """
    header, rows = read_sheet(path, ("case_id", "group", "split"))
    keys = [name for name in ("case_id", "group") if name in header]
    if not keys or "split" not in header:
        raise HstfError(
            f"{path}: has the columns {', '.join(header)}, expected case_id (or group) and split."
        )
    splits = {}
    invalid = []
    for line, row in rows:
        split = row["split"].casefold()
        if split in set(Split):
            splits[row[keys[0]]] = Split(split)
        else:
            invalid.append(f"line {line}: split {row['split']!r}")
    if invalid:
        raise join_problems(
            f"{path}: a split is one of {', '.join(Split)}.",
            invalid,
        )
    return splits
