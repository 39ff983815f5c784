"""The refine stage on files: what is written, decided, skipped and refused."""

import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pseudo_label_files import AFFINE, CASES, SHAPE, SHARD, ball, calibration, make_experiment

from hstf.cli import main
from hstf.config import Config
from hstf.config.refine import RefineConfig
from hstf.errors import HstfError
from hstf.files import read_csv
from hstf.geometry import Geometry
from hstf.labels import labels
from hstf.layout import Layout
from hstf.refine import merge_refined, refine
from hstf.refine.case import TeacherOutput, judge, refine_case
from hstf.refine.overlay import best_slices, draw_overlay
from hstf.volumes import read_label


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_experiment(tmp_path)


def rows(config: Config, number: int = 1) -> dict[str, dict[str, str]]:
    table = Layout.of(config).pseudo_labels_table(number, SHARD)
    return {row["case_id"]: row for row in read_csv(table)}


def test_steps_of_one_case_add_up() -> None:
    probabilities = np.zeros((2, 8, 8, 8), np.uint8)
    probabilities[1, 1:6, 1:6, 1:6] = 230
    probabilities[1, 1, 1, 1] = 140  # right, but below the threshold of 0.6
    probabilities[1, 3, 3, 3] = 100  # a hole
    probabilities[1, 7, 7, 7] = 250  # a second component
    probabilities[0] = 255 - probabilities[1]
    output = TeacherOutput(
        probabilities, np.zeros((3, 8, 8, 8), np.uint8),
        {"scales": {"1.0": {"organ": 0.9}}, "foreground_entropy": {"organ": 0.1}},
    )  # fmt: skip
    refined = refine_case(output, calibration(), ["background", "organ"], 1.0, RefineConfig())
    expected = np.zeros((8, 8, 8), np.uint8)
    expected[1:6, 1:6, 1:6] = 1
    np.testing.assert_array_equal(refined.label, expected)
    assert refined.changed == {"low_confidence": 1, "components": 1, "holes": 1}
    assert refined.weight[1, 1, 1] == round(255 * 0.1)
    assert refined.weight[3, 3, 3] == refined.weight[7, 7, 7] == round(255 * 0.3)
    assert refined.weight[2, 2, 2] == refined.weight[0, 7, 0] == 255
    assert refined.probabilities[:, 3, 3, 3].tolist() == [0, 255]
    assert refined.probabilities[:, 7, 7, 7].tolist() == [255, 0]


def test_verdicts_are_sentences() -> None:
    known = calibration()
    good = judge({"organ": {"scales": 0.9}}, {"organ": True}, known, None)
    assert good.accepted and good.reason == "predicted Dice 0.900 reaches 0.700"
    assert (good.low, good.high) == pytest.approx((0.9 - 1.645 * 0.05, 0.9 + 1.645 * 0.05))
    assert (
        judge({"organ": {"scales": 0.6}}, {"organ": True}, known, None).reason
        == "predicted Dice 0.600 is below 0.700"
    )
    assert judge({"organ": {"scales": 0.6}}, {"organ": True}, known, 0.5).accepted
    gone = judge({"organ": {"scales": 0.9}}, {"organ": False}, known, 0.0)
    assert not gone.accepted and gone.reason == "organ is absent, but every labelled case has it"
    assert gone.predicted == {"organ": 0.0}


def test_a_shard_writes_labels_weights_pictures_and_a_table(config: Config) -> None:
    assert refine(config, 1, SHARD) == 2
    folder = Layout.of(config).pseudo_labels(1)
    label, weight = (nib.load(folder / f"good{end}") for end in (".nii.gz", ".weight.nii.gz"))
    for image in (label, weight):
        assert image.shape == SHAPE and image.get_data_dtype() == np.uint8
        np.testing.assert_allclose(image.affine, AFFINE)
    data = np.asarray(label.dataobj)
    assert set(np.unique(data)) == {0, 3}
    truth = ball_in_native()
    assert 2 * (truth & (data == 3)).sum() / (truth.sum() + (data == 3).sum()) > 0.93
    row = rows(config)["good"]
    assert (row["components"], row["holes"], row["previous_round"]) == ("1", "1", "0")
    assert float(row["volume_ml_organ"]) == pytest.approx((data == 3).sum() * 2.4 / 1000, rel=1e-4)
    assert row["files"] == "good.nii.gz;good.weight.nii.gz"
    for case_id in CASES:
        assert Image.open(folder / "overlays" / f"{case_id}.png").size[0] == 720


def ball_in_native() -> np.ndarray:
    centred = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(SHAPE, (1.2, 1.0, 2.0), strict=True)]
    return sum(np.square(axis) for axis in np.meshgrid(*centred, indexing="ij")) < 81  # type: ignore[return-value]


def test_an_outlier_is_rejected_and_listed_first(config: Config) -> None:
    refine(config, 1, SHARD)
    merge_refined(config, 1)
    first, second = read_csv(Layout.of(config).refine(1))
    assert (first["case_id"], first["accepted"]) == ("bad", "0")
    assert first["reason"] == "predicted Dice 0.300 is below 0.700"
    assert (second["case_id"], second["accepted"]) == ("good", "1")
    assert second["files"] == "pseudo_labels/good.nii.gz;pseudo_labels/good.weight.nii.gz"


def test_what_is_done_is_not_done_again(config: Config) -> None:
    refine(config, 1, SHARD)
    assert refine(config, 1, SHARD) == 0
    assert refine(config.model_copy(update={"refine": RefineConfig(changed_weight=0.5)}), 1, SHARD) == 2


def test_fewer_pictures_are_of_the_worst_and_redo_no_case(config: Config) -> None:
    refine(config, 1, SHARD)
    assert refine(config.model_copy(update={"refine": RefineConfig(overlays=1)}), 1, SHARD) == 0
    overlays = Layout.of(config).pseudo_labels(1) / "overlays"
    assert [path.name for path in overlays.iterdir()] == ["bad.png"]


def test_round_two_lowers_the_weight_where_it_contradicts_round_one(config: Config) -> None:
    refine(config, 1, SHARD)
    layout = Layout.of(config)
    other = np.asarray(nib.load(layout.pseudo_labels(1) / "good.nii.gz").dataobj).copy()
    moved = np.argwhere(other == 3)[:50]
    other[tuple(moved.T)] = 0
    other[0, 0, 0] = 9  # a person left this voxel open: it contradicts nothing
    (Path(config.overrides) / "round_1").mkdir(parents=True)
    nib.save(nib.Nifti1Image(other, AFFINE), Path(config.overrides) / "round_1" / "good.nii.gz")
    labels(config, 1, SHARD)
    refine(config, 2, SHARD)
    row = rows(config, 2)["good"]
    assert row["previous_round"] == "50" and 0.9 < float(row["previous_round_dice"]) < 1
    weight = read_label(layout.pseudo_labels(2) / "good.weight.nii.gz").data
    assert weight[tuple(moved.T)].max() <= round(255 * 0.3) < weight[0, 0, 0]
    assert rows(config, 2)["bad"]["previous_round_dice"] == ""  # rejected in round 1: nothing to look back to


def test_a_teacher_file_that_was_changed_is_refused(config: Config) -> None:
    path = Layout.of(config).teacher(1) / "good" / "agreement.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(HstfError, match=r"good/agreement\.json was changed"):
        refine(config, 1, SHARD)


def test_wrong_rounds_and_shards_are_sentences(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (0, 3):
        with pytest.raises(HstfError, match="rounds 1 to 2"):
            refine(config, number, SHARD)
    with pytest.raises(HstfError, match="no shard 'unlabelled_7'"):
        refine(config, 1, "unlabelled_7")


def test_the_command_needs_no_shard_to_join_tables(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(config.model_dump_json())
    assert main(["refine", "--config", str(file), "--round", "1", "--shard", SHARD]) == 0
    assert main(["refine", "--config", str(file), "--round", "1"]) == 0
    assert len(read_csv(Layout.of(config).refine(1))) == 2


def test_slices_go_through_the_largest_cross_sections() -> None:
    label = np.zeros((8, 9, 10), np.uint8)
    label[2, 3:6, 4:7] = 1
    label[2:5, 4, 5] = 1
    assert best_slices(label) == [2, 4, 5]
    assert best_slices(np.zeros((8, 9, 10), np.uint8)) == [4, 4, 5]


def test_a_picture_takes_little_time_and_shows_the_label_upright(tmp_path: Path) -> None:
    shape = Geometry.of((160, 160, 80), np.eye(4), (1.0, 1.0, 1.0)).grid_shape
    label = np.zeros(shape, np.uint8)
    label[20:60, 70:90, 50:70] = 1  # right of the patient, high up
    image = np.zeros((1, *shape), np.float16)
    started = time.perf_counter()
    draw_overlay(tmp_path / "a.png", image, label, np.full(shape, 255, np.uint8), (1, 1, 2), "a", "b")
    assert time.perf_counter() - started < 1
    pixels = np.asarray(Image.open(tmp_path / "a.png")).astype(int)
    red = np.argwhere(pixels[:240, 240:480, 0] > pixels[:240, 240:480, 2] + 30)  # the coronal tile
    assert red[:, 0].mean() < 120 and red[:, 1].mean() < 120


def test_the_fixture_is_a_ball() -> None:
    assert ball((21, 21, 15)).sum() * 4.5 == pytest.approx(4 / 3 * np.pi * 729, rel=0.1)
