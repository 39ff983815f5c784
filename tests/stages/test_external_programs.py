"""Programs of external teachers: what they get, when they start, and how they fail."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from support.external_files import (
    LABELLED,
    THEIRS,
    calls,
    external,
    make_external,
    pseudo_labels,
    rows,
    run_all,
    weigh,
    with_teacher,
    write_case,
)
from support.tiny_model import tiny_experiment
from support.workspace import ROOT

from hstf.cli import main
from hstf.config.load import config_text
from hstf.experiment.dependencies import STAGES
from hstf.imaging.volumes import read_label
from hstf.runtime.errors import HstfError
from hstf.stages.export import export
from hstf.stages.external import stage
from hstf.stages.external.programs import Program

pytestmark = pytest.mark.usefixtures("workplace")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("crash", "exit code 3: weights.bin is damaged"),
        ("silent", "the command wrote nothing, expected one volume"),
    ],
)
def test_case_on_which_the_command_fails_is_missing(
    tmp_path: Path, kind: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_external(tmp_path, kind)
    run_all(config)
    found = rows(config, "unlabelled_0")
    assert (found["case_3"]["missing"], found["case_4"]["missing"]) == ("", reason)
    assert found["case_4"]["files"] == []
    assert reason in capsys.readouterr().out, "the log names the reason"
    mixed = pseudo_labels(config)
    plain = with_teacher(config, labels={"vessel": 150})
    weigh(plain)
    assert mixed["case_4"] == pseudo_labels(plain)["case_4"] != mixed["case_3"]


def test_second_run_starts_the_program_for_missing_cases_only(tmp_path: Path) -> None:
    config = make_external(tmp_path, "crash")
    run_all(config)
    assert calls() == 4
    assert external(config, "labelled_0") == 0
    script = Path("foreign.sh")
    assert external(config, "unlabelled_0") == 1, "a failed case is tried again"
    assert calls() == 4
    script.write_text(script.read_text().replace("exit 3", "true"))
    assert external(config, "unlabelled_0") == 2, "another script is another model"
    assert rows(config, "unlabelled_0")["case_4"]["missing"] == ""


def test_other_labels_start_no_program(tmp_path: Path) -> None:
    config = make_external(tmp_path)
    run_all(config)
    before = calls()
    other = with_teacher(config, labels={"vessel": THEIRS}, timeout=3, rounds=[1], gpu=False)
    assert run_all(other).teachers["other"].groups["vessel"].weight == 0
    assert calls() == before
    external(with_teacher(config, command="./foreign.sh {image} {output} good 2"), "labelled_0")
    assert calls() == before + len(LABELLED)


def test_new_version_of_the_stage_starts_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_external(tmp_path)
    run_all(config)
    before = calls()
    monkeypatch.setitem(STAGES, "external", replace(STAGES["external"], version=99))
    run_all(config)
    assert calls() == before


def test_new_image_is_predicted_again(tmp_path: Path) -> None:
    config = make_external(tmp_path)
    run_all(config)
    image = nib.load("case_3.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + 1, image.affine), "case_3.nii.gz")
    assert external(config, "unlabelled_0") == 1
    write_case(config, "case_3")


def test_teacher_that_fails_on_every_case_is_an_error(tmp_path: Path) -> None:
    config = make_external(tmp_path, "crash_all")
    with pytest.raises(HstfError) as error:
        external(config, "labelled_0")
    assert "other: 0 cases predicted, 3 missing (exit code 4: predicting" in str(error.value)


def test_program_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    config = make_external(tmp_path, command="no_such_program {image} {output}")
    with pytest.raises(HstfError, match="there is no program 'no_such_program' on this machine"):
        external(config, "labelled_0")


def test_time_limit_kills_the_program_and_its_children(tmp_path: Path) -> None:
    config = make_external(tmp_path, "slow", timeout=0.005)
    with pytest.raises(HstfError, match=r"was killed after 0\.005 minutes"):
        external(config, "labelled_0")
    child = int(Path("child.txt").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_alive(child)


def _is_alive(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("shard", ["test_0", "validation_0"])
def test_external_teachers_never_get_test_cases(tmp_path: Path, shard: str) -> None:
    config = make_external(tmp_path)
    sheet = Path("cases.csv")
    sheet.write_text(f"{sheet.read_text()}t,case_0.nii.gz,case_0_l.nii.gz,{shard[:-2]}\n")
    with pytest.raises(HstfError, match="labelled and unlabelled cases only"):
        external(config, shard)


def test_external_command_runs_as_the_workflow_calls_it(tmp_path: Path) -> None:
    config = make_external(tmp_path)
    Path("config.yaml").write_text(config_text(config))
    command = ["external", "--config", "config.yaml"]
    assert main([*command, "--shard", "labelled_0"]) == 0
    assert main(command) == 0
    assert main([*command, "--shard", "unlabelled_0"]) == 0
    assert Path("results/demo/external/weights.json").is_file()
    assert Path("results/demo/records/external_weights.json").is_file()
    assert Path("results/demo/records/external.unlabelled_0.json").is_file()


def test_function_is_called_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("foreign.py").write_text(
        "import os, shutil\n"
        "def predict(images, output, label):\n"
        "    assert label is None\n"
        "    shutil.copy(output.parents[8] / 'good' / images['image'].name, output)\n"
        "    print('process', os.getpid())\n"
    )
    root = str(Path(stage.__file__).parents[3])
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{root}")
    config = make_external(tmp_path, function="foreign:predict")
    external(config, "labelled_0")
    found = rows(config, "labelled_0")
    assert [row["missing"] for row in found.values()] == ["", "", ""]
    assert found["case_0"]["program"] == str(tmp_path / "foreign.py")


def test_prompted_teacher_gets_the_segmentation_of_the_ensemble(tmp_path: Path) -> None:
    script = Path("echo.sh")
    script.write_text('#!/bin/sh\ncp "$3" "$2"; cp "$3" prompts/\n')
    script.chmod(0o755)
    Path("prompts").mkdir()
    config = make_external(
        tmp_path,
        command="./echo.sh {image} {output} {label}",
        prompt="label",
        labels={"organ": 3},
    )
    external(config, "labelled_0")
    weights = weigh(config).teachers["other"].groups["organ"]
    assert weights.dice == weights.ensemble_dice, "it returns what it gets"
    assert weights.weight == 0
    prompt = read_label(Path("prompts/case_0_label.nii.gz")).data
    assert set(np.unique(prompt)) == {0, 3}, "the values are ours"
    external(config, "unlabelled_0", 1)
    assert rows(config, "unlabelled_0", 1) == {}


PREDICT = "-m hstf predict --model model --input {image} --output {folder} --no-predicted-dice"


def test_exported_model_of_another_experiment_is_a_teacher(tmp_path: Path) -> None:
    """The command of the how-to page, with this Python instead of the installed ``hstf``."""
    hospital_a = tmp_path / "hospital_a"
    hospital_a.mkdir()
    export(tiny_experiment(hospital_a))[0].rename("model")
    command = f"{sys.executable} {PREDICT} --device cpu"
    config = make_external(tmp_path, command=command, labels={"organ": 6})
    single = config.model_copy(update={"shard_size": 1})
    external(single, "labelled_0")
    (row,) = rows(single, "labelled_0").values()
    assert row["missing"] == ""
    assert set(row["values"]) <= {"0", "6", "200"}, "the values of the other experiment"
    page = Path(ROOT / "docs" / "how-to" / "external-teachers.md").read_text()
    assert (
        PREDICT.removeprefix("-m ").replace("--model model", "--model /models/hospital_a") in page
    )


def test_images_are_in_one_folder_as_nifti(tmp_path: Path) -> None:
    script = Path("list.sh")
    script.write_text('#!/bin/sh\nls "$1" > "$3"; cp "good/case_0.nii.gz" "$2/any_name.nii.gz"\n')
    script.chmod(0o755)
    config = make_external(
        tmp_path, command=f"./list.sh {{images}} {{folder}} {tmp_path}/{{case}}.txt"
    )
    external(config, "labelled_0")
    assert rows(config, "labelled_0")["case_1"]["missing"] == ""
    assert Path("case_1.txt").read_text().split() == ["case_1.nii.gz"]


def test_each_modality_can_be_named(tmp_path: Path) -> None:
    config = make_external(tmp_path)
    command = "segment --t1 {image:t1} --t2={image:t2} -i {images} {case} {output}"
    teacher = config.teacher.external["other"].model_copy(update={"command": command})
    images = {"t1": Path("/w/images/a_t1.nii.gz"), "t2": Path("/w/images/a_t2.nii.gz")}
    words = Program("other", teacher, "cpu", tmp_path).words(
        images, Path("/w/output/a.nii.gz"), None
    )
    assert words == [
        *("segment", "--t1", "/w/images/a_t1.nii.gz", "--t2=/w/images/a_t2.nii.gz"),
        *("-i", "/w/images", "a", "/w/output/a.nii.gz"),
    ]


def test_program_without_gpu_sees_none(tmp_path: Path) -> None:
    config = with_teacher(make_external(tmp_path), gpu=False)
    program = Program("other", config.teacher.external["other"], "auto", tmp_path)
    assert program.environment["CUDA_VISIBLE_DEVICES"] == ""


def test_image_of_another_format_is_converted(tmp_path: Path) -> None:
    config = make_external(tmp_path)
    volume = sitk.ReadImage("case_0.nii.gz")
    sitk.WriteImage(volume, "case_0.mha")
    sheet = Path("cases.csv")
    sheet.write_text(sheet.read_text().replace("case_0.nii.gz", "case_0.mha"))
    external(config, "labelled_0")
    assert rows(config, "labelled_0")["case_0"]["missing"] == ""
    assert "case_0.nii.gz" in Path("arguments.txt").read_text()


def test_image_of_nifti_2_is_converted(tmp_path: Path) -> None:
    """ITK, by which nnU-Net reads, opens NIfTI-1 only."""
    script = Path("copy.sh")
    script.write_text('#!/bin/sh\ncp "$1" "$3"; cp "good/case_1.nii.gz" "$2"\n')
    script.chmod(0o755)
    copies = f"{tmp_path}/seen_{{case}}.nii.gz"
    config = make_external(tmp_path, command=f"./copy.sh {{image}} {{output}} {copies}")
    image = nib.load("case_1.nii.gz")
    voxels = np.asarray(image.dataobj)
    nib.save(nib.Nifti2Image(voxels, image.affine), "case_1.nii.gz")
    external(config, "labelled_0")
    assert rows(config, "labelled_0")["case_1"]["missing"] == ""
    seen = sitk.GetArrayFromImage(sitk.ReadImage("seen_case_1.nii.gz"))
    np.testing.assert_array_equal(seen.T, voxels)
