"""``hstf dicomseg``: write segmentations as DICOM SEG objects on the original series.

The segmentations are a folder of NIfTI files, or the labels of a round. They must be on the voxels
of the images that ``hstf import dicom`` wrote; nothing is resampled. ``dicom.csv`` leads from a
case to its series. A series that has changed since the import is refused.

It is a command and no target of ``export``, because the stage ``export`` is part of the workflow,
and no stage may read ``dicom.csv``.

Written to ``--output``: ``<case>.dcm`` for each segmentation with voxels, and ``dicomseg.csv``.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hstf import __version__
from hstf.commands.nnunet import Source
from hstf.config.experiment import BACKGROUND, IGNORE
from hstf.datasets.dicom.codes import read_meanings
from hstf.datasets.dicom.headers import Headers, read_headers
from hstf.datasets.dicom.mapping import Row, SeriesTable, folders_of
from hstf.datasets.dicom.packages import NEEDED
from hstf.datasets.dicom.pixels import fingerprint, read_voxels
from hstf.datasets.dicom.segmentation import (
    Algorithm,
    Segments,
    in_axes_of,
    write_segmentation,
)
from hstf.datasets.dicom.series import BrokenSeries, NotVolume, Series, build_series
from hstf.experiment.cases import Split, names_of, read_cases
from hstf.experiment.product_tables import DICOMSEG
from hstf.experiment.round_tables import LABELS
from hstf.imaging.volume_files import is_nifti, stem
from hstf.imaging.volumes import read_label
from hstf.method.exported_model import read_exported_model
from hstf.runtime.errors import HstfError, few, join_problems, shortened
from hstf.runtime.files import make_folder
from hstf.runtime.optional_packages import refuse_missing_packages
from hstf.runtime.progress import track
from hstf.runtime.shards import read_shard

REJECTED = "rejected"
CORRECTED = "corrected"
PREDICTION = "prediction"
TABLE = "dicomseg.csv"


@dataclass(frozen=True)
class Work:
    """Segmentations to write."""

    files: Mapping[str, Path]
    """Label map of each case."""
    sources: Mapping[str, str]
    """Where each segmentation comes from."""
    values: Mapping[str, int]
    """Value of each class, without the background."""
    ignored: frozenset[int]
    """Values that are no class."""
    algorithm: str
    version: str


def run(args: argparse.Namespace) -> int:
    """Write the objects."""
    refuse_missing_packages("DICOM", NEEDED, "dicom")
    _check_options(args)
    mapping = SeriesTable.read(args.mapping).by_case()
    work = _of_results(args) if args.results else _of_folder(args)
    names = [name for name in work.files if name in mapping]
    unknown = [name for name in work.files if name not in mapping]
    if not names:
        raise HstfError(
            f"none of {len(work.files)} segmentations is of a case in {args.mapping}, for example"
            f" {few(unknown) or 'none'}. The name of a file is that of its case."
        )
    rows, problems = _write_all(args, work, {name: mapping[name] for name in names})
    DICOMSEG.write(args.output / TABLE, rows)
    written = sum(row["state"] == "written" for row in rows)
    print(
        f"{args.output}: {written} objects, {len(rows) - written} empty segmentations without one."
    )
    if unknown:
        print(f"left out: {len(unknown)} segmentations of other cases, such as {few(unknown)}.")
    if problems:
        raise join_problems(
            f"{len(problems)} of {len(names)} segmentations were not written.",
            shortened(problems),
        )
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """Refuse options that do not go together, and a folder that exists.

    Raises:
        HstfError: if an option is wrong.
    """
    if args.output.exists():
        raise HstfError(f"--output {args.output}: exists. Give a new folder, or delete this one.")
    if args.results and (args.labels or args.model):
        raise HstfError("--results knows the classes: remove --labels and --model.")
    if args.input and args.round is not None:
        raise HstfError("--round goes with --results only.")
    if args.input and bool(args.labels) == bool(args.model):
        raise HstfError("--input needs either --labels NAME=VALUE … or --model FOLDER.")


def _of_results(args: argparse.Namespace) -> Work:
    """Return the labels of a round that are not rejected.

    Raises:
        HstfError: if the round has none.
    """
    source = Source.opened(args.results, args.round, 0.0, args.anyway)
    if source.number == 0:
        raise HstfError(f"{args.results}: no round has labels (labels.csv). Run a round first.")
    config = source.config
    table = source.layout.labels_table(source.number)
    rows = read_shard(LABELS, table, names_of(read_cases(config).of(Split.UNLABELLED)))
    used = {name: row["source"] for name, row in rows.items() if row["source"] != REJECTED}
    folder = source.layout.labels(source.number)
    return Work(
        {name: folder / f"{name}.nii.gz" for name in used},
        used,
        *_classes(config.labels),
        args.algorithm or f"hstf {config.experiment}",
        args.algorithm_version or f"{__version__}, round {source.number}",
    )


def _of_folder(args: argparse.Namespace) -> Work:
    """Return the segmentations of a folder.

    Raises:
        HstfError: if there are none.
    """
    if not args.input.is_dir():
        raise HstfError(f"--input {args.input}: is not a folder.")
    files = {stem(path): path for path in sorted(args.input.iterdir()) if is_nifti(path)}
    if not files:
        raise HstfError(f"--input {args.input}: has no segmentation named <case>.nii.gz.")
    name, version, labels = "hstf", __version__, dict(args.labels)
    if args.model:
        model = read_exported_model(args.model)
        name = f"hstf {model.experiment}"
        version = f"{model.provenance.hstf}, round {model.provenance.round}"
        labels = dict(model.labels)
    return Work(
        files,
        dict.fromkeys(files, PREDICTION),
        *_classes(labels),
        args.algorithm or name,
        args.algorithm_version or version,
    )


def _classes(labels: Mapping[str, int]) -> tuple[dict[str, int], frozenset[int]]:
    """Return the values of the classes, and those of the background and of ignored voxels.

    Raises:
        HstfError: if a class has the value 0, or the value of another class.
    """
    no_classes = {labels.get(BACKGROUND, 0), labels.get(IGNORE, 0)}
    values = {name: value for name, value in labels.items() if name not in (BACKGROUND, IGNORE)}
    if no_classes & set(values.values()) or len(set(values.values())) < len(values):
        raise HstfError(
            f"--labels {values}: the value 0 is the background, and two classes need two values."
        )
    if not values or max(values.values()) > 255:
        raise HstfError(f"--labels {values}: expected classes with values from 1 to 255.")
    return values, frozenset(no_classes)


def _write_all(
    args: argparse.Namespace, work: Work, mapping: Mapping[str, Row]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Write all objects.

    Returns:
        The rows of the table, and the problems of the other cases.
    """
    segments = Segments(work.values, read_meanings(args.codes, list(work.values)), work.ignored)
    make_folder(args.output)
    folders = [args.source] if args.source else _existing(folders_of(mapping.values()))
    headers = read_headers(folders, frozenset(row["series_uid"] for row in mapping.values()))
    rows = []
    problems = []
    for name in track(list(mapping), "dicomseg"):
        try:
            series = _unchanged_series(headers, mapping[name], args.source)
            rows.append(_write_case(args, work, segments, series, name))
        except (HstfError, BrokenSeries, NotVolume) as problem:
            problems.append(f"{name}: {problem}")
    return rows, problems


def _existing(folders: Sequence[Path]) -> list[Path]:
    return [folder for folder in folders if folder.is_dir()]


def _unchanged_series(headers: Headers, row: Row, source: Path | None) -> Series:
    """Return the series of a case.

    Args:
        headers: the headers of all series that were found.
        row: the row of the case in ``dicom.csv``.
        source: the folder that was searched; None: the folders of ``dicom.csv``.

    Raises:
        HstfError: if it is missing, or if it has changed since the import.
    """
    if row["series_uid"] not in headers.series:
        raise HstfError(
            f"its series {row['series']} is not in {source or 'the folder of dicom.csv'}. Name the"
            " folder where it is now: --source FOLDER"
        )
    changed = (
        f"its series {row['series']} has changed since it was imported, so the segmentation may not"
        " fit. Import it again with --force, and segment the new image"
    )
    try:
        series = build_series(headers.series[row["series_uid"]])
        digest = fingerprint(series, read_voxels(series))
    except (BrokenSeries, NotVolume) as error:
        raise HstfError(f"{changed}. Now: {error}") from None
    if digest != row["fingerprint"]:
        raise HstfError(changed)
    return series


def _write_case(
    args: argparse.Namespace, work: Work, segments: Segments, series: Series, name: str
) -> dict[str, Any]:
    """Write the object of a case and return its row of the table.

    Raises:
        HstfError: if the segmentation does not fit its series.
    """
    numbers = segments.numbers(in_axes_of(series, read_label(work.files[name])))
    row = {"case_id": name, "source": work.sources[name], "segments": segments.present(numbers)}
    if not numbers.any():
        return row | {"state": "empty", "file": "", "frames": 0}
    algorithm = Algorithm(work.algorithm, work.version, row["source"] == CORRECTED)
    path = args.output / f"{name}.dcm"
    frames = write_segmentation(path, series, numbers, segments, algorithm, args.series_number)
    return row | {"state": "written", "file": path.name, "frames": frames}
