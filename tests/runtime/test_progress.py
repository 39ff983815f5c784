"""Progress of long work in a log."""

import pytest

from hstf.runtime import progress
from hstf.runtime.progress import Progress


def test_progress_writes_a_line_after_ten_seconds_and_then_one_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Progress("round 1 seed_0", 200) as shown:
        for _ in range(200):
            clock[0] += 1.0
            shown.advance("loss 0.5")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "round 1 seed_0: 10/200",
        "round 1 seed_0: 70/200",
        "round 1 seed_0: 130/200",
        "round 1 seed_0: 190/200",
        "round 1 seed_0: 200/200",
    ]
    assert lines[0].endswith("1/s, 190 s left loss 0.5")
