"""What a run of Snakemake shows on the screen."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from hstf.runtime.screen import Screen, ScreenFormatter, resource_table

COMMAND = "hstf check --config config.yaml > check.log 2>&1"


def record(message: str | None, event: LogEvent | None = None, **values: Any) -> logging.LogRecord:
    made = logging.LogRecord("snakemake", logging.INFO, "", 0, message, None, None)
    made.__dict__.update(values)
    if event is not None:
        made.event = event
    return made


def job_info(rule: str = "check", number: int = 1, log: str = "check.log") -> logging.LogRecord:
    return record(
        "",
        LogEvent.JOB_INFO,
        jobid=number,
        rule_name=rule,
        rule_msg=f"message of {rule}",
        log=[log],
        threads=2,
        resources={"mem_mb": 8000, "runtime": 240, "gpu": 1, "tmpdir": "/tmp"},
    )


def job_error(log: str, rule: str = "check", number: int = 1) -> logging.LogRecord:
    return record(
        "",
        LogEvent.JOB_ERROR,
        jobid=number,
        rule_name=rule,
        rule_msg=None,
        log=[log],
        shellcmd=COMMAND,
        input=[f"scan_{number}.nii.gz" for number in range(26)],
        output=["check.csv"],
        indent=False,
    )


def shown(screen: Screen, *records: logging.LogRecord) -> str:
    formatter = ScreenFormatter(screen, quiet=(), shows_failed_logs=True)
    return "\n".join(formatter.format(one) for one in records if screen.filter(one))


def test_screen_shows_a_line_for_a_job_that_starts_and_one_that_is_done(tmp_path: Path) -> None:
    log = tmp_path / "check.log"
    log.write_text("check: 1/1, 0.6/s, 0 s left\n0 errors and 1 warnings in 9 cases.\nTable: x.csv")
    finished = record("Finished jobid: 1", LogEvent.JOB_FINISHED, job_id=1)
    progress = record(None, LogEvent.PROGRESS, done=1, total=22)
    text = shown(Screen(), job_info(log=str(log)), finished, progress)
    lines = text.splitlines()
    assert lines[0].endswith(f"start  message of check (log: {log})")
    assert lines[1].endswith("done   message of check, 0 s (1 of 22 jobs)")
    assert lines[2:] == ["    0 errors and 1 warnings in 9 cases.", "    Table: x.csv"]


def test_screen_shows_the_warnings_of_a_training(tmp_path: Path) -> None:
    log = tmp_path / "student.log"
    log.write_text("round 1: warning: few labels\nround 1: 5/5, 2/s, 0 s left loss 1\n")
    finished = record("", LogEvent.JOB_FINISHED, job_id=1)
    progress = record(None, LogEvent.PROGRESS, done=1, total=2)
    text = shown(Screen(), job_info("student_member", log=str(log)), finished, progress)
    assert text.endswith("(1 of 2 jobs)\n    round 1: warning: few labels")


def test_screen_hides_banner_and_reasons() -> None:
    screen = Screen()
    hidden = [
        record("Workflow has started!", LogEvent.WORKFLOW_STARTED),
        record("Select jobs to execute..."),
        record("Provided cores: 2", LogEvent.RESOURCES_INFO, cores=2),
        record("Complete log(s): x.log"),
    ]
    assert not any(screen.filter(one) for one in hidden)
    assert screen.filter(record("Nothing to be done"))
    assert screen.filter(record("Trying to restart job 3."))


def test_screen_shows_the_message_of_a_failed_job(tmp_path: Path) -> None:
    log = tmp_path / "check.log"
    log.write_text("check: 3/3, 1/s, 0 s left\nhstf check: 1 errors\ncase_003\n  - error: NaN\n")
    exit_text = f"RuleException:\nCalledProcessError in file x:\nCommand '{COMMAND}' returned 1."
    failed = record(exit_text, LogEvent.ERROR)
    text = shown(Screen(), job_info(log=str(log)), failed, job_error(str(log)))
    assert "Error in rule check (message of check):\n    hstf check: 1 errors\n" in text
    assert "      - error: NaN\n" in text
    assert text.splitlines()[-2:] == [
        f"    Log: {log}",
        "    Command: hstf check --config config.yaml",
    ]
    assert "CalledProcessError" not in text
    assert "scan_0" not in text


@pytest.mark.parametrize(
    "words", ["returned non-zero exit status 137", "died with <Signals.SIGKILL"]
)
def test_screen_explains_a_job_that_was_killed(words: str, tmp_path: Path) -> None:
    log = tmp_path / "check.log"
    log.write_text("")
    failed = record(f"RuleException:\nCalledProcessError: '{COMMAND}' {words}", LogEvent.ERROR)
    text = shown(Screen(), job_info(log=str(log)), failed, job_error(str(log)))
    assert "most likely because the machine ran out of memory" in text


def test_screen_does_not_take_sigterm_for_out_of_memory(tmp_path: Path) -> None:
    log = tmp_path / "check.log"
    log.write_text("")
    exit_text = f"CalledProcessError: '{COMMAND}' died with <Signals.SIGTERM: 15>"
    failed = record(f"RuleException:\n{exit_text}", LogEvent.ERROR)
    text = shown(Screen(), job_info(log=str(log)), failed, job_error(str(log)))
    assert "It was ended from outside (SIGTERM)" in text
    assert "memory" not in text


def test_screen_ends_with_the_way_on_after_an_interruption(tmp_path: Path) -> None:
    """A job that the user has stopped is no failure."""
    log = tmp_path / "check.log"
    log.write_text("hstf check: interrupted\n")
    screen = Screen()
    stop = record("Terminating processes on user request, this might take some time.", None)
    shown(screen, job_info(log=str(log)), stop, job_error(str(log)))
    last = record("WorkflowError:\nAt least one job did not complete successfully.", LogEvent.ERROR)
    assert shown(screen, last) == "Stopped. Start the same command again: it continues."


def test_screen_ends_with_the_way_on_after_sigterm() -> None:
    """Snakemake reports that a job did not complete, although none has failed."""
    stop = record("Will exit after finishing currently running jobs (scheduler).")
    last = record("WorkflowError:\nAt least one job did not complete successfully.", LogEvent.ERROR)
    text = shown(Screen(), job_info(), stop, last)
    assert text.endswith("Stopped. Start the same command again: it continues.")
    assert "did not complete" not in text


def test_screen_names_failures_before_an_interruption(tmp_path: Path) -> None:
    log = tmp_path / "check.log"
    log.write_text("hstf check: problem\n")
    screen = Screen()
    shown(screen, job_info(log=str(log)), job_error(str(log)))
    shown(screen, record("Terminating processes on user request, this might take some time.", None))
    last = record("WorkflowError:\nAt least one job did not complete successfully.", LogEvent.ERROR)
    assert shown(screen, last).startswith("1 job failed")


def test_screen_ends_with_all_failed_jobs(tmp_path: Path) -> None:
    screen = Screen()
    for number, rule in enumerate(("teacher_shard", "warmup_member")):
        log = tmp_path / f"{rule}.log"
        log.write_text(f"hstf {rule.partition('_')[0]}: problem {number}\n")
        shown(screen, job_info(rule, number, str(log)), job_error(str(log), rule, number))
    last = record("WorkflowError:\nAt least one job did not complete successfully.", LogEvent.ERROR)
    text = shown(screen, last)
    assert text.startswith("2 jobs failed:\n  message of teacher_shard (rule teacher_shard)\n")
    assert "hstf teacher: problem 0" in text
    assert "hstf warmup: problem 1" in text
    assert text.endswith("start the same command again: it continues.")


def test_dry_run_shows_why_a_job_runs(tmp_path: Path) -> None:
    key = tmp_path / "keys" / "check.json"
    key.parent.mkdir()
    key.write_text('{"runs_because": ["parameters changed", "plan runs"]}')
    job = job_info()
    job.__dict__["input"] = ["scan.nii.gz", str(key)]
    text = shown(Screen(is_dry_run=True), job, record("Reasons:\n    input files updated"))
    assert text == "message of check (rule check): parameters changed, plan runs"


def test_dry_run_ends_with_what_each_job_asks_for() -> None:
    screen = Screen(is_dry_run=True)
    for number in range(3):
        screen.filter(job_info("teacher_shard", number))
    text = shown(screen, record("This was a dry-run (flag -n). The order of jobs …"))
    lines = text.splitlines()
    assert lines[1].split() == ["rule", "jobs", "threads", "memory", "(MB)", "minutes", "GPUs"]
    assert lines[3].split() == ["teacher_shard", "3", "2", "8000", "240", "1"]


def test_resource_table_is_empty_without_jobs() -> None:
    assert resource_table([]) == ""


def test_screen_shows_step_loss_and_time_left_of_running_jobs(tmp_path: Path) -> None:
    screen = Screen()
    logs = [tmp_path / f"{number}.log" for number in range(8)]
    for number, log in enumerate(logs):
        screen.filter(job_info("student_member", number, str(log)))
        log.write_text(f"round 1 seed_0: {number}/500, 2/s, 99 s left loss 0.5{number}\n")
    os.utime(logs[1], (0, 0))  # of an earlier run: this job waits on a cluster
    screen.filter(record("", LogEvent.JOB_FINISHED, job_id=0))
    lines = screen.progress()
    assert lines[0].endswith("message of student_member: 2/500, loss 0.52, 4 min left")
    assert lines[-1].strip() == "and 1 more"
    assert len(lines) == 6


def test_screen_shortens_the_log_of_the_check_and_keeps_its_end(tmp_path: Path) -> None:
    log = tmp_path / "check.log"
    warnings = "".join(f"case_{number:03d}\n" for number in range(100))
    log.write_text(f"0 errors and 100 warnings\n{warnings}Table: x.csv\n")
    screen = Screen()
    finished = record("", LogEvent.JOB_FINISHED, job_id=1)
    progress = record(None, LogEvent.PROGRESS, done=1, total=2)
    lines = shown(screen, job_info(log=str(log)), finished, progress).splitlines()
    assert lines[-2:] == [f"    … 82 more lines in {log}", "    Table: x.csv"]
    assert len(lines) == 2 + 21


def test_screen_shows_messages_that_it_does_not_know() -> None:
    """Another version of Snakemake may have other messages."""
    assert Screen().filter(record("something", LogEvent.JOB_INFO))
    assert shown(Screen(), record("something", LogEvent.PROGRESS)) == "something"


def test_screen_shows_where_the_results_are_if_nothing_is_to_be_done() -> None:
    screen = Screen()
    screen.when_up_to_date = "hstf report --show"
    text = shown(screen, record("Nothing to be done (all requested files are present)."))
    assert text.splitlines()[-1] == "hstf report --show"
