"""Any folder: images and labels are recognised and matched by their names.

Images and labels are distinguished by words in the names of folders and files (``images``,
``mask``, ``_seg`` …), by ``--images`` and ``--labels``, or, where names show nothing, by their
voxels. Labels are then matched to images, see :mod:`hstf.datasets.importers.matching`. Several
labels of an image are masks of its structures. Cases without a label are unlabelled.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from hstf.config.experiment import Modality
from hstf.datasets.importers.classify import (
    classify,
    find_columns,
    is_named,
    role_words,
    with_columns,
    without_channel,
)
from hstf.datasets.importers.contents import label_values_of_scan
from hstf.datasets.importers.dataset import (
    DataSet,
    FoundCase,
    Image,
    Labels,
    Note,
    find_volumes,
    modality_of,
    numbered_classes,
    plain_name,
)
from hstf.datasets.importers.matching import (
    CHUNK,
    File,
    Matching,
    Scan,
    case_of,
    match,
)
from hstf.datasets.importers.options import Options
from hstf.datasets.importers.patients import assign_patients
from hstf.datasets.importers.selection import select
from hstf.datasets.importers.structures import assign_structures
from hstf.experiment.cases import Split
from hstf.imaging.scan import scan_file
from hstf.runtime.errors import HstfError

AIR_BELOW = -500.0
"""Only CT images have values below this one: air is -1000 HU."""
SAMPLES = 2
"""Number of files of each name that are read to distinguish images and labels."""
MAXIMUM_NAMES = 12
"""Number of different names up to which files are distinguished by their voxels."""
IMAGE_OF_OTHERS = "--images GLOB and --labels GLOB choose them"


def find(folder: Path, options: Options) -> DataSet:
    """Find the cases of ``folder``."""
    dataset = DataSet(
        f"{folder.resolve().name}: images and labels matched by name.",
        {},
        numbered_classes,
    )
    if options.labels:
        dataset.labels = Labels({"background": 0} | options.labels)
    volumes = _not_written(dataset, find_volumes(folder, dataset), options)
    selection = select(folder, volumes, options.images, options.label_files)
    files = classify(folder, volumes, selection, list(options.modalities))
    _leave_out_others(dataset, folder, volumes, files)
    if not options.label_files:
        files = _labels_by_content(dataset, files, options)
    images = [file for file in files if file.role == "image"]
    labels = [file for file in files if file.role == "label"]
    if not images:
        raise HstfError(f"{folder}: {_no_images(labels)}")
    scans = _scans(dataset, images, options)
    matching = match(scans, labels, options.match)
    if labels:
        count = len(labels) - len(matching.unmatched)
        rule = f"{count} of {len(labels)} labels matched by {matching.comparison.rule}"
        dataset.rules.append(Note("pairs", rule))
        _ask_about_pairs(dataset, scans, matching)
    _record_unmatched(dataset, scans, matching)
    names = _case_names(dataset, scans, matching, options)
    _add_cases(dataset, scans, names, options)
    assign_structures(dataset, scans, names, options)
    folders = {}
    for scan, name in zip(scans, names, strict=True):
        folders[plain_name(name)] = scan.first.folders
    assign_patients(dataset, options, folders)
    _leave_out_unlabelled_tests(dataset)
    _name_modalities(dataset, scans, options)
    return dataset


def _not_written(
    dataset: DataSet,
    volumes: Sequence[Path],
    options: Options,
) -> list[Path]:
    """Return ``volumes`` without those that an earlier import has written."""
    folders = {path.absolute() for path in options.written if path.is_dir()}
    if not folders:
        return list(volumes)
    kept = [path for path in volumes if folders.isdisjoint(path.absolute().parents)]
    count = len(volumes) - len(kept)
    if count:
        dataset.leave_out(f"{count} volumes", "written by an earlier import")
    return kept


def _leave_out_others(
    dataset: DataSet,
    folder: Path,
    volumes: Sequence[Path],
    files: Sequence[File],
) -> None:
    used = {file.path for file in files}
    others = [path for path in volumes if path not in used]
    if others:
        example = others[0].relative_to(folder)
        dataset.leave_out(
            f"{len(others)} volumes, for example {example}",
            "--images and --labels do not match them",
        )


def _no_images(labels: Sequence[File]) -> str:
    example = labels[0].path.name
    return (
        f"only labels were recognised by their names ({len(labels)}, for example {example}), and"
        " no image. Rename the folder of images to images, or choose them with --images GLOB."
    )


def _labels_by_content(
    dataset: DataSet,
    files: list[File],
    options: Options,
) -> list[File]:
    """Return ``files`` with labels that only their voxels show.

    Files are grouped by their names. If those of some groups look like label maps and those of
    others do not, the former are labels.
    """
    if any(file.role == "label" for file in files):
        return files
    groupings: list[Callable[[File], str]] = [
        lambda file: file.name.lower(),
        lambda file: CHUNK.split(file.name)[-1].lower(),
        lambda file: "/".join(file.parts),
    ]
    named = {file.path for file in files if is_named(file, list(options.modalities))}
    for name_of in groupings:
        groups: dict[str, list[File]] = defaultdict(list)
        for file in files:
            groups[name_of(file)].append(file)
        if not 2 <= len(groups) <= MAXIMUM_NAMES or len(groups) * 2 > len(files):
            continue
        found = set()
        for name, members in groups.items():
            if members[0].path not in named and _look_like_labels(members):
                found.add(name)
        if found and len(found) < len(groups):
            dataset.rules.append(
                Note(
                    "pairs",
                    f"labels are recognised by their few whole numbers: {', '.join(sorted(found))}",
                )
            )
            return [
                replace(file, role="label") if name_of(file) in found else file for file in files
            ]
    return files


def _look_like_labels(files: Sequence[File]) -> bool:
    return all(label_values_of_scan(file.path) for file in files[:SAMPLES])


def _scans(
    dataset: DataSet,
    images: Sequence[File],
    options: Options,
) -> list[Scan]:
    """Return the images of each case."""
    columns = {name: name for name in options.modalities}
    if not columns and not options.match:
        columns = find_columns(images)
        if columns:
            dataset.rules.append(Note("modalities", f"by the ends of names: {', '.join(columns)}"))
    columns = columns or {"image": "image"}
    if len(columns) == 1:
        images = without_channel(images)
    scans: dict[tuple[object, ...], Scan] = {}
    others = Counter[str]()
    for file in with_columns(images, list(columns)):
        column = columns.get(file.column)
        if column is None:
            if options.modalities:
                dataset.add_problem(
                    file.path,
                    "has no modality in its name:"
                    f" expected <case>_ and one of {', '.join(columns)}",
                )
            else:
                others[CHUNK.split(file.name)[-1]] += 1
            continue
        _add_image(dataset, scans, file, column, options)
    for ending, count in others.items():
        dataset.leave_out(f"{count} images {ending}", "most cases have no such image")
    complete = []
    for scan in scans.values():
        missing = [column for column in columns.values() if column not in scan.images]
        if missing:
            dataset.add_problem(
                plain_name(_long_name(scan.first)),
                f"modality {', '.join(missing)} is missing",
            )
            continue
        scan.images = {column: scan.images[column] for column in columns.values()}
        complete.append(scan)
    return complete


def _add_image(
    dataset: DataSet,
    scans: dict[tuple[object, ...], Scan],
    file: File,
    column: str,
    options: Options,
) -> None:
    key: tuple[object, ...] = (file.split_folder, file.folders, file.name.lower())
    if options.match:
        key = case_of(options.match, file)
        if not key:
            dataset.add_problem(file.path, f"--match {options.match!r} does not match its path")
            return
    scan = scans.setdefault(key, Scan({}))
    if column in scan.images:
        first = scan.images[column].path
        dataset.add_problem(
            plain_name(_long_name(file)),
            f"exists twice: {first} and {file.path}; keep one",
        )
        return
    scan.images[column] = file


def _long_name(file: File) -> str:
    """Return the name of a file with its folders, unless its own name shows the case."""
    if role_words(file.name) and file.folders:
        return "_".join(file.folders)
    return file.name or "_".join(file.folders)


def _ask_about_pairs(
    dataset: DataSet,
    scans: Sequence[Scan],
    matching: Matching,
) -> None:
    """Ask whether pairs are right whose names have different words."""
    if not matching.comparison.is_doubtful:
        return
    scan = next(scan for scan in scans if scan.labels)
    dataset.questions.append(
        f"Do {scan.first.path.name} and {scan.labels[0].path.name} belong together? Their names"
        " have only a part in common. --dry-run shows all pairs; --labels GLOB chooses labels."
    )


def _record_unmatched(
    dataset: DataSet,
    scans: Sequence[Scan],
    matching: Matching,
) -> None:
    folders = Counter(scan.first.path.parent for scan in scans)
    for label in matching.unmatched:
        why = "a label without its image"
        beside = folders[label.path.parent]
        if beside > 1:
            why += f", or with several: its folder has {beside} images. Images of one case are"
            why += f" named with --modalities; {IMAGE_OF_OTHERS}"
        else:
            why += f" {label.name}"
        dataset.add_problem(label.path, why)


def _case_names(
    dataset: DataSet,
    scans: Sequence[Scan],
    matching: Matching,
    options: Options,
) -> list[str]:
    """Return the name of each case."""
    if options.match:
        return ["_".join(case_of(options.match, scan.first)) for scan in scans]
    files = [scan.first for scan in scans]
    names = [file.name for file in files]
    distinct = {name.lower() for name in names}
    if matching.comparison.by_folder or "" in distinct or len(distinct) * 2 <= len(files):
        names = _names_with_folders(files)
    if _restarts(files, names):
        dataset.rules.append(
            Note("names", "occur again in folders of other splits: taken as different patients")
        )
        pairs = zip(files, names, strict=True)
        names = [f"{file.split_folder}_{name}".strip("_") for file, name in pairs]
    return names


def _names_with_folders(files: Sequence[File]) -> list[str]:
    counts = Counter(_place(file) for file in files)
    names = []
    for file in files:
        parts = list(file.folders)
        if counts[_place(file)] > 1 or not parts:
            parts.append(file.name)
        names.append("_".join(parts))
    return names


def _place(file: File) -> tuple[str, ...]:
    return (file.split_folder, *file.folders)


def _restarts(files: Sequence[File], names: Sequence[str]) -> bool:
    """Return whether names occur again in the folder of another split."""
    splits = defaultdict(set)
    for file, name in zip(files, names, strict=True):
        splits[name.lower()].add(file.split_folder)
    return any(len(folders) > 1 for folders in splits.values())


def _add_cases(
    dataset: DataSet,
    scans: Sequence[Scan],
    names: Sequence[str],
    options: Options,
) -> None:
    """Add a case for each of ``scans``."""
    has_tests = any(scan.first.split == "test" and scan.labels for scan in scans)
    for scan, name in zip(scans, names, strict=True):
        images = {column: Image(file.path) for column, file in scan.images.items()}
        case = FoundCase(
            plain_name(name),
            images,
            scan.labels[0].path if scan.labels else None,
            site=options.site_of(name),
            official=_official(scan, has_tests),
        )
        dataset.add(case)
    if any(scan.first.split == "validation" for scan in scans):
        use = "test cases, because the data set has no others"
        if has_tests:
            use = "labelled cases, because training validates by cross-validation"
        dataset.rules.append(Note("validation", f"cases in a folder of validation cases are {use}"))


def _official(scan: Scan, has_tests: bool) -> Split | None:
    """Return the split that the folder of a case states."""
    split = scan.first.split
    if split == "test" or (split == "validation" and not has_tests and scan.labels):
        return Split.TEST
    if split == "unlabelled":
        return Split.UNLABELLED
    return None


def _leave_out_unlabelled_tests(dataset: DataSet) -> None:
    """Leave out test cases without a label: they are neither scored nor used for training."""
    kept = []
    left_out = []
    for case in dataset.cases:
        if case.official is Split.TEST and not case.has_label:
            left_out.append(case.case_id)
        else:
            kept.append(case)
    if left_out:
        dataset.leave_out(
            f"{len(left_out)} cases in a folder of test cases, for example {left_out[0]}",
            "no label: they cannot be scored, and training does not use test cases."
            " Segment them with hstf predict",
        )
    dataset.cases = kept


def _name_modalities(
    dataset: DataSet,
    scans: Sequence[Scan],
    options: Options,
) -> None:
    columns = list(options.modalities) or ["image"]
    if scans:
        columns = list(scans[0].images)
    if columns == ["image"]:
        _ask_about_modalities(dataset, scans)
    for column in columns:
        dataset.modalities[column] = options.modalities.get(column) or modality_of(column)
    if list(dataset.modalities) == ["image"] and not options.modalities and dataset.cases:
        dataset.modalities["image"] = _guess_modality(dataset)


def _ask_about_modalities(dataset: DataSet, scans: Sequence[Scan]) -> None:
    """Ask about images whose names end in different modalities, such as ct and mr."""
    counts = Counter[str]()
    for scan in scans:
        counts[modality_of(CHUNK.split(scan.first.name)[-1])] += 1
    counts.pop("other", None)
    if len(counts) > 1:
        found = [f"{modality} ({count})" for modality, count in counts.most_common()]
        dataset.questions.append(
            f"Images have names of several modalities: {', '.join(found)}. Is one network to learn"
            " from all of them? --images GLOB chooses one; --modalities names several of a case."
        )


def _guess_modality(dataset: DataSet) -> Modality:
    """Return CT if the first images have values as low as air, and MR otherwise."""
    minimum = min(scan_file(case.first_path, label=False).minimum for case in dataset.cases[:3])
    modality: Modality = "ct" if minimum < AIR_BELOW else "mr"
    dataset.comments.append(
        f"Assumed to be {modality.upper()}, because the minimum value is {minimum:g}."
        " Known modalities are mr, ct, pet, us, mask and other."
    )
    return modality
