"""Case sheets and configurations that imports write."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from support.import_files import imported, problems
from support.workspace import ROOT

from hstf.cli import main
from hstf.config.experiment import Modality
from hstf.config.load import load_config
from hstf.runtime.files import read_csv

Phantoms = Callable[..., Path]


def test_import_of_thick_slices_rotates_within_the_slices(
    phantoms: Phantoms,
    workplace: Path,
) -> None:
    config = imported("acdc", phantoms("acdc"))
    assert config.student.augmentation.rotation_degrees == (0, 0, 15)
    assert config.warmup.augmentation.rotation_degrees == (0, 0, 15)


def test_write_sheet_has_absolute_paths_of_data_elsewhere(
    phantoms: Phantoms,
    workplace: Path,
) -> None:
    imported("acdc", phantoms("acdc"))
    rows = read_csv(Path("config/x/cases.csv"))
    assert Path(rows[0]["image"]).is_absolute()


def test_write_sheet_has_relative_paths_of_data_below_the_working_directory(
    phantoms: Phantoms,
    workplace: Path,
) -> None:
    # Often the data are a link below the working directory.
    Path("data").symlink_to(phantoms("acdc"))
    config = imported("acdc", Path("data"))
    rows = read_csv(Path("config/x/cases.csv"))
    assert rows[0]["image"].startswith("../../data/training/patient")
    assert problems(config) == []


@pytest.mark.parametrize("layout", ["brats", "lits"])
def test_import_with_sheet_suits_the_configuration_of_the_repository(
    layout: str,
    phantoms: Phantoms,
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = f"config/{layout}.yaml"
    ready = ROOT / output
    Path("config").mkdir()
    for path in ready.parent.iterdir():
        if path.is_file():
            shutil.copy(path, "config")
    sheet = load_config(Path(output)).cases
    assert f"--output {output} --sheet {sheet}" in ready.read_text()
    options = ["--output", output, "--sheet", sheet, "--test", "1"]
    assert main(["import", layout, str(phantoms(layout)), *options]) == 0
    assert problems(load_config(Path(output))) == []
    assert Path(output).read_text() == ready.read_text()
    assert f"--config cases={sheet}" in capsys.readouterr().out


def test_import_with_sheet_refuses_the_configuration_of_another_data_set(
    phantoms: Phantoms,
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ready = ROOT / "config" / "brats.yaml"
    options = ["--output", str(ready), "--sheet", "s.csv"]
    assert main(["import", "brats", str(phantoms("brats2023")), *options]) == 1
    message = capsys.readouterr().err
    assert "modality flair is missing" in message
    assert "label value 3 (enhancing) is not defined" in message
    assert not Path("s.csv").exists()


@pytest.mark.parametrize("name", ["001", "null"])
def test_import_names_the_experiment_like_the_file(
    name: str,
    phantoms: Phantoms,
    workplace: Path,
) -> None:
    output = f"config/{name}.yaml"
    assert main(["import", "acdc", str(phantoms("acdc")), "--output", output]) == 0
    assert load_config(Path(output)).experiment == name


def test_import_help_names_all_modalities(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["import", "--help"])
    help_text = " ".join(capsys.readouterr().out.split())
    *first, last = get_args(Modality)
    assert f"{', '.join(first)} or {last}" in help_text
