"""What the log of a job states."""

from pathlib import Path

from hstf.runtime.job_logs import failure, has_failed, last_count, log_lines, warnings_in
from hstf.runtime.progress import Progress

TRAINING = """\
round 1 seed_0: 10 labelled and 150 other cases, 500 steps on cpu; starts at step 0
round 1 seed_0: 100/500, 2.1/s, 190 s left loss 0.812
round 1 seed_0: 220/500, 2.05/s, 137 s left loss 0.640
"""
TRACEBACK = """\
Traceback (most recent call last):
  File "hstf/stages/plan/stage.py", line 31, in plan
    fingerprint = take_fingerprint(context)
ZeroDivisionError: division by zero
"""


def test_last_count_returns_step_rate_and_loss() -> None:
    count = last_count(TRAINING.splitlines())
    assert count is not None
    assert (count.title, count.done, count.total) == ("round 1 seed_0", 220, 500)
    assert (count.rate, count.note) == (2.05, "loss 0.640")


def test_last_count_reads_what_progress_writes() -> None:
    progress = Progress("predict", 8)
    for done in (0, 3, 8):
        progress.done = done
        count = last_count([progress._line("case_3: left")])
        assert count is not None
        assert (count.done, count.total, count.note) == (done, 8, "case_3: left")


def test_failure_is_the_message_of_the_command() -> None:
    lines = [*TRAINING.splitlines(), "hstf student: the loss is not finite", "  - case_7"]
    assert failure(lines) == ["hstf student: the loss is not finite", "  - case_7"]
    assert has_failed(lines)


def test_failure_leaves_out_what_torchrun_adds() -> None:
    lines = ["hstf student: out of memory", *TRACEBACK.splitlines()]
    assert failure(lines) == ["hstf student: out of memory"]


def test_failure_is_the_error_below_a_traceback() -> None:
    lines = failure(TRACEBACK.splitlines())
    assert lines[0] == "ZeroDivisionError: division by zero"
    assert "bug report" in lines[1]
    assert failure(TRACEBACK.splitlines(), with_traceback=True) == TRACEBACK.splitlines()


def test_failure_without_a_message_is_the_end_of_the_log() -> None:
    assert failure(TRAINING.splitlines())[-1].endswith("loss 0.640")
    assert not has_failed(TRAINING.splitlines())
    assert failure([]) == []


def test_failure_shortens_a_thousand_problems() -> None:
    lines = ["hstf check: 1000 errors", *(f"  - case_{number}" for number in range(1000))]
    assert len(failure(lines)) == 41
    assert "961 more lines" in failure(lines)[-1]


def test_log_lines_reads_only_the_end(tmp_path: Path) -> None:
    log = tmp_path / "long.log"
    log.write_text("".join(f"line {number}\n" for number in range(100_000)))
    lines = log_lines(log)
    assert lines[-1] == "line 99999"
    assert 1000 < len(lines) < 30_000
    assert log_lines(tmp_path / "nowhere.log") == []


def test_warnings_in_finds_lines_that_warn() -> None:
    lines = ["calibrate: warning: the warm-up finds 0%", "no problem", "  - warning: case_3"]
    assert warnings_in(lines) == ["calibrate: warning: the warm-up finds 0%", "- warning: case_3"]
