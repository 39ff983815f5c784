"""Pseudo-labels of synthetic scans for the audit desk: wrong in known ways, without training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import ndimage

from hstf.config.experiment import Config
from hstf.datasets.phantom.dataset import case_seed, save
from hstf.datasets.phantom.options import PHANTOM_LABELS, PhantomOptions
from hstf.datasets.phantom.scan import Phantom, generate_case
from hstf.experiment.layout import Layout
from hstf.experiment.review_tables import SUGGEST
from hstf.experiment.round_tables import LESIONS, REFINE, TEACHER
from hstf.imaging.components import connected_components
from hstf.runtime.files import sha256_file, write_csv

LESION = PHANTOM_LABELS["lesion"]


def write_desk(
    folder: Path,
    cases: int = 5,
    size: tuple[int, int, int] = (48, 48, 32),
    rounds: int = 1,
    modalities: Sequence[str] = ("t1", "t2"),
    sites: Sequence[str] = ("north", "south"),
    **sections: object,
) -> Config:
    """Write an experiment with the pseudo-labels of ``rounds`` rounds; the last one is worst."""
    options = PhantomOptions(
        cases=cases, labelled=1, test=0, size=size, modalities=tuple(modalities), noise=0.03
    )
    scans = [generate_case(case_seed(7, number), options) for number in range(cases)]
    config = write_configuration(folder, rounds, modalities, **sections)
    layout = layout_of(folder, config)
    write_sheet(folder, scans, modalities, sites)
    for number in range(1, rounds + 1):
        rows = [_write_case(layout, number, rounds, n, scan) for n, scan in enumerate(scans)]
        write_refined(config, layout, number, rows)
    _write_volumes(layout, scans)
    return config


def layout_of(folder: Path, config: Config) -> Layout:
    """Return the layout of an experiment whose paths are relative to ``folder``."""
    return Layout.of(config.model_copy(update={"output": str(folder / config.output)}))


def write_refined(
    config: Config, layout: Layout, number: int, rows: Sequence[dict[str, Any]]
) -> None:
    """Write the table of the pseudo-labels of a round."""
    by_dice = sorted(rows, key=lambda row: row["predicted_dice"])
    REFINE.write(layout.refine(number), by_dice, list(config.structures))


def write_configuration(
    folder: Path, rounds: int, modalities: Sequence[str], **sections: object
) -> Config:
    """Write the configuration of the experiment ``abdomen``."""
    config = Config.model_validate(
        {
            "experiment": "abdomen",
            "cases": "cases.csv",
            "labels": PHANTOM_LABELS | {"ignore": 255},
            "lesions": ["lesion"],
            "overrides": "overrides",
            "rounds": rounds,
            "modalities": dict.fromkeys(modalities, "mr"),
            **sections,
        }
    )
    layout = layout_of(folder, config)
    layout.root.mkdir(parents=True)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    (layout.root / "config.yaml").write_text(text, encoding="utf-8")
    return config


def write_sheet(
    folder: Path, scans: Sequence[Phantom], modalities: Sequence[str], sites: Sequence[str]
) -> None:
    """Write the images and the case sheet."""
    rows = [
        _write_images(folder, number, scan, modalities, sites) for number, scan in enumerate(scans)
    ]
    header = ["case_id", *modalities, "label", "split", "group", "site"]
    write_csv(folder / "cases.csv", rows, header)


def case_name(number: int) -> str:
    """Return the name of a case."""
    return f"case_{number:03d}"


def _write_images(
    folder: Path,
    number: int,
    scan: Phantom,
    modalities: Sequence[str],
    sites: Sequence[str],
) -> dict[str, str]:
    row = {"case_id": case_name(number), "label": "", "split": "unlabelled"}
    row |= {"group": f"patient_{number:03d}", "site": sites[number % len(sites)]}
    for modality, image in zip(modalities, scan.images, strict=True):
        row[modality] = f"images/{case_name(number)}_{modality}.nii.gz"
        save(folder / row[modality], image, scan.affine)
    return row


def _write_case(
    layout: Layout, number: int, rounds: int, case: int, scan: Phantom
) -> dict[str, Any]:
    """Write the pseudo-label of a case; case 0 is the worst, and earlier rounds are worse."""
    badness = max(0, 4 - case) + (rounds - number)
    label = _damaged(scan.label, badness, case)
    predicted = round(0.93 - 0.085 * badness - 0.01 * case, 3)
    pseudo = Phantom(_weight(label, scan.label), label, scan.affine)
    _write_lesions(layout, number, case_name(case), label, scan.affine)
    return write_pseudo_label(layout, number, case_name(case), pseudo, predicted)


def write_pseudo_label(
    layout: Layout, number: int, case_id: str, pseudo: Phantom, predicted: float
) -> dict[str, Any]:
    """Write a pseudo-label and return its row of ``refine.csv``.

    Args:
        layout: where it is written.
        number: the round.
        case_id: the case.
        pseudo: the label, with its weights in place of images.
        predicted: predicted Dice.
    """
    path = layout.pseudo_label(number, case_id)
    weight = path.with_name(f"{case_id}.weight.nii.gz")
    save(path, pseudo.label, pseudo.affine)
    save(weight, pseudo.images, pseudo.affine)
    accepted = predicted >= 0.7
    reason = "predicted Dice at least 0.70" if accepted else "predicted Dice below 0.70"
    row: dict[str, Any] = {
        "case_id": case_id,
        "predicted_dice": predicted,
        "predicted_dice_low": predicted - 0.09,
        "predicted_dice_high": min(1.0, predicted + 0.07),
        "accepted": accepted,
        "reason": reason,
        "previous_round_dice": None if number == 1 else round(predicted + 0.02, 3),
        "weight_mean": 0.8,
        "files": [f"pseudo_labels/{path.name}", f"pseudo_labels/{weight.name}"],
        "sha256": [sha256_file(path), sha256_file(weight)],
    }
    for name, volume in _volumes(pseudo.label, pseudo.affine).items():
        row[f"volume_ml_of_{name}"] = volume
        row[f"predicted_dice_of_{name}"] = predicted
    counted = ("low_confidence", "components", "lesions", "possible_lesions", "holes")
    row |= dict.fromkeys((*counted, "previous_round", "lesions_kept", "lesions_dropped"), 0)
    return row


def _damaged(truth: np.ndarray, badness: int, seed: int) -> np.ndarray:
    """Return a label whose organs leak to one side; of the worst, the spleen is missing."""
    label = truth.copy()
    liver = ndimage.binary_dilation(truth == PHANTOM_LABELS["liver"], iterations=badness)
    side = np.indices(truth.shape)[seed % 3] < truth.shape[seed % 3] // 2
    label[liver & side & (truth == 0)] = PHANTOM_LABELS["liver"]
    if badness >= 4:
        label[label == PHANTOM_LABELS["spleen"]] = 0
    return label


def _weight(label: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return weights that are low where the label is wrong, and lower at borders."""
    wrong = ndimage.gaussian_filter((label != truth).astype(np.float32), 1.5)
    border = ndimage.gaussian_filter((ndimage.morphological_gradient(label, 3) > 0) * 0.3, 0.7)
    return np.clip(255 * (1 - wrong - border), 0, 255).astype(np.uint8)


def _write_lesions(
    layout: Layout, number: int, case_id: str, label: np.ndarray, affine: np.ndarray
) -> None:
    found = connected_components(label == LESION, 26)
    rows = []
    for component in range(1, int(found.max()) + 1):
        voxels = found == component
        centre = affine @ [*ndimage.center_of_mass(voxels), 1]
        row = {"case_id": case_id, "class": "lesion", "component": component}
        row |= {"volume_ml": voxels.sum() * _voxel_ml(affine), "kept": component != 2}
        row |= {"probability": 0.9 if component != 2 else 0.3, "mean_probability": 0.7}
        row |= {"agreement": 0.8, "x_mm": centre[0], "y_mm": centre[1], "z_mm": centre[2]}
        rows.append(row)
    LESIONS.write(layout.pseudo_labels(number) / f"{case_id}.lesions.csv", rows)


def write_suggestions(layout: Layout, cases: int, slices: int) -> None:
    """Write what ``hstf suggest`` writes: the cases, then a slice of each.

    The last of each list is drawn at random.
    """
    rows = []
    for kind, position in (("scan", None), ("slice", slices // 2)):
        for number in range(cases):
            is_random = number == cases - 1
            structure = ("liver", "spleen", "lesion")[number % 3]
            doubt = 12.0 / (number + 1) / (1 if position is None else 8)
            reason = f"the ensemble is doubtful about {doubt:.2g} ml of {structure}"
            if is_random:
                reason = f"drawn at random from slices and scans with {structure}"
            row = {"rank": number + 1, "kind": kind, "case_id": case_name(number)}
            row |= {"slice": position, "axis": None if position is None else 2}
            row |= {"how": "random" if is_random else "doubt", "structure": structure}
            row |= {"doubt_ml": doubt, "volume_ml": 60.0, "like": "", "distance": 1.1}
            row |= {"predicted_dice": 0.5 + number / 12, "reason": reason}
            rows.append(row)
    SUGGEST.write(layout.root / "suggest" / "suggest.csv", rows)


def _write_volumes(layout: Layout, scans: Sequence[Phantom]) -> None:
    """Write the volumes of the structures in labelled cases."""
    rows = []
    for number, scan in enumerate(scans):
        listed = [f"{name}={ml:.4f}" for name, ml in _volumes(scan.label, scan.affine).items()]
        rows.append({"case_id": f"labelled_{number}", "volumes_ml": ";".join(listed)})
    TEACHER.write(layout.out_of_fold / "labelled_0.csv", rows)


def _volumes(label: np.ndarray, affine: np.ndarray) -> dict[str, float]:
    classes = {name: value for name, value in PHANTOM_LABELS.items() if value}
    return {name: (label == value).sum() * _voxel_ml(affine) for name, value in classes.items()}


def _voxel_ml(affine: np.ndarray) -> float:
    return abs(float(np.linalg.det(affine[:3, :3]))) / 1000
