"""Scores and predictions of each case, and cases that cannot be scored."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.evaluation_files import (
    AFFINE,
    LABELS,
    LIVER,
    SHAPE,
    FakePredictor,
    evaluate_shard,
    read_scores,
    summarise_round,
    truth,
    with_evaluate,
    write_nifti,
)

from hstf.config.experiment import Config
from hstf.experiment.layout import Layout
from hstf.experiment.score_tables import EVALUATION, EVALUATION_CASES
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_text
from hstf.scoring.metrics import METRICS, Metric, StructurePair
from hstf.stages.evaluate import cases as evaluate_cases


def test_evaluate_shard_writes_scores_and_predictions(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    layout = Layout.of(config)
    assert evaluate_shard(config, 0, "test_0") == 2
    written = nib.load(layout.evaluation_prediction(0, "a"))
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.roll(truth(0), 2, axis=0))
    np.testing.assert_array_equal(written.affine, AFFINE)
    scores = read_scores(config, "a")
    assert scores.classes["tumour"]["dice"] == 0
    # Two voxels of 2 mm.
    assert scores.classes["tumour"]["hd95_mm"] == pytest.approx(4)
    perfect = {"dice": 1, "hd95_mm": 0, "asd_mm": 0}
    assert scores.members["fold_0"] == {"liver": perfect, "tumour": perfect}
    row = EVALUATION.records(layout.evaluation_table(0, "test_0"))[0]
    assert row["dice"] == pytest.approx(scores.classes["liver"]["dice"] / 2, rel=1e-5)
    assert row["files"] == ["scores/a.json", "predictions/a.nii.gz"]


def test_evaluate_shard_computes_a_case_once(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    evaluate_shard(config, 1, "test_0")
    assert evaluate_shard(config, 1, "test_0") == 0
    assert evaluate_shard(with_evaluate(config, bootstrap=500), 1, "test_0") == 0
    write_nifti(Path("b_label.nii.gz"), truth(0))
    assert evaluate_shard(config, 1, "test_0") == 1
    write_text(Layout.of(config).weights(1, "seed_0"), "trained again")
    assert evaluate_shard(config, 1, "test_0") == 2
    assert len(predictors[1].calls) == 5


def test_evaluate_shard_loads_networks_only_if_needed(
    config: Config, predictors: dict[int, FakePredictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_shard(config, 0, "test_1")
    monkeypatch.setattr(evaluate_cases, "load_predictor", lambda *_: pytest.fail("loaded"))
    evaluate_shard(config, 0, "test_1")


def test_evaluate_shard_leaves_out_ignored_voxels(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    label = truth(0)
    wrong = np.roll(label, 2, axis=0) != label
    label[wrong] = LABELS["ignore"]
    write_nifti(Path("a_label.nii.gz"), label)
    evaluate_shard(config, 0, "test_0")
    liver = read_scores(config, "a").classes["liver"]
    assert liver["dice"] == 1
    assert liver["volume_difference_ml"] == 0


def test_evaluate_shard_scores_only_the_overlap_with_scribbles(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    config = config.model_copy(update={"lesions": ("tumour",)})
    label = np.full(SHAPE, LABELS["ignore"], np.uint8)
    liver = tuple(np.argwhere(truth(0) == LABELS["liver"])[::7].T)
    label[liver] = LABELS["liver"]
    label[0, 0] = 0
    write_nifti(Path("a_label.nii.gz"), label)
    evaluate_shard(config, 0, "test_0")
    evaluate_shard(config, 0, "test_1")
    scores = read_scores(config, "a")
    assert 0 < scores.classes["liver"]["dice"] < 1
    assert scores.classes["liver"]["hd95_mm"] is None
    assert scores.classes["tumour"]["empty"] == "unknown"
    assert scores.lesions == {}
    tumour = summarise_round(config, 0).classes["tumour"]
    assert tumour.dice.cases == tumour.present.cases == 2
    assert tumour.absent.cases == 0


def test_evaluate_shard_refuses_other_cases(config: Config) -> None:
    with pytest.raises(
        HstfError, match=r"unlabelled_0: evaluate predicts only test and validation"
    ):
        evaluate_shard(config, 0, "unlabelled_0")


def test_evaluate_shard_refuses_labels_of_another_geometry(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    write_nifti(Path("c_label.nii.gz"), truth(0)[:-1])
    message = r"c: c_label.nii.gz has shape \(11, 10, 8\), the image \(12, 10, 8\)"
    with pytest.raises(HstfError, match=message):
        evaluate_shard(config, 0, "test_1")
    mirrored = nib.Nifti1Image(truth(0), AFFINE @ np.diag([-1.0, 1.0, 1.0, 1.0]))
    nib.save(mirrored, "c_label.nii.gz")
    message = r"c: c_label.nii.gz has an affine that puts corner voxels up to 44 mm"
    with pytest.raises(HstfError, match=message):
        evaluate_shard(config, 0, "test_1")


@pytest.mark.parametrize("shear", [0.0, 0.1])
def test_evaluate_shard_measures_in_mm_on_a_sheared_grid(
    config: Config, predictors: dict[int, FakePredictor], shear: float
) -> None:
    """Also on axes that are nearly at right angles: 2 degrees less for a shear of 0.1."""
    affine = AFFINE.copy()
    affine[0, 2] = shear
    for name in ("c.nii.gz", "c_label.nii.gz"):
        data = np.asarray(nib.load(name).dataobj)
        nib.save(nib.Nifti1Image(data, affine), name)
    evaluate_shard(config, 0, "test_1")
    classes = read_scores(config, "c").classes
    voxels = np.count_nonzero(np.asarray(nib.load("c_label.nii.gz").dataobj) == LIVER)
    ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    assert classes["liver"]["reference_ml"] == pytest.approx(voxels * ml, rel=1e-9)
    edges = np.linalg.norm(affine[:3, :3], axis=0).prod() / 1000
    assert (ml == pytest.approx(edges, rel=1e-9)) == (shear == 0)


def test_evaluate_shard_refuses_unknown_label_values(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    write_nifti(Path("c_label.nii.gz"), truth(0) + 1)
    with pytest.raises(HstfError, match=r"c_label.nii.gz: has the values \[1, 4, 8\]"):
        evaluate_shard(config, 0, "test_1")


def test_evaluate_shard_names_missing_files(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    Path("c_label.nii.gz").unlink()
    with pytest.raises(HstfError, match=r"c: c_label.nii.gz missing"):
        evaluate_shard(config, 0, "test_1")
    shutil.rmtree(Layout.of(config).model(1))
    with pytest.raises(HstfError, match=r"round 1 has no model yet: .*seed_0.weights.pt missing"):
        evaluate_shard(config, 1, "test_0")


def test_a_new_metric_has_a_column_in_the_table_of_cases(
    config: Config, predictors: dict[int, FakePredictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A metric is registered by one line in METRICS."""

    def surplus(pair: StructurePair) -> float:
        return (pair.predicted - pair.hits) * pair.voxel_ml

    added = Metric("surplus_ml", "volume", surplus)
    monkeypatch.setitem(METRICS, added.name, added)
    evaluate_shard(config, 0, "test_0")
    scores = read_scores(config, "a").classes["liver"]
    path = Path("cases_with_metric.csv")
    EVALUATION_CASES.write(path, [{"case_id": "a", "class": "liver"} | scores])
    assert EVALUATION_CASES.records(path)[0]["surplus_ml"] == pytest.approx(
        scores["surplus_ml"], rel=1e-5
    )
