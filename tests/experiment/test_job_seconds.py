"""The time of jobs in benchmark files."""

from pathlib import Path

import pytest

from hstf.experiment.job_seconds import Compute, job_seconds


@pytest.mark.parametrize("text", ["", "s\tcpu_time\n"])
def test_job_seconds_of_a_file_without_a_row_are_zero(tmp_path: Path, text: str) -> None:
    file = tmp_path / "job.tsv"
    file.write_text(text)
    assert job_seconds(file) == Compute(0.0, 0.0)


def test_job_seconds_adds_the_rows(tmp_path: Path) -> None:
    file = tmp_path / "job.tsv"
    file.write_text("s\tcpu_time\n2.5\tNA\n1.5\t3\n")
    assert job_seconds(file) == Compute(cpu=3.0, wall=4.0)
