"""The page of predicted and measured Dice."""

import pytest
from support.audit_desk import Browser, label, nifti

from hstf.audit import feedback
from hstf.audit.desk import Desk


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "_known", {})


def test_feedback_follows_a_correction(desk: Desk) -> None:
    browser = Browser(desk, "AB")
    before = browser.get("/api/feedback").json()
    assert before["count"] == 0 and before["mean_predicted"] is None
    assert "nothing can be compared" in before["text"]
    assert browser.correct("good", nifti(label())).status_code == 200
    found = browser.get("/api/feedback").json()
    (case,) = found["cases"]
    row = browser.row("good")
    assert (case["case_id"], case["round"], case["reviewer"]) == ("good", 1, "AB")
    assert case["predicted"] == pytest.approx(row["predicted_dice"], abs=1e-4)
    assert (case["low"], case["high"]) == (row["low"], row["high"])
    assert 0 < case["measured"] < 1 and found["mean_measured"] == case["measured"]
    assert found["text"].startswith("Of 1 corrected case: predicted Dice")
    assert found["rank_correlation"] is None


def test_feedback_reads_volumes_only_if_something_has_changed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = Browser(desk, "AB")
    browser.correct("good", nifti(label()))
    first = browser.get("/api/feedback").json()
    monkeypatch.setattr(feedback, "feedback", None)
    assert browser.get("/api/feedback").json() == first
