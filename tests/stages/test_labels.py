"""The stage ``labels``, on files: manual overrides, targets, weights and tables."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from support.pseudo_label_files import AFFINE, CASES, SHAPE, SHARD, make_experiment, write_verdicts
from support.stages import labels, merge_labels, overrides_in_force

from hstf.config.experiment import Config
from hstf.config.monitor import MonitorConfig
from hstf.experiment.layout import Layout
from hstf.experiment.overrides import note_decisions, override_messages
from hstf.experiment.round_tables import LABELS
from hstf.experiment.schedule import Schedule
from hstf.imaging.arrays import read_array
from hstf.imaging.corrected_labels import Findings
from hstf.imaging.volumes import Volume, read_label
from hstf.method.plr.calibration import Calibration
from hstf.runtime.errors import HstfError
from hstf.runtime.files import sha256_file, write_text
from hstf.runtime.shards import read_shard
from hstf.stages import labels as labels_stage


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config = make_experiment(tmp_path, refine={"accepted_fraction": [1.0]})
    write_verdicts(config)
    return config


def correct(
    config: Config, case_id: str, data: np.ndarray, number: int = 1, affine: np.ndarray = AFFINE
) -> Path:
    path = Layout.of(config).override(number, case_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data.astype(np.uint8), affine), path)
    return path


def decide(config: Config, *lines: str) -> None:
    """Write decisions, and read them as a plain command does."""
    path = Layout.of(config).decisions
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["round,case_id,action,reviewer,date,reason", *lines, ""]))
    note(config)


def note(config: Config) -> None:
    assert note_decisions(Layout.of(config), Schedule.of(config), CASES) is None


def change_pseudo_labels(config: Config, number: int = 1) -> None:
    """Refine both cases again; their hole is no longer filled."""
    path = Layout.of(config).calibration
    before = Calibration.load(path)
    rule = before.anatomy_rules["organ"].model_copy(update={"has_holes": True})
    before.model_copy(update={"anatomy_rules": {"organ": rule}}).save(path)
    write_verdicts(config, number)


def rows(config: Config) -> dict[str, dict[str, Any]]:
    return read_shard(LABELS, Layout.of(config).labels_shard_table(1, SHARD), CASES)


def block() -> np.ndarray:
    data = np.zeros(SHAPE)
    data[8:20, 6:18, 4:12] = 3
    data[0:4] = 9
    return data


def test_labels_uses_automatic_labels_and_skips_rejected_cases(config: Config) -> None:
    assert labels(config, 1, SHARD) == 2
    layout = Layout.of(config)
    good = rows(config)[CASES[0]]
    bad = rows(config)[CASES[1]]
    assert (good["source"], good["round"], good["predicted_dice"]) == ("automatic", 1, 0.95)
    assert (bad["source"], bad["files"], bad["sha256"]) == ("rejected", [], [])
    assert not (layout.labels(1) / "bad.nii.gz").exists()
    for name in ("good.nii.gz", "good.weight.nii.gz"):
        pseudo = read_label(layout.pseudo_labels(1) / name).data
        used = read_label(layout.labels(1) / name).data
        np.testing.assert_array_equal(pseudo, used)
    target = read_array(layout.labels(1) / "good" / "target.b2nd")
    centre = tuple(n // 2 for n in target.shape[1:])
    assert target[:2, centre[0], centre[1], centre[2]].tolist() == [60, 195]  # the filled hole
    beside = target[:, centre[0] + 2, centre[1], centre[2]]
    assert beside[:2].tolist() == [25, 230] and beside[2] > 150  # the teacher's probability
    locations = np.load(layout.labels(1) / "good" / "locations.npy")
    assert locations.dtype == np.int32 and set(locations[:, 0]) == {1}
    assert np.all(target[1][tuple(locations[:, 1:].T)] > 127)


def test_labels_uses_a_corrected_label_of_a_rejected_case(config: Config) -> None:
    correct(config, "bad", block())
    decide(config, '1,bad,replace,Dr. Mo,2026-01-02,"leak, apex"')
    labels(config, 1, SHARD)
    row = rows(config)["bad"]
    assert (row["source"], row["reviewer"], row["reason"]) == ("corrected", "Dr. Mo", "leak, apex")
    assert row["predicted_dice"] is None
    folder = Layout.of(config).labels(1)
    np.testing.assert_array_equal(read_label(folder / "bad.nii.gz").data, block())
    weight = read_label(folder / "bad.weight.nii.gz").data
    np.testing.assert_array_equal(weight, np.where(block() == 9, 0, 255))
    target = read_array(folder / "bad" / "target.b2nd")
    ignored = target[2] == 0
    assert ignored.any() and set(np.unique(target[2])) == {0, 255}
    assert (target[:2, ignored] == 128).all(), "a pseudo-label remains where the label is ignored"
    assert set(np.unique(target[:2, ~ignored])) == {0, 255}


def test_labels_keeps_every_scribble_of_a_corrected_label(config: Config) -> None:
    """The grid has a larger spacing than the file, and every curve is one voxel wide."""
    data = np.full(SHAPE, 9)
    data[3, 2:20, 5] = 0
    data[11, 2:20, 6] = 3
    correct(config, "bad", data)
    labels(config, 1, SHARD)
    folder = Layout.of(config).labels(1)
    np.testing.assert_array_equal(read_label(folder / "bad.nii.gz").data, data)
    target = read_array(folder / "bad" / "target.b2nd")
    learned = target[2] == 255
    assert all(12 <= np.sum(learned & (target[k] == 255)) <= 13 for k in range(2)), "18 mm each"
    assert set(np.load(folder / "bad" / "locations.npy")[:, 0]) == {0, 1}


def test_labels_uses_a_corrected_label_without_a_decision(config: Config) -> None:
    correct(config, "good", block())
    labels(config, 1, SHARD)
    assert (rows(config)["good"]["source"], rows(config)["good"]["reviewer"]) == ("corrected", "")


def test_labels_follows_the_decisions_of_reviewers(config: Config) -> None:
    decide(config, "1,bad,accept,Mo,,fine", "1,good,reject,Mo,,motion")
    labels(config, 1, SHARD)
    good = rows(config)[CASES[0]]
    bad = rows(config)[CASES[1]]
    assert (bad["source"], bad["reason"], bad["predicted_dice"]) == ("accepted", "fine", 0.3)
    assert (Layout.of(config).labels(1) / "bad" / "target.b2nd").is_file()
    assert (good["source"], good["files"]) == ("rejected", [])


def test_labels_do_not_carry_an_acceptance_over_to_another_version(config: Config) -> None:
    decide(config, "1,bad,accept,AB,2026-01-02,fine")
    labels(config, 1, SHARD)
    assert (rows(config)["bad"]["source"], rows(config)["bad"]["review"]) == ("accepted", "")
    change_pseudo_labels(config)
    note(config)
    labels(config, 1, SHARD)
    row = rows(config)["bad"]
    assert (row["source"], row["reviewer"], row["review"]) == ("rejected", "", "open")
    assert row["reason"].startswith("accepted by AB for an earlier version; look at it again (")
    assert row["files"] == []
    decide(config, "1,bad,accept,AB,2026-01-03,fine")
    labels(config, 1, SHARD)
    assert rows(config)["bad"]["source"] == "accepted", "the row was confirmed by a new date"


def test_labels_use_an_acceptance_that_names_the_pseudo_label(config: Config) -> None:
    labels(config, 1, SHARD)
    path = Layout.of(config).decisions
    version = sha256_file(Layout.of(config).pseudo_label(1, "bad"))
    header = "round,case_id,action,reviewer,date,reason,sha256"
    write_text(path, f"{header}\n1,bad,accept,AB,,,{'0' * 64}\n1,bad,accept,CD,,,{version}\n")
    labels(config, 1, SHARD)
    row = rows(config)["bad"]
    assert (row["source"], row["reviewer"]) == ("accepted", "CD"), "AB looked at something else"


def test_labels_do_not_carry_an_acceptance_over_to_the_next_round(config: Config) -> None:
    decide(config, "1,good,accept,AB,,fine", "1,bad,accept,AB,,fine")
    labels(config, 1, SHARD)
    write_verdicts(config, 2)
    labels(config, 2, SHARD)
    table = Layout.of(config).labels_shard_table(2, SHARD)
    equal = read_shard(LABELS, table, CASES)
    assert [equal[name]["source"] for name in CASES] == ["accepted"] * 2, "the same bytes"
    change_pseudo_labels(config, 2)
    labels(config, 2, SHARD)
    found = read_shard(LABELS, table, CASES)
    assert [found[name]["review"] for name in CASES] == ["open", "open"]
    assert [found[name]["source"] for name in CASES] == ["automatic", "rejected"]


@pytest.mark.parametrize(
    ("is_noted", "reason"),
    [
        (True, "accepted by AB before there was a pseudo-label; look at it"),
        (False, "accepted by AB after the run was started; start it again"),
    ],
)
def test_labels_do_not_use_an_acceptance_of_an_unseen_label(
    tmp_path: Path, is_noted: bool, reason: str
) -> None:
    config = make_experiment(tmp_path, refine={"accepted_fraction": [1.0]})
    decide(config, "1,bad,accept,AB,,fine")
    if not is_noted:
        Layout.of(config).decisions_seen.unlink()
    write_verdicts(config)
    labels(config, 1, SHARD)
    row = rows(config)["bad"]
    assert (row["source"], row["review"]) == ("rejected", "open")
    assert row["reason"].startswith(reason)


def test_labels_keep_a_rejection_of_an_earlier_version(config: Config) -> None:
    decide(config, "1,good,reject,AB,,motion")
    labels(config, 1, SHARD)
    assert rows(config)["good"]["review"] == ""
    change_pseudo_labels(config)
    labels(config, 1, SHARD)
    row = rows(config)["good"]
    assert (row["source"], row["reviewer"], row["reason"]) == ("rejected", "AB", "motion")
    assert row["review"] == "earlier version"


def test_labels_computes_only_changed_cases_and_removes_unused_files(config: Config) -> None:
    labels(config, 1, SHARD)
    assert labels(config, 1, SHARD) == 0
    decide(config, "1,good,reject,Mo,,motion")
    assert labels(config, 1, SHARD) == 1
    assert not (Layout.of(config).labels(1) / "good" / "target.b2nd").exists()
    decide(config)
    correct(config, "bad", block())
    assert labels(config, 1, SHARD) == 2
    correct(config, "bad", np.where(block() == 9, 0, block()))
    assert labels(config, 1, SHARD) == 1


def test_labels_writes_hard_targets_if_soft_targets_are_off(config: Config) -> None:
    hard = config.model_copy(
        update={"student": config.student.model_copy(update={"soft_targets": False})}
    )
    labels(config, 1, SHARD)
    assert labels(hard, 1, SHARD) == 2
    assert set(np.unique(read_array(Layout.of(config).labels(1) / "good" / "target.b2nd")[:2])) == {
        0,
        255,
    }


def test_labels_reports_all_problems_of_corrected_labels(config: Config) -> None:
    shifted = AFFINE.copy()
    shifted[0, 3] += 5
    correct(config, "good", np.full(SHAPE, 7), affine=shifted)
    correct(config, "bad", np.zeros((5, 5, 5)))
    with pytest.raises(HstfError) as error:
        labels(config, 1, SHARD)
    for part in (
        "3 problems",
        "has the values 7, expected only 0, 3, 9",
        "up to 5 mm away",
        "has shape (5, 5, 5), the image",
    ):
        assert part in str(error.value), part


@pytest.mark.parametrize("value", [0, 9], ids=["background", "ignored"])
def test_labels_question_a_corrected_label_without_structures(config: Config, value: int) -> None:
    correct(config, "good", np.full(SHAPE, value))
    with pytest.raises(HstfError) as error:
        labels(config, 1, SHARD)
    assert "good.nii.gz: all its voxels are background or ignored" in str(error.value)
    assert "decisions.csv: 1,good,replace,<reviewer>" in str(error.value)
    decide(config, "1,good,replace,AB,,no organ in this scan")
    labels(config, 1, SHARD)
    assert (rows(config)["good"]["source"], rows(config)["good"]["review"]) == ("corrected", "")


def test_labels_name_transposed_and_flipped_axes_of_a_corrected_label(config: Config) -> None:
    correct(config, "good", block().transpose(1, 0, 2))
    correct(config, "bad", block(), affine=AFFINE @ np.diag([-1, 1, 1, 1]))
    with pytest.raises(HstfError) as error:
        labels(config, 1, SHARD)
    assert "(30, 24, 16), " in str(error.value)
    assert "The axes look transposed." in str(error.value)
    assert "Its axes are PLI, expected ALI: they look transposed or flipped." in str(error.value)


def test_labels_question_a_corrected_label_of_few_classes(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Findings(remarks=["contains only organ, the pseudo-label also lesion"])
    monkeypatch.setattr(labels_stage, "examine_corrected_label", lambda *_: found)
    path = correct(config, "good", block())
    labels(config, 1, SHARD)
    warning = f"{path}: contains only organ, the pseudo-label also lesion."
    assert f"labels: warning: {warning} If this is meant" in capsys.readouterr().out
    row = rows(config)["good"]
    assert (row["source"], row["review"]) == ("corrected", "question")
    assert row["reason"] == "contains only organ, the pseudo-label also lesion"
    in_force = overrides_in_force(config, 1, CASES)
    assert override_messages(config, {1: in_force}) == [warning.removesuffix(".")]


def test_labels_refuse_a_corrected_label_that_is_saved_meanwhile(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = correct(config, "good", block())
    read = labels_stage.read_label

    def read_and_save(file: Path) -> Volume:
        volume = read(file)
        if file == path:
            correct(config, "good", np.where(block() == 9, 0, block()))
        return volume

    monkeypatch.setattr(labels_stage, "read_label", read_and_save)
    with pytest.raises(HstfError, match=r"was saved while it was read\. Start the run again"):
        labels(config, 1, SHARD)


def test_labels_refuses_an_edited_pseudo_label(config: Config) -> None:
    path = Layout.of(config).pseudo_labels(1) / "good.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE), path)
    with pytest.raises(HstfError, match=r"good\.nii\.gz was changed .* overrides folder"):
        labels(config, 1, SHARD)


def test_merge_labels_joins_the_tables(config: Config) -> None:
    labels(config, 1, SHARD)
    merge_labels(config, 1)
    good, bad = LABELS.records(Layout.of(config).labels_table(1))
    assert good["files"][2] == "labels/good/target.b2nd"
    assert list(good) == [
        "case_id",
        "round",
        "source",
        "reviewer",
        "reason",
        "review",
        "predicted_dice",
        "weight_mean",
        "files",
        "sha256",
    ]
    assert bad["files"] == []


def test_labels_without_weight_stop_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [
        {"source": "automatic", "weight_mean": 0.01},
        {"source": "accepted", "weight_mean": 0.03},
        {"source": "rejected", "weight_mean": 0.9},
    ]
    with pytest.raises(HstfError, match=r"of the 2 labels of round 1 is 0\.020, expected at least"):
        labels_stage.refuse_weightless(rows, 1, MonitorConfig())
    labels_stage.refuse_weightless(rows, 1, MonitorConfig(on_collapse="continue"))
    assert "labels: warning: the mean voxel weight" in capsys.readouterr().out
    sound = [*rows, {"source": "corrected", "weight_mean": 1.0}]
    labels_stage.refuse_weightless(sound, 1, MonitorConfig())
    labels_stage.refuse_weightless(rows[2:], 1, MonitorConfig())
