"""Folders that cannot be written: a sentence and exit code 1, before any computation."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.report_files import fabricated
from support.stages import export
from support.tiny_model import tiny_experiment, write_scan

from hstf.cli import main
from hstf.config.load import config_text
from hstf.runtime.errors import HstfError
from hstf.runtime.files import make_folder, write_text

Freeze = Callable[[Path], None]


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return the message of a command that must fail without a traceback."""
    assert main([str(argument) for argument in arguments]) == 1
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    return printed.err


def test_make_folder_refuses_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "sub"):
        with pytest.raises(HstfError, match=r"could not be written \(.*rename it"):
            make_folder(folder)


def test_make_folder_refuses_a_read_only_folder(tmp_path: Path, freeze: Freeze) -> None:
    freeze(tmp_path)
    with pytest.raises(HstfError, match=r"could not be written \(.*or use another folder"):
        make_folder(tmp_path)
    with pytest.raises(HstfError, match=r"a\.txt: could not be written \(.*use another folder"):
        write_text(tmp_path / "a.txt", "a")


def test_make_folder_leaves_it_empty(tmp_path: Path) -> None:
    make_folder(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_report_describes_a_read_only_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], freeze: Freeze
) -> None:
    experiment = fabricated(tmp_path)
    experiment.write_all()
    folder = experiment.layout.report.parent
    folder.mkdir(exist_ok=True)
    (folder / "old.png").touch()
    freeze(folder)
    message = failure(capsys, "report", "--config", experiment.layout.config)
    assert f"hstf report: {folder}: could not be written (" in message


def test_export_describes_a_read_only_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], freeze: Freeze
) -> None:
    config = tiny_experiment(tmp_path)
    results = Path(config.output) / config.experiment
    write_text(tmp_path / "config.yaml", config_text(config))
    freeze(results)
    message = failure(capsys, "export", "--config", tmp_path / "config.yaml")
    assert f"hstf export: {results}" in message
    assert "could not be written (" in message


@pytest.mark.parametrize("place", ["read-only", "below a file"])
def test_predict_describes_a_folder_that_cannot_be_written_before_it_computes(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    freeze: Freeze,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    model = export(tiny_experiment(tmp_path))
    scan = write_scan(tmp_path / "scan.nii.gz")
    monkeypatch.setattr("hstf.method.inference.Predictor", None)
    output = tmp_path / "out"
    if place == "read-only":
        output.mkdir()
        freeze(output)
    else:
        output.touch()
        output /= "sub"
    options = ("--model", model, "--input", scan, "--output", output, "--device", "cpu")
    message = failure(capsys, "predict", *options)
    assert f"hstf predict: {output}: could not be written (" in message
