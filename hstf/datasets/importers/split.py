"""Which cases are labelled, unlabelled and test: by patient, seeded, spread over sites and spacings.

Nothing is read from a label: a case that ends up unlabelled must not have been chosen by what its label holds.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hstf.datasets.importers.dataset import DataSet, FoundCase
from hstf.experiment.cases import Split
from hstf.runtime.errors import HstfError, join_faults
from hstf.runtime.files import read_sheet

GOLDEN = (5**0.5 - 1) / 2
Stratum = tuple[str, str, float]


@dataclass(frozen=True)
class Request:
    """How a person wants the cases split. Names are those of cases or patients."""

    labelled: int | list[str] | None = None
    """Patients to draw, or which; ``None``: all that have labels."""
    test: int | list[str] = 0
    order: list[str] | None = None
    """Instead of drawing: the labelled ones are the first, the test ones the last of these."""
    splits: Mapping[str, Split] | None = None
    """The split of each case or patient; those not named are unlabelled. Then nothing else counts."""
    seed: int = 0
    test_sites: frozenset[str] = frozenset()
    """All patients of these sites are for testing, and none of their scans is learned from."""


def assign(dataset: DataSet, request: Request, spacing: Mapping[str, float]) -> dict[str, Split]:
    """The split of each case; a case without a label whose patient is tested is left out.

    Args:
        spacing: voxel volume (mm³) of each case.

    Raises:
        HstfError: more patients asked for than there are, names that no case has, or too few labelled patients.
    """
    patients: dict[str, list[FoundCase]] = defaultdict(list)
    for case in dataset.cases:
        patients[case.patient].append(case)
    _leave_sites_out(dataset, request)
    given = request.splits
    chosen = _choose(patients, request, spacing) if given is None else _as_given(patients, given)
    splits = {}
    for case in dataset.cases:
        split = chosen.get(case.case_id, Split.UNLABELLED)
        if split is Split.TEST and case.label is None:
            dataset.leave_out(case.case_id, "has no label, and its patient is a test patient")
        else:
            splits[case.case_id] = Split.UNLABELLED if case.label is None else split
    labelled = {
        case.patient for case in dataset.cases if splits.get(case.case_id) is Split.LABELLED
    }
    if len(labelled) < 2:
        raise HstfError(
            f"{len(labelled)} labelled patients, expected at least 2: the warm-up learns from some and predicts the others."
        )
    return splits


def _choose(
    patients: Mapping[str, Sequence[FoundCase]], request: Request, spacing: Mapping[str, float]
) -> dict[str, Split]:
    """Split by case, from numbers and lists."""
    official = {name: None for name, cases in patients.items() if any(case.test for case in cases)}
    if official and request.test:
        raise HstfError(
            f"the data have a test set of {len(official)} patients. Leave --test out, or say with --split which"
            " case is what."
        )

    def stratum(name: str) -> Stratum:
        case = patients[name][0]
        return case.site, case.stratum, float(f"{spacing[case.case_id]:.2g}")

    free = [
        name
        for name, cases in patients.items()
        if name not in official and any(case.label is not None for case in cases)
    ]
    listed = request.labelled if isinstance(request.labelled, list) else []
    named = set(_named(listed, free, "labelled", patients))
    of_site = {
        name for name in free if any(case.site in request.test_sites for case in patients[name])
    }
    for_test = [name for name in free if name not in named]
    test = list(official) or _pick(for_test, request.test, request, "test", patients, stratum)
    test = sorted({*test, *of_site})
    rest = [name for name in free if name not in set(test)]
    wanted = len(rest) if request.labelled is None else request.labelled
    labelled = _pick(rest, wanted, request, "labelled", patients, stratum)
    by_patient = dict.fromkeys(test, Split.TEST) | dict.fromkeys(labelled, Split.LABELLED)
    return {case.case_id: by_patient[name] for name in by_patient for case in patients[name]}


def _leave_sites_out(dataset: DataSet, request: Request) -> None:
    """Leave out the scans of test sites that have no label: they can neither be scored nor, unseen, be learned from.

    Raises:
        HstfError: no case is of such a site, or the split is given already.
    """
    if not request.test_sites:
        return
    sites = {case.site for case in dataset.cases}
    if unknown := sorted(request.test_sites - sites):
        known = ", ".join(sorted(sites - {""})) or "not known"
        raise HstfError(f"--test-site {', '.join(unknown)}: no case is of it. Sites are {known}.")
    if request.splits is not None or request.test:
        raise HstfError(
            "--test-site says which cases are for testing: leave --test and --split out."
        )
    unseen = [
        case for case in dataset.cases if case.site in request.test_sites and case.label is None
    ]
    for case in unseen:
        dataset.leave_out(case.case_id, "has no label, and its site is a test site")
    dataset.cases = [case for case in dataset.cases if case not in unseen]


def _pick(
    pool: list[str],
    wanted: int | list[str],
    request: Request,
    what: str,
    patients: Mapping[str, Sequence[FoundCase]],
    stratum: Callable[[str], Stratum],
) -> list[str]:
    """Patients of ``pool``: those named, the first or last of an order, or drawn."""
    if not isinstance(wanted, int):
        return _named(wanted, pool, what, patients)
    if wanted > len(pool):
        raise HstfError(f"--{what} {wanted} asks for more patients than have labels: {len(pool)}.")
    if request.order is not None:
        ordered = [
            name
            for name in _named(request.order, list(patients), "order", patients)
            if name in pool
        ]
        if wanted > len(ordered):
            raise HstfError(
                f"--{what} {wanted} asks for more patients than --order names: {len(ordered)}."
            )
        return ordered[len(ordered) - wanted :] if what == "test" else ordered[:wanted]
    return draw(pool, stratum, [request.seed, what == "test"])[:wanted]


def draw(names: Iterable[str], stratum: Callable[[str], Stratum], seed: Sequence[int]) -> list[str]:
    """All ``names`` in an order of which every beginning is spread evenly over the strata.

    Names are sorted by stratum, at random within each; steps of the golden ratio (the additive recurrence of least
    discrepancy) visit them. So 3 labelled patients are among the 7 of a larger draw.
    """
    rng = np.random.default_rng(list(seed))
    shuffled = [str(name) for name in rng.permutation(sorted(names))]
    left = sorted(shuffled, key=stratum)
    position, order = rng.random(), list[str]()
    count = len(left)
    ranks = [(position + k * GOLDEN) % 1 * count for k in range(count)]
    for (
        rank
    ) in ranks:  # the nearest name that is left: no two steps of the recurrence share a place
        order.append(left.pop(min(int(rank * len(left) / count), len(left) - 1)))
    return order


def _named(
    names: Iterable[str],
    pool: Sequence[str],
    what: str,
    patients: Mapping[str, Sequence[FoundCase]],
) -> list[str]:
    """The patients that ``names``, of patients or cases, stand for; each once."""
    patient_of = {case.case_id: name for name, cases in patients.items() for case in cases}
    known = set(pool)
    found = [name if name in patients else patient_of.get(name, name) for name in names]
    unknown = [name for name in found if name not in known]
    if unknown:
        raise join_faults(
            f"--{what}: {len(unknown)} of {len(found)} names are of no patient that could be {what}.",
            unknown[:20],
        )
    return list(dict.fromkeys(found))


def _as_given(
    patients: Mapping[str, Sequence[FoundCase]], splits: Mapping[str, Split]
) -> dict[str, Split]:
    """Split by case, from a file that names cases or patients."""
    names = {case.case_id for cases in patients.values() for case in cases} | set(patients)
    unknown = sorted(set(splits) - names)
    if unknown:
        raise join_faults(f"--split: {len(unknown)} names are of no case or patient.", unknown[:20])
    chosen = {
        case.case_id: splits.get(case.case_id, splits.get(name, Split.UNLABELLED))
        for name, cases in patients.items()
        for case in cases
    }
    faults = [
        f"{name} is {' and '.join(sorted({chosen[case.case_id] for case in cases}))}"
        for name, cases in patients.items()
        if len({chosen[case.case_id] for case in cases}) > 1
    ]
    faults += [
        f"{case.case_id} is {chosen[case.case_id]}, but has no label"
        for cases in patients.values()
        for case in cases
        if case.label is None and chosen[case.case_id] is not Split.UNLABELLED
    ]
    if faults:
        raise join_faults(
            "--split: each patient belongs to one split, and what is learned or tested needs a label.",
            faults,
        )
    return chosen


def read_names(path: Path) -> list[str]:
    """Names of cases or patients, one a line; further columns are not looked at.

    Raises:
        HstfError: the file is missing, unreadable or empty.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HstfError(f"{path}: cannot be read as a list of names ({error}).") from error
    names = [
        line.replace(",", " ").split()[0]
        for line in lines
        if line.strip() and not line.startswith("#")
    ]
    if not names:
        raise HstfError(f"{path}: names no case: expected one a line.")
    return names


def read_splits(path: Path) -> dict[str, Split]:
    """The split of each case or patient: a table with the columns ``case_id`` (or ``group``) and ``split``.

    Raises:
        HstfError: columns are missing, or a split has another name.
    """
    header, rows = read_sheet(path)
    key = next((name for name in ("case_id", "group") if name in header), None)
    if key is None or "split" not in header:
        raise HstfError(
            f"{path}: has the columns {', '.join(header)}, expected case_id (or group) and split."
        )
    wrong = [
        f"line {line}: split {row['split']!r}"
        for line, row in rows
        if row["split"] not in set(Split)
    ]
    if wrong:
        raise join_faults(f"{path}: a split is one of {', '.join(Split)}.", wrong)
    return {row[key]: Split(row["split"]) for _, row in rows}
