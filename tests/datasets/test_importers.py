"""Imports of all layouts: the case sheet and the configuration are valid, and the workflow runs."""

import csv
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from support.import_files import (
    L,
    T,
    U,
    describe,
    imported,
    problems,
    run_import,
    splits,
)
from support.workspace import TINY, Workspace, withhold

from hstf.cli import main
from hstf.config.load import load_config
from hstf.config.merge import merge
from hstf.config.yaml_files import read_yaml
from hstf.datasets.phantom.layouts.registry import LAYOUTS
from hstf.experiment.cases import Case, Split, read_cases
from hstf.experiment.layout import Layout
from hstf.imaging.arrays import read_array
from hstf.runtime.files import read_csv

Phantoms = Callable[..., Path]

ORGANS = {
    "background": 0,
    "liver": 1,
    "spleen": 2,
    "kidney": 3,
    "lesion": 4,
}
HEART = {
    "background": 0,
    "right_ventricle": 1,
    "myocardium": 2,
    "left_ventricle": 3,
}
TUMOUR = {
    "background": 0,
    "necrosis": 1,
    "oedema": 2,
    "enhancing": 4,
}
TUMOUR_2023 = TUMOUR | {"enhancing": 3}
REGIONS = {
    "whole_tumour": ("necrosis", "oedema", "enhancing"),
    "tumour_core": ("necrosis", "enhancing"),
    "enhancing_tumour": ("enhancing",),
}
NUMBERED = {
    "background": 0,
    "class_1": 1,
    "class_2": 2,
    "class_3": 3,
    "class_4": 4,
}
MR = {"image": "mr"}
CT = {"image": "ct"}


@dataclass(frozen=True)
class Expected:
    """The expected result of an import."""

    options: str
    """Options of the import."""
    labels: dict[str, int]
    modalities: dict[str, str]
    cases: dict[Split, int] = field(default_factory=lambda: {L: 3, U: 2, T: 1})
    """Number of cases of each split."""
    folds: int = 3


EXPECTED = {
    "acdc": Expected(
        "--labelled 2",
        HEART,
        MR,
        {L: 4, U: 6, T: 2},
        folds=2,
    ),
    "brats": Expected(
        "--test 1",
        TUMOUR,
        dict.fromkeys(["flair", "t1", "t1ce", "t2"], "mr"),
    ),
    "brats2023": Expected(
        "--test 1",
        TUMOUR_2023,
        dict.fromkeys(["t2f", "t1n", "t1c", "t2w"], "mr"),
    ),
    "lits": Expected(
        "--labelled 2 --test 1",
        {"background": 0, "liver": 1, "lesion": 2},
        CT,
        {L: 2, U: 3, T: 1},
        folds=2,
    ),
    "msd": Expected("--test 1", ORGANS, MR),
    "nnunet": Expected("", ORGANS, MR),
    "folder": Expected("--test 1", NUMBERED, MR),
    "bids": Expected("--labelled 3 --test 1", ORGANS, MR),
}


def kind_of(layout: str) -> str:
    """Return the kind of ``hstf import`` for a layout."""
    return LAYOUTS[layout].kind or layout


def test_expected_has_all_layouts() -> None:
    assert EXPECTED.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("layout", EXPECTED)
def test_import_writes_a_valid_experiment(
    layout: str,
    phantoms: Phantoms,
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = EXPECTED[layout]
    config = imported(kind_of(layout), phantoms(layout), *expected.options.split())
    assert config.labels == expected.labels
    assert config.modalities == expected.modalities
    assert config.regions == (REGIONS if layout.startswith("brats") else {})
    assert splits(config) == expected.cases
    assert problems(config) == []
    patients = {case.group for case in read_cases(config).cases}
    assert len(patients) == 6
    output = capsys.readouterr().out
    assert f"{expected.cases[L]} cases of" in output
    assert "snakemake --cores 8 check --configfile config/x.yaml" in output


@pytest.mark.workflow
@pytest.mark.parametrize("layout", EXPECTED)
def test_import_writes_an_experiment_that_can_run(
    layout: str,
    phantoms: Phantoms,
    workplace: Path,
) -> None:
    expected = EXPECTED[layout]
    imported(kind_of(layout), phantoms(layout), *expected.options.split())
    config = load_config(Path("config/x.yaml"))
    jobs = Workspace(workplace, "config/x.yaml").jobs()
    assert jobs["warmup_member"] == expected.folds + config.warmup.seeds
    assert jobs["student_member"] == config.rounds * config.student.members
    assert jobs["check"] == 1


QUICK = ("acdc", "brats")
"""Layouts that run by default: thick slices with two scans of a patient, and four modalities."""
SECTIONS = (
    "device",
    "plan",
    "network",
    "warmup",
    "monitor",
    "refine",
    "student",
    "evaluate",
)
# One view of each scan is enough to test that all files are read and written.
ROUND = {
    "rounds": 1,
    "track": {"enabled": False},
    **{name: TINY[name] for name in SECTIONS},
    "teacher": {"scales": [1.0], "flip_axes": [], "overlap": 0.0},
    "predict": {"flip_axes": [], "overlap": 0.0},
}


def layouts_to_run() -> list[object]:
    """Return all layouts; most are skipped unless ``HSTF_ALL_LAYOUTS`` is in the environment."""
    parameters = []
    for layout in EXPECTED:
        skipped = layout not in QUICK and "HSTF_ALL_LAYOUTS" not in os.environ
        mark = pytest.mark.skipif(skipped, reason="half a minute: set HSTF_ALL_LAYOUTS=1")
        parameters.append(pytest.param(layout, marks=mark))
    return parameters


@pytest.mark.workflow
@pytest.mark.parametrize("layout", layouts_to_run())
def test_workflow_runs_a_round_of_an_imported_data_set(layout: str, workplace: Path) -> None:
    """The workflow runs from the import to the report and never opens a withheld file.

    Labelled cases have scribbles if the layout has an ignore value.
    """
    expected = EXPECTED[layout]
    ignore = LAYOUTS[layout].ignore
    options = ["--cases", "6", "--labelled", "3", "--test", "1", "--size", "24", "24", "12"]
    if ignore:
        options.append("--scribbles")
    assert main(["phantom", "--layout", layout, "--output", "data", *options]) == 0
    imported(kind_of(layout), Path("data"), *expected.options.split())
    settings = Path("config/x.yaml")
    content = merge(read_yaml(settings), ROUND)
    settings.write_text(yaml.safe_dump(content))
    withhold(workplace, Path("config/x/cases.csv").absolute())
    workspace = Workspace(workplace, str(settings))
    workspace.run()

    config = load_config(settings)
    results = Layout.of(config)
    sheet = read_cases(config)
    for case in sheet.of(T):
        prediction = results.evaluation_prediction(1, case.case_id)
        check_prediction(prediction, case, set(expected.labels.values()))
    scored = {row["class"] for row in read_csv(results.evaluation_cases(1))}
    assert scored == set(config.structures)
    with results.labels_table(1).open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == expected.cases[U]
    for case in sheet.of(L):
        label = read_array(results.preprocessed / case.case_id / "label.b2nd")
        has_ignored = bool(np.any(label == 255))
        assert has_ignored is bool(ignore)
    assert results.report.is_file()
    assert (results.export / "model.json").is_file()
    lines = Path("opened.txt").read_text().splitlines()
    stages = {line.split()[0] for line in lines}
    assert stages == {"check", "evaluate"}
    assert workspace.jobs() == {}


def check_prediction(path: Path, case: Case, values: set[int]) -> None:
    """Check that a prediction has the geometry of the reference and only known values."""
    assert case.reference is not None
    predicted = nib.load(path)
    reference = nib.load(case.reference)
    np.testing.assert_allclose(predicted.affine, reference.affine, atol=1e-4)
    assert predicted.shape == reference.shape
    assert set(np.unique(predicted.dataobj)) <= values


def test_import_requires_extract_for_4d_images(
    phantoms: Phantoms,
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = phantoms("msd", "--modalities", "FLAIR", "T1w")
    assert run_import("msd", folder) == 1
    assert "Add --extract FOLDER" in capsys.readouterr().err
    assert not Path("config").exists()


def test_extract_writes_each_channel_unchanged(
    phantoms: Phantoms,
    workplace: Path,
) -> None:
    folder = phantoms("msd", "--modalities", "FLAIR", "T1w")
    config = imported("msd", folder, "--extract", "channels")
    assert list(config.modalities) == ["flair", "t1w"]
    assert problems(config) == []
    source = nib.load(folder / "imagesTr" / "phantom_001.nii.gz")
    voxels = np.asanyarray(source.dataobj)
    for channel, name in enumerate(config.modalities):
        written = nib.load(f"channels/phantom_001_{name}.nii.gz")
        np.testing.assert_array_equal(np.asanyarray(written.dataobj), voxels[..., channel])
        np.testing.assert_array_equal(written.affine, source.affine)
        assert written.get_data_dtype() == source.get_data_dtype()


def test_import_brats_reads_task_1_of_the_decathlon(
    phantoms: Phantoms,
    workplace: Path,
) -> None:
    data = workplace / "data"
    modalities = ["FLAIR", "T1w", "t1gd", "T2w"]
    shutil.copytree(phantoms("msd", "--modalities", *modalities), data)
    labels = {
        "0": "background",
        "1": "edema",
        "2": "non-enhancing",
        "3": "enhancing",
    }
    describe(labels=labels)(data)
    config = imported("brats", Path("data"), "--extract", "channels")
    assert list(config.modalities) == ["flair", "t1w", "t1gd", "t2w"]
    assert config.structures == {
        "whole_tumour": (1, 2, 3),
        "tumour_core": (2, 3),
        "enhancing_tumour": (3,),
    }
    assert config.lesions == ("enhancing_tumour",)


def test_import_reads_labels_of_labelled_cases_only(
    phantoms: Phantoms,
    workplace: Path,
) -> None:
    """All other labels have invalid voxels, which the import must not notice."""
    folder = workplace / "data"
    shutil.copytree(phantoms("folder"), folder)
    Path("first").write_text("case_000\ncase_001\n")
    for path in sorted((folder / "labels").iterdir())[2:]:
        overwrite_voxels(path, 99)
    config = imported("folder", folder, "--labelled", "first", "--test", "1")
    assert config.labels.keys() <= NUMBERED.keys()
    assert any("99" in problem for problem in problems(config))


def overwrite_voxels(path: Path, value: int) -> None:
    """Replace a compressed label by an uncompressed one that has ``value`` everywhere."""
    header_bytes = 352
    plain = path.with_suffix("")
    nib.save(nib.load(path), plain)
    path.unlink()
    content = plain.read_bytes()
    voxels = bytes([value]) * (len(content) - header_bytes)
    plain.write_bytes(content[:header_bytes] + voxels)


def test_import_draws_independently_of_the_labels(
    phantoms: Phantoms,
    workplace: Path,
) -> None:
    folder = workplace / "data"
    shutil.copytree(phantoms("folder"), folder)
    options = ["--labelled", "2", "--test", "1", "--labels", "a=1", "b=2", "c=3", "d=4"]
    imported("folder", folder, *options)
    first = Path("config/x/cases.csv").read_text()
    for path in (folder / "labels").iterdir():
        label = nib.load(path)
        empty = np.zeros(label.shape, np.uint8)
        nib.save(nib.Nifti1Image(empty, label.affine), path)
    imported("folder", folder, *options, "--force")
    assert Path("config/x/cases.csv").read_text() == first
