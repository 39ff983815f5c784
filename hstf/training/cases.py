"""Cases of a training: labelled ones, ones with a label of a round, and images only."""

from collections.abc import Mapping, Sequence

from hstf.experiment.cases import Case, names_of
from hstf.experiment.checked_files import label_files, preprocessed_files
from hstf.experiment.context import StageContext
from hstf.runtime.errors import join_problems, shortened
from hstf.runtime.shards import Row
from hstf.training.patches import TrainingCase


def labelled_cases(context: StageContext, cases: Sequence[Case]) -> list[TrainingCase]:
    """Return labelled cases on the planned grid.

    Raises:
        HstfError: if a table of preprocessed cases lacks a case or a file.
    """
    preprocessed = preprocessed_files(context, cases)
    result = []
    for name in names_of(cases):
        folder = context.layout.preprocessed / name
        paths = (folder / "image.b2nd", folder / "label.b2nd", folder / "locations.npy")
        records = {path: preprocessed[name].at(path) for path in paths}
        result.append(TrainingCase(name, *paths, pseudo=False, records=records))
    return result


def pseudo_cases(
    context: StageContext,
    cases: Sequence[Case],
    rows: Mapping[str, Row],
) -> list[TrainingCase]:
    """Return cases with the labels of a round: pseudo-labels or corrected labels.

    Args:
        context: the stage ``student``.
        cases: the cases that a member learns from.
        rows: rows of ``labels.csv`` by case.

    Raises:
        HstfError: if a table lacks a case or a file.
    """
    layout = context.layout
    preprocessed = preprocessed_files(context, cases)
    labels = label_files(context, rows)
    result = []
    for name in names_of(cases):
        image = layout.preprocessed / name / "image.b2nd"
        folder = layout.labels(context.round) / name
        target = folder / "target.b2nd"
        locations = folder / "locations.npy"
        records = {
            image: preprocessed[name].at(image),
            target: labels[name].at(target),
            locations: labels[name].at(locations),
        }
        source = rows[name]["source"]
        pseudo = source != "corrected"
        accepted = source == "accepted"
        result.append(TrainingCase(name, image, target, locations, pseudo, accepted, records))
    return result


def image_cases(context: StageContext, cases: Sequence[Case]) -> list[TrainingCase]:
    """Return unlabelled cases from which only the image is used.

    Raises:
        HstfError: if a table of preprocessed cases lacks a case or a file.
    """
    preprocessed = preprocessed_files(context, cases)
    result = []
    for name in names_of(cases):
        image = context.layout.preprocessed / name / "image.b2nd"
        records = {image: preprocessed[name].at(image)}
        result.append(TrainingCase(name, image, None, None, pseudo=True, records=records))
    return result


def refuse_missing_files(cases: Sequence[TrainingCase]) -> None:
    """Stop before the first step if files are missing.

    The content of a file is compared with its SHA-256 when the file is first opened.

    Raises:
        HstfError: with all missing files.
    """
    problems = []
    for case in cases:
        problems += [record.missing() for record in case.records.values()]
    problems = [problem for problem in problems if problem]
    if problems:
        raise join_problems(
            f"{len(problems)} files of training cases are missing.", shortened(problems)
        )
