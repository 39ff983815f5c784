"""Importers: every layout becomes a sheet and a configuration that check passes; broken folders become sentences."""

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from support.import_files import L, T, U, describe, imported, problems, splits
from support.workspace import TINY, Workspace, withhold

from hstf.cli import main
from hstf.config.load import load_config
from hstf.config.merge import merge
from hstf.config.yaml_files import read_yaml
from hstf.datasets.phantom.layouts import LAYOUTS
from hstf.experiment.cases import read_cases
from hstf.experiment.layout import Layout
from hstf.imaging.arrays import read_array
from hstf.runtime.files import read_csv

ORGANS = {"background": 0, "liver": 1, "spleen": 2, "kidney": 3, "lesion": 4}
HEART = {"background": 0, "right_ventricle": 1, "myocardium": 2, "left_ventricle": 3}
TUMOUR = {"background": 0, "necrosis": 1, "oedema": 2, "enhancing": 4}
REGIONS = {
    "whole_tumour": ("necrosis", "oedema", "enhancing"),
    "tumour_core": ("necrosis", "enhancing"),
    "enhancing_tumour": ("enhancing",),
}
NUMBERED = {"background": 0, "class_1": 1, "class_2": 2, "class_3": 3, "class_4": 4}
MR, CT = {"image": "mr"}, {"image": "ct"}
EXPECTED = {
    "acdc": (["--labelled", "2"], HEART, MR, {L: 4, U: 6, T: 2}),
    "brats": (
        ["--test", "1"],
        TUMOUR,
        dict.fromkeys(["flair", "t1", "t1ce", "t2"], "mr"),
        {L: 3, U: 2, T: 1},
    ),
    "brats2023": (
        ["--test", "1"],
        TUMOUR | {"enhancing": 3},
        dict.fromkeys(["t2f", "t1n", "t1c", "t2w"], "mr"),
        {L: 3, U: 2, T: 1},
    ),
    "lits": (
        ["--labelled", "2", "--test", "1"],
        {"background": 0, "liver": 1, "lesion": 2},
        CT,
        {L: 2, U: 3, T: 1},
    ),
    "msd": (["--test", "1"], ORGANS, MR, {L: 3, U: 2, T: 1}),
    "nnunet": ([], ORGANS, MR, {L: 3, U: 2, T: 1}),
    "folder": (["--test", "1"], NUMBERED, MR, {L: 3, U: 2, T: 1}),
    "bids": (["--labelled", "3", "--test", "1"], ORGANS, MR, {L: 3, U: 2, T: 1}),
}


def test_every_layout_is_expected() -> None:
    assert EXPECTED.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("layout", EXPECTED)
def test_a_layout_becomes_a_sound_experiment(
    layout: str, phantoms: Callable[..., Path], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, labels, modalities, counts = EXPECTED[layout]
    config = imported(LAYOUTS[layout].kind or layout, phantoms(layout), *options)
    assert (config.labels, config.modalities) == (labels, modalities)
    assert config.regions == (REGIONS if layout.startswith("brats") else {})
    assert splits(config) == counts
    assert problems(config) == []
    patients = {case.group for case in read_cases(config).cases}
    assert len(patients) == 6
    shown = capsys.readouterr().out
    assert (
        f"{counts[L]} cases of" in shown
        and "snakemake --cores 8 check --configfile config/x.yaml" in shown
    )


@pytest.mark.workflow
@pytest.mark.parametrize("layout", EXPECTED)
def test_a_layout_can_be_run(layout: str, phantoms: Callable[..., Path], workplace: Path) -> None:
    options = EXPECTED[layout][0]
    imported(LAYOUTS[layout].kind or layout, phantoms(layout), *options)
    jobs = Workspace(workplace, "config/x.yaml").jobs()
    assert jobs["warmup_member"] == 2 + ("--labelled" not in options or layout == "bids")
    assert jobs["student_member"] == 2 and jobs["check"] == 1


QUICK = ("acdc", "brats")
"""Thick slices and two scans a patient; four modalities. The others take as long, so they run when asked for."""
ROUND = {"rounds": 1, "track": {"enabled": False}} | {
    name: TINY[name]
    for name in ("device", "plan", "network", "warmup", "refine", "student", "evaluate")
}
ROUND |= {
    "teacher": {"scales": [1.0], "flip_axes": [], "overlap": 0.0},
    "predict": {"flip_axes": [], "overlap": 0.0},
}
"""What is tested is that files come through, so that one look at a scan is enough."""


def when_asked(layout: str) -> object:
    """``layout`` as a parameter; unless quick, it is skipped without ``HSTF_ALL_LAYOUTS`` in the environment."""
    wanted = layout in QUICK or "HSTF_ALL_LAYOUTS" in os.environ
    return pytest.param(
        layout, marks=pytest.mark.skipif(not wanted, reason="half a minute: set HSTF_ALL_LAYOUTS=1")
    )


@pytest.mark.workflow
@pytest.mark.parametrize("layout", [when_asked(layout) for layout in EXPECTED])
def test_a_layout_goes_through_a_round(layout: str, workplace: Path) -> None:
    """From the phantom to the report, no withheld file opened on the way; scribbled where the layout can be."""
    options, labels, _, counts = EXPECTED[layout]
    made = ["--cases", "6", "--labelled", "3", "--test", "1", "--size", "24", "24", "12"]
    made += ["--scribbles"] if LAYOUTS[layout].ignore else []
    assert main(["phantom", "--layout", layout, "--output", "data", *made]) == 0
    imported(LAYOUTS[layout].kind or layout, Path("data"), *options)
    settings = Path("config/x.yaml")
    settings.write_text(yaml.safe_dump(merge(read_yaml(settings), ROUND)))
    withhold(workplace, Path("config/x/cases.csv").absolute())
    workspace = Workspace(workplace, str(settings))
    workspace.run()

    config = load_config(settings)
    results, sheet = Layout.of(config), read_cases(config)
    for case in sheet.of(T):
        assert case.reference is not None
        predicted, reference = (
            nib.load(path)
            for path in (results.evaluation_prediction(1, case.case_id), case.reference)
        )
        np.testing.assert_allclose(predicted.affine, reference.affine, atol=1e-4)
        assert predicted.shape == reference.shape
        assert set(np.unique(predicted.dataobj)) <= set(labels.values())
    assert {row["class"] for row in read_csv(results.evaluation_cases(1))} == set(config.structures)
    with results.labels_table(1).open() as stream:
        assert len(list(csv.DictReader(stream))) == counts[U]
    for case in sheet.of(L):
        ignored = np.count_nonzero(
            read_array(results.preprocessed / case.case_id / "label.b2nd") == 255
        )
        assert bool(ignored) is bool(LAYOUTS[layout].ignore)
    assert results.report.is_file() and (results.export / "model.json").is_file()
    assert {line.split()[0] for line in Path("opened.txt").read_text().splitlines()} == {
        "check",
        "evaluate",
    }
    assert workspace.jobs() == {}


def test_4d_channels_become_files_on_request(
    phantoms: Callable[..., Path], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = phantoms("msd", "--modalities", "FLAIR", "T1w")
    assert main(["import", "msd", str(folder), "--output", "config/x.yaml"]) == 1
    assert "Add --extract FOLDER" in capsys.readouterr().err
    assert not Path("config").exists()
    config = imported("msd", folder, "--extract", "channels")
    assert list(config.modalities) == ["flair", "t1w"]
    assert problems(config) == []
    source = nib.load(folder / "imagesTr" / "phantom_001.nii.gz")
    for channel, name in enumerate(config.modalities):
        written = nib.load(f"channels/phantom_001_{name}.nii.gz")
        np.testing.assert_array_equal(
            np.asanyarray(written.dataobj), np.asanyarray(source.dataobj)[..., channel]
        )
        np.testing.assert_array_equal(written.affine, source.affine)
        assert written.get_data_dtype() == source.get_data_dtype()
    before = {path: path.stat().st_mtime_ns for path in Path("channels").iterdir()}
    next(iter(before)).unlink()
    imported("msd", folder, "--extract", "channels", "--force")
    after = {path: path.stat().st_mtime_ns for path in Path("channels").iterdir()}
    assert sum(after[path] != before[path] for path in before) == 1


def test_task_1_of_the_decathlon_is_brats(phantoms: Callable[..., Path], workplace: Path) -> None:
    shutil.copytree(phantoms("msd", "--modalities", "FLAIR", "T1w", "t1gd", "T2w"), "data")
    describe(labels={"0": "background", "1": "edema", "2": "non-enhancing", "3": "enhancing"})(
        Path("data")
    )
    config = imported("brats", Path("data"), "--extract", "channels")
    assert list(config.modalities) == ["flair", "t1w", "t1gd", "t2w"]
    assert config.structures == {
        "whole_tumour": (1, 2, 3),
        "tumour_core": (2, 3),
        "enhancing_tumour": (3,),
    }
    assert config.lesions == ("enhancing_tumour",)


# --- what may not be looked at -----------------------------------------------------------------------


def test_no_label_but_those_of_labelled_cases_is_read(
    phantoms: Callable[..., Path], workplace: Path
) -> None:
    """The voxels of all other labels are damaged: only their headers can have been read."""
    folder = workplace / "data"
    shutil.copytree(phantoms("folder"), folder)
    Path("first").write_text("case_000\ncase_001\n")
    for path in sorted((folder / "labels").iterdir())[2:]:
        plain = path.with_suffix("")
        nib.save(nib.load(path), plain)
        path.unlink()
        content = plain.read_bytes()
        plain.write_bytes(
            content[:352] + b"\x63" * (len(content) - 352)
        )  # a class that no labelled case has
    config = imported("folder", folder, "--labelled", "first", "--test", "1")
    assert config.labels.keys() <= NUMBERED.keys()
    assert any("99" in problem for problem in problems(config))


def test_a_draw_does_not_depend_on_what_labels_hold(
    phantoms: Callable[..., Path], workplace: Path
) -> None:
    folder = workplace / "data"
    shutil.copytree(phantoms("folder"), folder)
    imported(
        "folder", folder, "--labelled", "2", "--test", "1", "--labels", "a=1", "b=2", "c=3", "d=4"
    )
    first = Path("config/x/cases.csv").read_text()
    for path in (folder / "labels").iterdir():
        label = nib.load(path)
        nib.save(nib.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine), path)
    imported(
        "folder",
        folder,
        "--labelled",
        "2",
        "--test",
        "1",
        "--labels",
        "a=1",
        "b=2",
        "c=3",
        "d=4",
        "--force",
    )
    assert Path("config/x/cases.csv").read_text() == first
