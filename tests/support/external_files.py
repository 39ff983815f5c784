"""A small experiment on disk up to the teacher, with predictions of a model of somebody else.

The program of the model is a shell script that copies a prediction, so that it starts at once.
"""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from hstf.config.experiment import Config
from hstf.config.load import resolve_config
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.experiment.round_tables import EXTERNAL, TEACHER
from hstf.experiment.scan_tables import PREPROCESSED
from hstf.imaging.arrays import write_array
from hstf.imaging.geometry import Geometry
from hstf.imaging.volumes import read_label
from hstf.method.external_weights import ExternalWeights
from hstf.runtime.files import write_csv
from hstf.stages.external import stage
from hstf.stages.external.weights import measure
from support.pseudo_label_files import calibration, tta_summary
from support.shard_files import write_shard
from support.stages import refine

SIDE = 14
AFFINE = np.diag([-1.0, 1.0, 1.5, 1.0])
LABELLED = ["case_0", "case_1", "case_2"]
UNLABELLED = ["case_3", "case_4"]
THEIRS = 7
"""Value of the organ in the output of the external teacher."""
SCRIPT = """#!/bin/sh
# image, output, and what kind of model it is
echo "predicting $1"
case "$3-$1" in
  crash-*case_4*) echo "weights.bin is damaged" >&2; exit 3;;
  crash_all-*) exit 4;;
  silent-*case_4*) exit 0;;
  slow-*) sleep 60 & echo $! > child.txt; wait;;
esac
name=$(basename "$1")
cp "$3/$name" "$2" 2>/dev/null || cp "good/$name" "$2"
echo x >> calls.txt
echo "$@" >> arguments.txt
"""


def organ(case_id: str) -> np.ndarray:
    """Return the true mask of a case."""
    shift = int(case_id[-1])
    mask = np.zeros((SIDE, SIDE, SIDE), bool)
    mask[3:9, 2 + shift % 3 : 9, 4:10] = True
    return mask


def make_external(folder: Path, kind: str = "good", **teacher: Any) -> Config:
    """Write three labelled and two unlabelled cases; ``folder`` is the current folder.

    The ensemble finds half of the organ. The external teacher ``other`` knows all of it, or nothing
    of it if ``kind`` is ``bad``.
    """
    names = [*LABELLED, *UNLABELLED]
    rows = []
    for name in names:
        split = "labelled" if name in LABELLED else "unlabelled"
        rows.append(
            {
                "case_id": name,
                "image": f"{name}.nii.gz",
                "label": f"{name}_l.nii.gz",
                "split": split,
            }
        )
    write_csv(folder / "cases.csv", rows, ["case_id", "image", "label", "split"])
    script = folder / "foreign.sh"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    external = {
        "command": f"./foreign.sh {{image}} {{output}} {kind}",
        "labels": {"organ": THEIRS},
    }
    if "files" in teacher or "function" in teacher:
        del external["command"]
    config = resolve_config(
        {
            "output": "results",
            "cases": "cases.csv",
            "rounds": 1,
            "device": "cpu",
            "labels": {"organ": 3, "vessel": 4},
            "warmup": {"folds": 2, "seeds": 0},
            "preprocess": {"chunk": 16},
            "refine": {"overlays": 0, "select_cases": False, "previous_round": False},
            "teacher": {"external": {"other": external | teacher}},
        }
    )
    for name in names:
        write_case(config, name)
    layout = Layout.of(config)
    summary = ("probabilities.b2nd", "uncertainty.b2nd", "agreement.json")
    for shard, cases in (("labelled_0", LABELLED), ("unlabelled_0", UNLABELLED)):
        write_shard(PREPROCESSED, layout.preprocessed_table(shard), cases)
    write_shard(TEACHER, layout.out_of_fold_table("fold_0"), LABELLED[:2], summary)
    write_shard(TEACHER, layout.out_of_fold_table("fold_1"), LABELLED[2:], summary)
    write_shard(TEACHER, layout.teacher_table(1, "unlabelled_0"), UNLABELLED, summary)
    whole = calibration()
    rules = dict.fromkeys(("organ", "vessel"), whole.anatomy_rules["organ"])
    models = dict.fromkeys(("organ", "vessel"), whole.dice_models["organ"])
    thresholds = {"background": 0.5, "organ": 0.5, "vessel": 0.5}
    changes = {"anatomy_rules": rules, "dice_models": models, "thresholds": thresholds}
    for path in (layout.calibration, layout.round_calibration(1)):
        whole.model_copy(update=changes).save(path)
    return config


def write_case(config: Config, name: str) -> None:
    """Write the image of a case, its label, its predictions, and what the ensemble found."""
    layout = Layout.of(config)
    random = np.random.default_rng(int(name[-1]))
    image = random.normal(size=(SIDE,) * 3).astype(np.float32)
    nib.save(nib.Nifti1Image(image, AFFINE), f"{name}.nii.gz")
    mask = organ(name)
    nib.save(nib.Nifti1Image((3 * mask).astype(np.uint8), AFFINE), f"{name}_l.nii.gz")
    for kind, found in (("good", mask), ("bad", np.roll(mask, 6, axis=0))):
        Path(kind).mkdir(exist_ok=True)
        values = (THEIRS * found).astype(np.uint8)
        values[0, 0, 0] = 200  # a class that we do not have
        nib.save(nib.Nifti1Image(values, AFFINE), f"{kind}/{name}.nii.gz")
    geometry = Geometry.of(mask.shape, AFFINE, (1.0, 1.0, 1.5))
    folder = layout.preprocessed / name
    geometry.save(folder / "geometry.json")
    write_array(folder / "image.b2nd", image[None].astype(np.float16), 16)
    on_grid = geometry.label_to_grid(mask.astype(np.uint8), 2)
    if name in LABELLED:
        write_array(folder / "label.b2nd", on_grid, 16)
    probability = np.where(on_grid > 0, 90, 10).astype(np.uint8)
    probability[:, :, 7:][on_grid[:, :, 7:] > 0] = 230
    vessel = np.full_like(probability, 5)
    dice = {"organ": 0.9, "vessel": 0.9}
    summary = tta_summary(
        np.stack([250 - probability, probability, vessel]),
        np.full((3, *probability.shape), 10, np.uint8),
        {"scales": {"0.8": dice, "1.0": dice}, "foreground_entropy": dice},
    )
    predicted = layout.out_of_fold if name in LABELLED else layout.teacher(1)
    summary.save(predicted / name, 16)


def external(config: Config, shard: str, number: int = 0) -> int:
    """Run ``hstf external --shard``."""
    return stage.external(StageContext.of(config, "external", number), shard)


def weigh(config: Config) -> ExternalWeights:
    """Run ``hstf external`` without a shard."""
    context = StageContext.of(config, "external")
    return measure(context, stage.used_teachers(context))


def rows(config: Config, shard: str, number: int = 0) -> dict[str, dict[str, Any]]:
    """Return the table of the teacher ``other``."""
    table = Layout.of(config).external_table("other", shard, number)
    return {row["case_id"]: row for row in EXTERNAL.records(table)}


def run_all(config: Config) -> ExternalWeights:
    """Predict the labelled cases, measure, and predict the unlabelled cases."""
    external(config, "labelled_0")
    weights = weigh(config)
    external(config, "unlabelled_0")
    return weights


def with_teacher(config: Config, **changes: object) -> Config:
    """Return the configuration with other keys of the external teacher."""
    content = config.model_dump(mode="json")
    content["teacher"]["external"]["other"] |= changes
    return resolve_config(content)


def pseudo_labels(config: Config) -> dict[str, bytes]:
    """Refine round 1 and return the voxels of each pseudo-label."""
    refine(config, 1, "unlabelled_0")
    folder = Layout.of(config).pseudo_labels(1)
    return {name: read_label(folder / f"{name}.nii.gz").data.tobytes() for name in UNLABELLED}


def calls() -> int:
    return len(Path("calls.txt").read_text().splitlines())
