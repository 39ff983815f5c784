"""Which cases show one patient, as far as names of files show, and questions about it.

A patient in two splits makes test scores too high, so that the rule is shown, and doubtful results
are questioned. The column ``group`` of a case sheet always wins.
"""

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from hstf.datasets.importers.dataset import DataSet, Note, plain_name
from hstf.datasets.importers.names import Tokens, tokens_of
from hstf.datasets.importers.options import PATIENT, Options
from hstf.experiment.cases import Split

TIME_POINT = re.compile(
    r"baseline|base|bl|follow|pre|post|preop|postop|prior|current|retest|t0"
    r"|(?:followup|fu|fup|visit|vis|tp|timepoint|day|week|wk|month|mon|year|yr|ses|session)\d*"
    r"|ed|es|arterial|venous|portal|delayed|native|nativ",
    re.IGNORECASE,
)
"""A part of a name that shows when a scan was made."""
WEAK_TIME_POINT = re.compile(
    r"(?:time|exam|scan|study|series|date|rep|acq|run|frame|phase)\d*|[mvdwy]\d{1,3}",
    re.IGNORECASE,
)
"""The same, if the rest of the name has a number that may be that of the patient."""
DATE = re.compile(r"(?<!\d)(?:19|20)\d\d([-_.]?)\d\d\1\d\d(?!\d)")
SITE_WORDS = (
    "site",
    "center",
    "centre",
    "hospital",
    "clinic",
    "scanner",
    "vendor",
    "batch",
    "fold",
    "part",
    "set",
    "group",
    "cohort",
    "institution",
    "dataset",
    "task",
    "dept",
    "department",
    "ward",
)
"""A folder with such a word in its name is not that of a patient."""
SEPARATOR = re.compile(r"[-_. ]+")
MAXIMUM_SCANS = 12
"""A patient with more scans is unlikely: the part of the name is rather that of a site."""
MAXIMUM_SHARED = 8
"""Names that share their first part are questioned up to this number of scans."""
SMALL_NUMBER = 1000
EXAMPLES = 3
ADVICE = (
    "--patient REGEX names the part that is the patient; --patient '' makes each scan a patient"
)

Rest = Callable[[Tokens], Tokens]


def assign_patients(
    dataset: DataSet,
    options: Options,
    folders: Mapping[str, Sequence[str]],
) -> None:
    """Set the patient of each case, and record the rule and questions.

    Args:
        dataset: the cases.
        options: may have a pattern of the user.
        folders: names of the folders of each case, by the name of the case.
    """
    cases = dataset.cases
    if len(cases) < 2:
        return
    groups = {}
    # The spelling of a person may change: Patient01_pre and patient01_post show one patient.
    spelling: dict[str, str] = {}
    for case in cases:
        path = "_".join([*folders.get(case.case_id, ()), case.case_id])
        patient = options.patient_of(case.case_id) or options.patient_of(path)
        if patient:
            groups[case.case_id] = spelling.setdefault(patient.casefold(), patient)
    if options.patient == PATIENT:
        _add_rule(dataset, "words such as patient, sub and pat", groups)
        rest = [case.case_id for case in cases if case.case_id not in groups]
        by_folder = _by_folder(rest, folders)
        _add_rule(dataset, "the folder", by_folder)
        rest = [case_id for case_id in rest if case_id not in by_folder]
        times = _by_time_point(rest)
        _add_rule(dataset, "time points in names", times)
        groups |= by_folder | times
    else:
        _add_rule(dataset, f"--patient {options.patient!r}", groups)
    dataset.cases = [
        dataclasses.replace(case, group=groups.get(case.case_id, "")) for case in cases
    ]
    single = [case.case_id for case in cases if case.case_id not in groups]
    if single:
        dataset.rules.append(
            Note("patients", f"{len(single)} scans, each of a patient of its own: {_some(single)}")
        )
    _separate_splits(dataset)
    if options.patient:
        _ask(dataset, single, options)


def _add_rule(dataset: DataSet, rule: str, groups: Mapping[str, str]) -> None:
    """Record which patients a rule found, with an example."""
    if not groups:
        return
    patients = Counter(groups.values())
    patient, _ = patients.most_common(1)[0]
    members = [case_id for case_id, name in groups.items() if name == patient]
    dataset.rules.append(
        Note(
            "patients",
            f"{len(patients)} patients of {len(groups)} scans by {rule}:"
            f" {_some(members)} → {patient}",
        )
    )


def _some(names: Sequence[str]) -> str:
    text = ", ".join(names[:EXAMPLES])
    return text if len(names) <= EXAMPLES else f"{text} …"


def _by_folder(
    names: Sequence[str],
    folders: Mapping[str, Sequence[str]],
) -> dict[str, str]:
    """Return the patient of scans that share a folder whose name has a number, such as P12."""
    members: dict[str, list[str]] = defaultdict(list)
    for name in names:
        members[_patient_folder(folders.get(name, ()))].append(name)
    members.pop("", None)
    sizes = [len(scans) for scans in members.values()]
    if len(sizes) < 2 or max(sizes) > MAXIMUM_SCANS:
        return {}
    found = {}
    for folder, scans in members.items():
        if len(scans) > 1:
            found.update(dict.fromkeys(scans, folder))
    return found


def _patient_folder(folders: Sequence[str]) -> str:
    """Return the folder that may be that of a patient, or ``""``."""
    for folder in folders:
        tokens = tokens_of(folder)
        has_number = any(token.isdigit() for token in tokens)
        is_date = DATE.search(folder) is not None
        if has_number and not is_date and not set(tokens) & set(SITE_WORDS):
            return plain_name(folder)
    return ""


def _by_time_point(names: Sequence[str]) -> dict[str, str]:
    """Return the patient of names that differ in a time point only, such as 001_baseline."""
    members: dict[str, list[str]] = defaultdict(list)
    spelling: dict[str, str] = {}
    for name in names:
        rest = _without_time_point(name)
        if rest and rest != name:
            members[rest.lower()].append(name)
            spelling.setdefault(rest.lower(), rest)
    # A scan without a time point may be the first one: 001 and 001_followup.
    for name in names:
        if name.lower() in members and name not in members[name.lower()]:
            members[name.lower()].append(name)
    found = {}
    several = [rest for rest, scans in members.items() if len(scans) > 1]
    if not several or max(len(members[rest]) for rest in several) > MAXIMUM_SCANS:
        return {}
    if len(members) == 1 and len(members[several[0]]) == len(names) > 2:
        return {}
    for rest in several:
        for name in members[rest]:
            found[name] = spelling[rest]
    return found


def _without_time_point(name: str) -> str:
    parts = [part for part in SEPARATOR.split(DATE.sub("", name)) if part]
    strict = _kept_parts(parts, TIME_POINT, skip_first=False)
    loose = _kept_parts(strict, WEAK_TIME_POINT, skip_first=True)
    if any(char.isdigit() for part in loose for char in part):
        return "_".join(loose)
    return "_".join(strict)


def _kept_parts(
    parts: Sequence[str],
    pattern: re.Pattern[str],
    skip_first: bool,
) -> list[str]:
    """Return the parts of a name that are no time point.

    Args:
        parts: parts of the name.
        pattern: what a time point looks like.
        skip_first: whether the first part is always kept.
    """
    kept = []
    previous = False
    for position, part in enumerate(parts):
        is_time = pattern.fullmatch(part) is not None and not (skip_first and position == 0)
        is_time = is_time or (previous and part.lower() in ("up", "op"))
        # The number of a time point may be a part of its own: visit_2.
        is_number = previous and part.isdigit() and len(part) < 3
        if not is_time and not is_number:
            kept.append(part)
        previous = is_time
    return kept


def _separate_splits(dataset: DataSet) -> None:
    """Ask about patients that occur in a folder of test cases and elsewhere."""
    splits: dict[str, set[bool]] = defaultdict(set)
    for case in dataset.cases:
        splits[case.patient].add(case.official is Split.TEST)
    shared = [patient for patient, found in splits.items() if len(found) > 1]
    if shared:
        dataset.questions.append(
            f"{len(shared)} patients occur among the test cases and elsewhere: {_some(shared)}."
            " All their scans are test cases. If they are different people, their names must"
            f" differ: {ADVICE}."
        )


def _ask(dataset: DataSet, single: Sequence[str], options: Options) -> None:
    """Record questions about unlikely patients."""
    sizes = Counter(case.patient for case in dataset.cases)
    patient, most = sizes.most_common(1)[0]
    count = len(dataset.cases)
    if len(sizes) == 1:
        dataset.questions.append(
            f"Do all {count} scans show one patient, {patient}? The names say so. {ADVICE}."
        )
    elif most > MAXIMUM_SCANS and most * 4 > count:
        members = [case.case_id for case in dataset.cases if case.patient == patient]
        dataset.questions.append(
            f"Do {most} of {count} scans show one patient, {patient} ({_some(members)})? {ADVICE}."
        )
    if options.patient != PATIENT:
        if single:
            dataset.questions.append(
                f"--patient does not match {len(single)} names: {_some(single)}. Is each the only"
                " scan of a patient?"
            )
        return
    shared = _shared_names(single, lambda tokens: tokens[:-1])
    if not shared and not options.site:
        shared = _shared_names(single, _without_first)
    if shared:
        dataset.questions.append(
            f"Do {' and '.join(shared)} show one patient? Their names are alike, but each scan is"
            f" taken as a patient of its own. {ADVICE}."
        )


def _without_first(tokens: Tokens) -> Tokens:
    """Return the name without its first part, unless a small number follows it.

    Numbers that start again, as in ``rome_01`` and ``oslo_01``, are no sign of a patient.
    """
    rest = tokens[1:]
    if len(rest) == 1 and rest[0].isdigit() and int(rest[0]) < SMALL_NUMBER:
        return ()
    return rest


def _shared_names(names: Sequence[str], rest_of: Rest) -> list[str]:
    """Return an example of names that differ in a part that many names have.

    ``001_a``, ``001_b``, ``002_a`` and ``002_b`` are alike; ``case_001`` and ``case_002`` are not,
    because the part that differs is another one in each name.
    """
    members: dict[Tokens, list[str]] = defaultdict(list)
    parts = Counter[Tokens]()
    for name in names:
        tokens = tokens_of(name)
        rest = rest_of(tokens)
        if not any(token.isdigit() for token in rest):
            continue
        members[rest].append(name)
        parts[_difference(tokens, rest)] += 1
    several = [found for found in members.values() if 2 <= len(found) <= MAXIMUM_SHARED]
    covered = sum(map(len, several))
    if not several or covered * 2 < len(names):
        return []
    if len(members) == 1:
        # In case_1 and case_2, the number is the patient; in P1_a and P1_b, the letter is not.
        is_letter = not any(part[0].isdigit() for part in parts)
        return several[0][:2] if is_letter else []
    if len(parts) * 2 > len(names):
        return []
    return several[0][:2]


def _difference(tokens: Tokens, rest: Tokens) -> Tokens:
    if tokens[: len(rest)] == rest:
        return tokens[len(rest) :]
    return tokens[:1]
