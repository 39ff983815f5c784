"""``hstf predict``: the predicted Dice of each scan."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.predict_runs import evaluated_predictor, export_model, rows_of, run_predict, voxels
from support.tiny_model import calibration_of_dice, write_scan

from hstf.config.experiment import Config
from hstf.experiment.layout import Layout
from hstf.imaging.volumes import read_image
from hstf.method.exported_model import read_exported_model, write_digests


def export_with_quality(config: Config, mean: float, bound: float) -> Path:
    """Export a model whose calibration predicts the Dice."""
    calibration_of_dice(mean, bound).save(Layout.of(config).calibration)
    return export_model(config)


def test_predict_writes_the_predicted_dice_of_each_scan(config: Config, tmp_path: Path) -> None:
    model = export_with_quality(config, mean=0.8, bound=0.0)
    scan = write_scan(tmp_path / "scans" / "a.nii.gz")
    assert run_predict(model, scan, tmp_path / "out") == 0
    rows = rows_of(tmp_path / "out")
    first = rows[0]
    assert 0 <= first["predicted_dice"] <= 1
    assert first["predicted_dice_low"] == pytest.approx(max(0, first["predicted_dice"] - 0.1))
    assert first["predicted_dice_interval"] == "guess"
    structures = [first[f"predicted_dice_of_{name}"] for name in ("liver", "tumour")]
    assert first["predicted_dice"] == pytest.approx(np.mean(structures))
    assert all(row["predicted_dice"] == first["predicted_dice"] for row in rows)


def test_predicted_dice_has_the_features_of_the_fit(config: Config, tmp_path: Path) -> None:
    """The features come from the TTA views of the teacher, not from those of the prediction."""
    model = read_exported_model(export_with_quality(config, mean=0.8, bound=0.0))
    assert model.quality is not None
    assert model.quality.views.scales == config.teacher.scales
    assert model.quality.passes == pytest.approx(0.512 + 1 + 1.953125)
    predictor = evaluated_predictor(config)
    volume = read_image(write_scan(tmp_path / "a.nii.gz"))
    image, _ = predictor.prepare([volume])
    summary = predictor.summarise(image, model.quality.classes, model.quality.views)
    assert list(summary.agreement.scales) == ["0.8", "1.0", "1.25"]
    assert summary.agreement.pairs is not None


def test_predict_warns_of_a_low_predicted_dice(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = export_with_quality(config, mean=0.3, bound=0.99)
    scan = write_scan(tmp_path / "scans" / "a.nii.gz")
    assert run_predict(model, scan, tmp_path / "out") == 0
    (warning,) = [row for row in rows_of(tmp_path / "out") if "predicted Dice" in row["found"]]
    assert warning["level"] == "warning"
    assert warning["expected"] == "at least 0.990, as all labelled cases"
    assert warning["segmentation"] == "a.nii.gz"
    assert (
        "Its interval is a guess: the errors of 2 labelled patients are known"
        in capsys.readouterr().err
    )


def test_predict_without_predicted_dice(config: Config, tmp_path: Path) -> None:
    model = export_with_quality(config, mean=0.3, bound=0.99)
    scan = write_scan(tmp_path / "scans" / "a.nii.gz")
    assert run_predict(model, scan, tmp_path / "out") == 0
    assert run_predict(model, scan, tmp_path / "plain", "--no-predicted-dice") == 0
    assert "predicted_dice" not in rows_of(tmp_path / "plain")[0]
    assert np.array_equal(voxels(tmp_path / "out/a.nii.gz"), voxels(tmp_path / "plain/a.nii.gz"))


def test_predict_reads_models_without_a_calibration_with_a_message(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = export_model(config)
    content = json.loads((model / "model.json").read_text())
    del content["quality"], content["provenance"]["choice"]
    (model / "model.json").write_text(json.dumps(content | {"format": 4}))
    write_digests(model)
    scan = write_scan(tmp_path / "scans" / "a.nii.gz")
    assert run_predict(model, scan, tmp_path / "out") == 0
    assert "the model has no calibration of predicted Dice" in capsys.readouterr().err
