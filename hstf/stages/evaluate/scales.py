"""Scores of test cases at other input scales: how robust is a model to anatomy of another size?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from hstf.config.experiment import Config
from hstf.experiment.cases import Case, Split
from hstf.experiment.checked_scans import warn_of_unchecked_scans
from hstf.experiment.comparison import scaled_cases
from hstf.experiment.context import StageContext
from hstf.experiment.score_tables import SCALES
from hstf.imaging.geometry import Geometry
from hstf.imaging.preparation import prepare_image, read_images
from hstf.method.inference import Predictor
from hstf.method.tta import zoom_image
from hstf.runtime.errors import HstfError
from hstf.runtime.progress import track
from hstf.scoring.averages import finite_or_none
from hstf.scoring.confusion import structure_dice
from hstf.scoring.metrics import EMPTY_DICE
from hstf.stages.evaluate.cases import load_predictor
from hstf.stages.evaluate.references import read_reference, scored_files


def evaluate_scales(context: StageContext) -> None:
    """Write ``scales.csv`` of the round: Dice by test case, scale and structure.

    Raises:
        HstfError: if there is no section ``compare:``, or if the model or a file is missing.
    """
    compare = context.config.compare
    if compare is None:
        raise HstfError(
            "--scales: the configuration has no section 'compare:', which names the scales."
        )
    cases = scaled_cases(compare, context.cases(Split.TEST))
    paths: list[Path] = []
    for case in cases:
        paths += scored_files(case).values()
    warn_of_unchecked_scans(context.layout, paths)
    predictor = load_predictor(context)
    rows: list[dict[str, Any]] = []
    for case in track(cases, f"scales {context.round}"):
        rows += _rows(
            context.config,
            predictor,
            compare.scales,
            case,
        )
    SCALES.write(context.layout.evaluation_scales(context.round), rows)


def _rows(
    config: Config,
    predictor: Predictor,
    scales: Sequence[float],
    case: Case,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a case."""
    volumes = read_images(case.images, config.modalities)
    reference = read_reference(case, volumes[0], config)
    image, geometry = prepare_image(
        volumes,
        predictor.plan,
        config.preprocess,
        config.modalities,
    )
    structures = config.structures
    empty = EMPTY_DICE[config.evaluate.empty]
    for scale in scales:
        label = predict_at(
            predictor,
            image,
            geometry,
            scale,
        )
        dices = structure_dice(
            label,
            reference,
            structures,
            empty,
        )
        for name, dice in zip(structures, dices, strict=True):
            yield {
                "case_id": case.case_id,
                "group": case.group,
                "scale": scale,
                "class": name,
                "dice": finite_or_none(dice),
            }


def predict_at(
    predictor: Predictor,
    image: np.ndarray,
    geometry: Geometry,
    scale: float,
) -> np.ndarray:
    """Segment a scan that is shown to the networks at another scale.

    The window covers the same anatomy at every scale, and the networks know the size of a voxel.
    The same holds for the zoomed images of cross-scale consistency, and for scans of another
    resolution.

    Args:
        predictor: the model.
        image: ``(C, X, Y, Z)`` float32, normalised, on the planned grid.
        geometry: position of the grid in the scan.
        scale: size of the anatomy relative to the planned grid.

    Returns:
        Class indices ``(X, Y, Z)`` uint8 in native space.
    """
    zoomed = zoom_image(torch.as_tensor(image), scale, predictor.plan.spacing)
    total = torch.zeros(1)
    for network in predictor.networks.values():
        total = total + predictor.probabilities(network, zoomed, scale)
    mean = total / len(predictor.networks)
    batch = interpolate(
        mean[None],
        size=image.shape[1:],
        mode="trilinear",
        align_corners=False,
    )
    return predictor.label(batch[0], geometry)
