"""``hstf suggest`` on a small experiment."""

import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from support.pseudo_label_files import SPACING, VALUES, make_experiment, write_verdicts
from support.teacher_files import PLAN
from support.written_tables import WAYS

from hstf.cli import main
from hstf.config.experiment import Config
from hstf.experiment import set_aside
from hstf.experiment.cases import Case
from hstf.experiment.layout import Layout
from hstf.experiment.review_tables import SET_ASIDE, SUGGEST
from hstf.experiment.schedule import Schedule
from hstf.imaging.volumes import read_label
from hstf.models.base import NetworkSpec
from hstf.models.registry import build, save_network
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_text

IGNORE = VALUES["ignore"]


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The cases ``good`` and ``bad`` with pseudo-labels of round 1, and the warm-up's weights."""
    config = make_experiment(tmp_path, refine={"accepted_fraction": [1.0]})
    layout = Layout.of(config)
    write_verdicts(config)
    PLAN.model_copy(update={"spacing": SPACING}).save(layout.plan)
    spec = NetworkSpec("hybrid", 1, 2, PLAN.channels, PLAN.strides, PLAN.kernels, SPACING, 1, 2)
    for member in members_of_warmup(config):
        save_network(layout.weights(0, member), build(spec), {"member": member})
    write_text(layout.config, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))

    def refuse(case: Case) -> None:
        raise AssertionError(f"the label of {case.case_id} was read")

    monkeypatch.setattr(Case, "reference", property(refuse))
    monkeypatch.setattr(Case, "training_label", property(refuse))
    return config


def members_of_warmup(config: Config) -> list[str]:
    return list(Schedule.of(config).members(0))


def suggest(config: Config, *options: str) -> list[dict[str, Any]]:
    root = Layout.of(config).root
    assert main(["suggest", str(root), *options]) == 0
    return SUGGEST.records(root / "suggest" / "suggest.csv")


def test_suggest_writes_scans_slices_and_templates(
    experiment: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = suggest(experiment, "--slices", "4")
    scans = [row for row in rows if row["kind"] == "scan"]
    slices = [row for row in rows if row["kind"] == "slice"]
    assert {row["case_id"] for row in scans} == {"good", "bad"} and len(slices) == 4
    assert [row["rank"] for row in slices] == [1, 2, 3, 4]
    # The voxels are longest along the third axis of the file, which points downwards.
    assert {row["axis"] for row in slices} == {2}
    assert all(0 <= row["slice"] < 16 for row in slices)
    assert {row["how"] for row in slices} == {"doubt", "random"}
    assert "slice 1:" in capsys.readouterr().out
    layout = Layout.of(experiment)
    for name in {row["case_id"] for row in slices}:
        template = read_label(layout.root / "suggest" / "templates" / f"{name}.nii.gz").data
        automatic = read_label(layout.pseudo_label(1, name)).data
        shown = [row["slice"] for row in slices if row["case_id"] == name]
        for index in range(template.shape[2]):
            expected = automatic[..., index] if index in shown else np.uint8(IGNORE)
            np.testing.assert_array_equal(
                template[..., index], np.broadcast_to(expected, template.shape[:2])
            )
        image = nib.load(Path(experiment.cases).parent / f"{name}.nii.gz")
        found = nib.load(layout.root / "suggest" / "templates" / f"{name}.nii.gz")
        np.testing.assert_array_equal(found.affine, image.affine)


@pytest.mark.parametrize("value", [VALUES["organ"], IGNORE])
def test_suggest_keeps_a_template_that_a_person_has_edited(
    experiment: Config, capsys: pytest.CaptureFixture[str], value: int
) -> None:
    options = ("--no-features", "--scans", "0", "--slices", "4")
    suggest(experiment, *options)
    folder = Layout.of(experiment).root / "suggest" / "templates"
    edited, other = folder / "good.nii.gz", folder / "bad.nii.gz"
    image = nib.load(edited)
    data = np.asarray(image.dataobj).copy()
    x, y, z = np.argwhere(data == VALUES["background"])[0]
    data[x, y, z] = value
    nib.save(nib.Nifti1Image(data, image.affine), edited)
    before = other.stat().st_mtime_ns
    capsys.readouterr()
    suggest(experiment, *options)
    np.testing.assert_array_equal(np.asarray(nib.load(edited).dataobj), data)
    assert other.stat().st_mtime_ns > before
    printed = capsys.readouterr().out
    assert f"it was edited: {edited}. Save it as {Layout.of(experiment).override(1, 'good')}" in (
        printed
    )
    assert printed.count("Not written again") == 1


def test_suggest_without_slices_asks_for_no_ignored_value(
    experiment: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    suggest(experiment, "--no-features", "--slices", "0")
    assert "emplates" not in capsys.readouterr().out


def test_suggest_finds_the_doubtful_slice_in_the_file(experiment: Config) -> None:
    rows = suggest(
        experiment,
        "--scans",
        "0",
        "--slices",
        "1",
        "--time",
        "3",
        "--random-fraction",
        "0",
        "--no-features",
    )
    # The ball is in the middle of the grid: slices 7 and 8 of 16 are alike.
    assert rows[0]["slice"] in (7, 8) and rows[0]["structure"] == "organ"
    assert rows[0]["like"] in ("", None)
    assert "doubtful about" in rows[0]["reason"]


def test_suggest_takes_the_slices_of_each_scan(
    experiment: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan with voxels of equal edges does not show across which axis a scan has its slices."""
    monkeypatch.setattr("hstf.commands.suggest.slice_axis", lambda spacing: 0)
    rows = suggest(experiment, "--scans", "0", "--slices", "2")
    image = nib.load(Path(experiment.cases).parent / "good.nii.gz")
    in_file = int(np.abs(image.affine[0, :3]).argmax())
    assert {row["axis"] for row in rows} == {in_file}


def test_suggest_leaves_out_what_is_decided_or_set_aside(
    experiment: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = Layout.of(experiment)
    rows = suggest(experiment, "--no-features", "--later", "good")
    assert {row["case_id"] for row in rows} == {"bad"}
    assert SET_ASIDE.records(layout.root / "suggest" / "set_aside.csv") == [
        {"case_id": "good", "action": "later", "round": 1}
    ]
    assert {row["case_id"] for row in suggest(experiment, "--no-features")} == {"bad"}
    table = "round,case_id,action,reviewer,date,reason\n1,bad,reject,AB,2026-01-01,motion\n"
    write_text(layout.decisions, table)
    capsys.readouterr()
    assert suggest(experiment, "--no-features") == []
    assert "All 2 unlabelled cases are corrected, rejected" in capsys.readouterr().out


def test_suggest_names_deleted_predictions(
    experiment: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = Layout.of(experiment)
    shutil.rmtree(layout.teacher(1) / "good")
    assert {row["case_id"] for row in suggest(experiment, "--no-features")} == {"bad"}
    assert "has no prediction of good." in capsys.readouterr().out
    shutil.rmtree(layout.teacher(1))
    kept = (layout.root / "suggest" / "suggest.csv").read_bytes()
    assert main(["suggest", str(layout.root), "--no-features"]) == 1
    assert "has no prediction of bad, good." in capsys.readouterr().err
    assert (layout.root / "suggest" / "suggest.csv").read_bytes() == kept


@pytest.mark.parametrize("way", WAYS)
def test_suggest_reads_a_list_that_a_spreadsheet_has_saved(tmp_path: Path, way: str) -> None:
    text = "case_id,action,round\ngood,Skip,1\nbad,later,2.0\n"
    (tmp_path / set_aside.FILE).write_bytes(WAYS[way](text))
    assert set_aside.rows(tmp_path) == [
        {"case_id": "good", "action": "skip", "round": 1},
        {"case_id": "bad", "action": "later", "round": 2},
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("case_id,action\ngood,skip\n", "lacks the columns round"),
        ("case_id,action,round\ngood,never,1\n", "line 2: action 'never' and round '1'"),
        ("case_id,action,round\n\ngood,later,\n", "line 3: action 'later' and round ''"),
    ],
)
def test_suggest_names_what_is_wrong_in_the_list(tmp_path: Path, text: str, problem: str) -> None:
    write_text(tmp_path / set_aside.FILE, text)
    with pytest.raises(HstfError, match=problem):
        set_aside.rows(tmp_path)


def test_suggest_refuses_unknown_cases_and_rounds(
    experiment: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(Layout.of(experiment).root)
    assert main(["suggest", root, "--skip", "nobody"]) == 1
    assert "nobody: not an unlabelled case" in capsys.readouterr().err
    assert main(["suggest", root, "--round", "7"]) == 1
    assert "round 7" in capsys.readouterr().err
    assert main(["suggest", str(tmp_path)]) == 1
    assert "has no config.yaml" in capsys.readouterr().err
    assert main(["suggest", root, "--random-fraction", "2"]) == 1
    assert "between 0 and 1" in capsys.readouterr().err
