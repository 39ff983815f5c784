"""``predict.csv`` of several runs into one folder: rows of other runs stay, own rows win."""

import multiprocessing
import time
from pathlib import Path
from threading import Thread

import pytest

from hstf.commands.predict_input import TABLE, Scan, ScansFound
from hstf.commands.predict_report import LOCK, Report
from hstf.datasets.importers.walk import Note
from hstf.experiment.product_tables import PREDICT
from hstf.runtime.errors import HstfError
from hstf.runtime.locks import exclusive

MODEL = "a" * 64
"""SHA-256 of the model."""
WRITES = 4
"""Number of scans of each process. A process that waits for the lock waits half a second."""


def rows_of(output: Path) -> list[tuple[str, str]]:
    """Return the scan of each row, and what was found."""
    return sorted((row["scan"], row["found"]) for row in PREDICT.records(output / TABLE))


def segment(report: Report, name: str) -> None:
    """Report that a scan was segmented, and write the table."""
    report.segmented(Scan(f"{name}.nii.gz", (report.source / f"{name}.nii.gz",)), "")
    report.write()


def test_runs_that_alternate_keep_the_rows_of_each_other(tmp_path: Path) -> None:
    first = Report.open(tmp_path, tmp_path / "first", MODEL)
    second = Report.open(tmp_path, tmp_path / "second", MODEL)
    segment(first, "a")
    segment(second, "c")
    segment(first, "b")
    assert [name for name, _ in rows_of(tmp_path)] == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    segment(second, "d")
    assert len(rows_of(tmp_path)) == 4


def test_row_of_the_last_writer_wins(tmp_path: Path) -> None:
    first = Report.open(tmp_path, tmp_path / "first", MODEL)
    second = Report.open(tmp_path, tmp_path / "second", MODEL)
    segment(first, "a\rb")
    second.fail(Scan("a\rb.nii.gz", (second.source / "a\rb.nii.gz",)), "out of memory")
    second.write()
    assert rows_of(tmp_path) == [("a b.nii.gz", "out of memory")]
    first.write()
    first.write()
    assert rows_of(tmp_path) == [("a b.nii.gz", "valid")]


def test_row_of_the_same_segmentation_is_replaced(tmp_path: Path) -> None:
    """A scan in another format has another name, and the same segmentation."""
    first = Report.open(tmp_path, tmp_path, MODEL)
    first.segmented(Scan("a.nii.gz", (tmp_path / "a.mha",)), "")
    first.segmented(Scan("p_t1.nii.gz", (tmp_path / "p_t1.nii.gz",)), "")
    first.write()
    second = Report.open(tmp_path, tmp_path, MODEL)
    segment(second, "a")
    second.segmented(Scan("p.nii.gz", (tmp_path / "p_t1.nii.gz", tmp_path / "p_t2.nii.gz")), "")
    second.write()
    rows = [(row["scan"], row["segmentation"]) for row in PREDICT.records(tmp_path / TABLE)]
    assert sorted(rows) == [
        ("a.nii.gz", "a.nii.gz"),
        ("p_t1.nii.gz", "p.nii.gz"),
        ("p_t1.nii.gz", "p_t1.nii.gz"),
    ]


def test_rows_about_no_scan_are_those_of_runs_at_the_same_time(tmp_path: Path) -> None:
    earlier = Report.open(tmp_path, tmp_path, MODEL)
    earlier.leave_out(ScansFound(left_out=[Note("old.pdf", "no scan")]))
    earlier.write()
    reports = [Report.open(tmp_path, tmp_path / name, MODEL) for name in "ab"]
    for report, name in zip(reports, "ab", strict=True):
        notes = [Note("both.pdf", "no scan"), Note(f"{name}.pdf", f"no\rscan {name}")]
        report.leave_out(ScansFound(left_out=notes))
    for report in reports * 2:
        report.write()
    assert rows_of(tmp_path) == [("", "no scan"), ("", "no scan a"), ("", "no scan b")]


def write_scans(output: Path, source: str) -> None:
    """Segment some scans, as a process of its own."""
    report = Report.open(output, output / source, MODEL)
    for number in range(WRITES):
        segment(report, f"{source}{number}")


def test_processes_keep_the_rows_of_each_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=write_scans, args=(tmp_path, name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    expected = [f"{source}{number}.nii.gz" for source in "ab" for number in range(WRITES)]
    assert [name for name, _ in rows_of(tmp_path)] == expected


def test_table_is_written_under_its_lock(tmp_path: Path) -> None:
    report = Report.open(tmp_path, tmp_path, MODEL)
    thread = Thread(target=segment, args=(report, "a"))
    with exclusive(tmp_path / LOCK, "other run"):
        thread.start()
        time.sleep(0.2)
        assert not (tmp_path / TABLE).exists()
    thread.join(60)
    assert rows_of(tmp_path) == [("a.nii.gz", "valid")]


def test_other_file_is_not_replaced(tmp_path: Path) -> None:
    """A person may save another table under this name during a run."""
    report = Report.open(tmp_path, tmp_path, MODEL)
    (tmp_path / TABLE).write_text("my,notes\n1,2\n")
    with pytest.raises(HstfError, match="is not a table of hstf predict"):
        segment(report, "a")
    assert (tmp_path / TABLE).read_text().startswith("my,notes")
