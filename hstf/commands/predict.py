"""``hstf predict``: segment scans with an exported model. The workflow is not needed.

Each scan is examined as ``hstf check`` examines it, and compared with the training scans. An error
stops the scan, and never the other ones. Warnings are printed and written to ``predict.csv``.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from hstf.commands.predict_input import (
    Scan,
    find_scans,
    is_readable_folder,
)
from hstf.commands.predict_report import MOVE, Report, print_message
from hstf.imaging.guards import MASK, Issue, Level, image_issues, spacing_issues
from hstf.imaging.intensity_ranges import range_issues
from hstf.imaging.scan import scan_file
from hstf.imaging.volume_files import suffix_of
from hstf.imaging.volumes import read_image, write_like
from hstf.method.exported_model import (
    MODEL_FILE,
    WITH_QUALITY,
    ExportedModel,
    read_exported_model,
)
from hstf.method.plr.predicted_dice import CONFORMAL_PATIENTS
from hstf.method.plr.scan_quality import QualityModel, ScanQuality
from hstf.runtime.errors import (
    HstfError,
    few,
    is_gpu_memory_error,
    is_memory_error,
    join_problems,
)
from hstf.runtime.files import make_folder, sha256_file
from hstf.runtime.progress import track

if TYPE_CHECKING:
    from torch import Tensor

    from hstf.method.inference import Predictor

Existing = Literal["refuse", "skip", "overwrite"]
"""What to do if a segmentation already exists."""
EXPORT_AGAIN = (
    "An earlier version exported it, so scans are not compared with the training scans. Export the"
    " model again."
)
NO_QUALITY = (
    "An earlier version exported it. The segmentations are the same. Export the model again to get"
    " a predicted Dice."
)
LOOK = "Look at this segmentation first."


def run(args: argparse.Namespace) -> int:
    """Segment the input of the command line."""
    predict(
        args.model,
        args.input,
        args.output,
        args.device,
        args.existing,
        not args.no_predicted_dice,
    )
    return 0


def predict(
    model_folder: Path,
    source: Path,
    output: Path,
    device: str = "auto",
    existing: Existing = "refuse",
    predicted_dice: bool = True,
) -> list[Path]:
    """Segment a file or all files of a folder and its subfolders.

    A segmentation has the geometry of its scan and the label values of the training data. It has
    the name of its scan, or ``<case>.nii.gz`` for several modalities and for scans that are not
    NIfTI. ``predict.csv`` in the output folder has a row for each scan, warning and error. A scan
    with an error has no segmentation: that of an earlier run is removed.

    Args:
        model_folder: an exported model.
        source: a volume, or a folder of volumes.
        output: folder of the segmentations.
        device: ``auto``, ``cpu`` or ``cuda``.
        existing: what to do if a segmentation already exists. With ``skip``, scans stay that this
            model has segmented and that have not changed since.
        predicted_dice: whether to predict the Dice of each segmentation.

    Returns:
        The files that were written.

    Raises:
        HstfError: before any computation if the model, the input or the output folder is invalid;
            at once if a segmentation cannot be written or removed; after all other scans are
            segmented if some scans cannot be segmented or read, or if ``skip`` keeps files that
            this command did not write.
    """
    is_readable_folder(source)
    model = read_exported_model(model_folder)
    found = find_scans(source, list(model.modalities), output)
    check_output(found.scans, output, existing)
    report = Report.open(output, source, sha256_file(model_folder / MODEL_FILE))
    report.leave_out(found)
    scans = select_scans(found.scans, report) if existing == "skip" else found.scans
    if not model.intensities:
        report.warn(
            model_folder, "the model has no intensities of its training scans", EXPORT_AGAIN
        )
    if not predicted_dice:
        model = model.model_copy(update={"quality": None})
    elif model.format < WITH_QUALITY:
        report.warn(model_folder, "the model has no calibration of predicted Dice", NO_QUALITY)
    elif model.quality is not None:
        print_message(_cost_of(model.quality))
    if scans:
        print_message(f"scans to segment: {len(scans)} ({_formats(scans)})")
    for folder in {output, *((output / scan.name).parent for scan in scans)}:
        make_folder(folder)
    if scans:
        _segment_all(model, model_folder, scans, device, report)
    else:
        report.write()
    report.finish(len(scans))
    return [output / scan.name for scan in scans]


def _formats(scans: Iterable[Scan]) -> str:
    """Return the number of files of each format."""
    counts = Counter(suffix_of(path) for scan in scans for path in scan.images)
    return ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))


def _segment_all(
    model: ExportedModel,
    model_folder: Path,
    scans: Sequence[Scan],
    device: str,
    report: Report,
) -> None:
    """Segment scans, and write what is reported about them, also if the run is interrupted."""
    from hstf.method.inference import Predictor

    predictor = Predictor.load(
        model.weights(model_folder),
        model.plan,
        model.predict,
        model.modalities,
        device,
        model.preprocess,
        model.structure,
    )
    report.announce(scan for scan in scans if not (report.output / scan.name).exists())
    try:
        for scan in track(scans, "predict"):
            _segment(predictor, model, scan, report)
            if report.has_error(scan):
                report.discard(scan)
            report.write_sometimes()
    finally:
        report.write()
    report.remove_leftovers(scans)


def _examine(model: ExportedModel, scan: Scan, report: Report) -> None:
    """Report what is wrong or doubtful in the files of a scan."""
    for (path, kind), name in zip(_kinds(model, scan), model.modalities, strict=True):
        facts = scan_file(path, label=False, is_mask=kind == MASK)
        issues = image_issues(facts, kind)
        if not any(issue.level is Level.ERROR for issue in issues):
            issues += spacing_issues(facts, model.plan.spacing)
            if name in model.intensities:
                issues += range_issues(facts, kind, model.intensities[name])
        report.add(scan, path, facts.sha256, issues)


def _kinds(model: ExportedModel, scan: Scan) -> Iterator[tuple[Path, str]]:
    """Yield each file of a scan with its modality. A channel that is not normalised is a mask."""
    channels = zip(scan.images, model.modalities.values(), model.plan.normalisation, strict=True)
    for path, kind, normalisation in channels:
        yield path, MASK if normalisation.scheme == MASK else kind


def _segment(predictor: "Predictor", model: ExportedModel, scan: Scan, report: Report) -> None:
    """Examine and segment a scan, and write the segmentation. Reports why this is not possible.

    Raises:
        HstfError: if the segmentation cannot be written. The next ones could not be, either.
    """
    values = np.array(list(model.labels.values()), np.uint8)
    try:
        _examine(model, scan, report)
        if report.has_error(scan):
            return
        volumes = [read_image(path, kind == MASK) for path, kind in _kinds(model, scan)]
        image, geometry = predictor.prepare(volumes)
        classes = predictor.predict_prepared(image, geometry, members=False).label
    except HstfError as error:
        report.fail(scan, str(error))
        return
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
        report.fail(scan, _memory_text(error))
        return
    path = report.output / scan.name
    if path.exists():
        report.announce([scan])
    write_like(path, values[classes], volumes[0])
    if model.quality is not None:
        _add_quality(predictor, model.quality, scan, image, classes, report)
    report.segmented(scan, sha256_file(path))


def _memory_text(error: Exception) -> str:
    """Describe which memory is full. That of the GPU is of no use to the CPU."""
    if is_gpu_memory_error(error):
        return "out of GPU memory; end other programs on the GPU, or add --device cpu"
    return "out of memory"


def _add_quality(
    predictor: "Predictor",
    model: QualityModel,
    scan: Scan,
    image: "Tensor",
    classes: np.ndarray,
    report: Report,
) -> None:
    """Report the predicted Dice of a segmentation. A failure costs only this number."""
    try:
        summary = predictor.summarise(image, model.classes, model.views)
    except (HstfError, MemoryError, RuntimeError) as error:
        if not isinstance(error, HstfError) and not is_memory_error(error):
            raise
        why = str(error) if isinstance(error, HstfError) else _memory_text(error)
        issue = Issue(Level.WARNING, f"no predicted Dice: {why}", "", "")
        report.add_warnings(scan, [issue])
        return
    quality = model.judge(summary, classes)
    report.add_quality(scan, quality)
    report.add_warnings(scan, quality_issues(quality))


def quality_issues(quality: ScanQuality) -> Iterator[Issue]:
    """Yield a warning for each reason to look at a segmentation."""
    for name in quality.missing:
        yield Issue(
            Level.WARNING,
            f"the segmentation has no {name}",
            "every labelled case has it",
            LOOK,
        )
    if quality.is_low:
        yield Issue(
            Level.WARNING,
            f"a predicted Dice of {quality.mean:.3f}",
            f"at least {quality.bound:.3f}, as all labelled cases",
            LOOK,
        )


def _cost_of(model: QualityModel) -> str:
    """Describe what the predicted Dice of a scan costs, and what its interval is worth."""
    text = (
        f"predicted Dice: each network predicts a scan about {model.passes:.1f} times more, with"
        " the TTA views of the calibration (--no-predicted-dice turns this off)"
    )
    if model.interval.method == "guess":
        text += (
            f". Its interval is a guess: the errors of {model.interval.patients} labelled patients"
            f" are known, and at least {CONFORMAL_PATIENTS} are needed"
        )
    return text


def check_output(scans: Sequence[Scan], output: Path, existing: Existing) -> None:
    """Check that scans can be segmented into ``output``.

    Raises:
        HstfError: if segmentations would replace the scans, or if they already exist and
            ``existing`` is ``refuse``.
    """
    if output.exists() and not output.is_dir():
        raise HstfError(f"{output}: is a file. Give a folder to --output.")
    folders = _folders(scans)
    for scan in scans:
        folder = (output / scan.name).parent
        if folder.resolve() in folders:
            raise HstfError(
                f"{folder}: contains the scans themselves. Give another folder to --output."
            )
    blocked = [scan.name for scan in scans if (output / scan.name).is_dir()]
    if blocked:
        raise join_problems(
            f"{output}: folders have the names of segmentations. Rename them, or give another"
            " folder to --output.",
            blocked,
        )
    done = [scan for scan in scans if (output / scan.name).exists()]
    if done and existing == "refuse":
        raise join_problems(
            f"{output}: {len(done)} segmentations already exist."
            " Add --existing skip or --existing overwrite.",
            [scan.name for scan in done],
        )


def select_scans(scans: Sequence[Scan], report: Report) -> list[Scan]:
    """Return the scans that have no segmentation by this model, or have changed since.

    Prints why scans are segmented again. A segmentation that this command did not write, or that
    was changed since, may be the work of a person: it is never replaced.
    """
    selected = []
    again: dict[str, list[str]] = defaultdict(list)
    for scan in track(scans, "compare"):
        path = report.output / scan.name
        if not path.exists():
            selected.append(scan)
            continue
        try:
            difference = report.difference(scan)
        except HstfError as error:
            report.keep(scan, str(error))
            continue
        foreign = report.foreign(scan)
        if difference and foreign:
            report.keep(scan, f"{foreign}. {MOVE}")
        elif difference:
            again[difference].append(scan.name)
            selected.append(scan)
        elif foreign:
            print_message(f"{path}: is kept: {foreign}")
    for difference, names in again.items():
        print_message(f"scans to segment again: {len(names)}, {difference} ({few(names)})")
    return selected


def _folders(scans: Iterable[Scan]) -> set[Path]:
    """Return the folders of all images. A link has two: its own one and that of its target."""
    folders = set()
    for scan in scans:
        for path in scan.images:
            folders.add(path.parent.resolve())
            folders.add(path.resolve().parent)
    return folders
