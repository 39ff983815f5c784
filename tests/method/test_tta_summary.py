"""The summary of TTA views: snapshots, columns and files."""

import json
from pathlib import Path

import numpy as np
import pytest

from hstf.method.tta_summary import AGREEMENT, Agreement, TtaSummary
from hstf.runtime.errors import HstfError

ORGAN = {"organ": (1,)}
DICE = {"organ": 0.5}
KEYS = ["scales", "members", "flips", "foreground_entropy", "volumes_ml"]


@pytest.fixture
def summary() -> TtaSummary:
    """Return a summary whose prediction is the organ in the first half."""
    organ = np.zeros((4, 2, 2), np.uint8)
    organ[:2] = 255
    agreement = Agreement(
        scales={"0.8": DICE, "1.0": {"organ": 1.0}},
        members={"seed_0": DICE},
        flips={"none": {"organ": 1.0}},
        foreground_entropy={"organ": 0.25},
        volumes_ml={"organ": 0.008},
    )
    uncertainty = np.zeros((3, 4, 2, 2), np.uint8)
    uncertainty[1] = 7
    return TtaSummary(np.stack([255 - organ, organ]), uncertainty, agreement)


def test_row_has_means_over_groups_and_structures(summary: TtaSummary) -> None:
    assert summary.row() == {
        "entropy": 0.25,
        "scale_dice": 0.75,
        "member_dice": 0.5,
        "flip_dice": 1.0,
        "volumes_ml": "organ=0.008",
    }


def test_scale_variance_is_the_second_channel(summary: TtaSummary) -> None:
    assert (summary.scale_variance == 7).all()


def test_with_snapshots_compares_with_the_mean_prediction(summary: TtaSummary) -> None:
    same = np.zeros((4, 2, 2), np.uint8)
    same[:2] = 1
    half = np.zeros((4, 2, 2), np.uint8)
    half[:1] = 1
    found = summary.with_snapshots([half, same], ORGAN)
    assert found.agreement.snapshots == {
        "1": {"organ": pytest.approx(2 / 3)},
        "2": {"organ": 1.0},
    }
    assert summary.with_snapshots([], ORGAN) is summary


def test_agreement_stores_snapshots_only_if_there_are_any(
    summary: TtaSummary, tmp_path: Path
) -> None:
    summary.save(tmp_path, 8)
    assert list(json.loads((tmp_path / AGREEMENT).read_text())) == KEYS
    label = np.zeros((4, 2, 2), np.uint8)
    summary.with_snapshots([label], ORGAN).save(tmp_path, 8)
    assert list(json.loads((tmp_path / AGREEMENT).read_text())) == [*KEYS, "snapshots"]


def test_load_names_what_is_missing(summary: TtaSummary, tmp_path: Path) -> None:
    summary.save(tmp_path, 8)
    (tmp_path / AGREEMENT).write_text("{}")
    with pytest.raises(HstfError, match=r"agreement\.json.*stage 'teacher'"):
        TtaSummary.load(tmp_path)
