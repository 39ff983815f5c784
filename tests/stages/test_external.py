"""The stage ``external``: predictions of other models, their weights, and how they are mixed."""

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
    AFFINE,
    LABELLED,
    SIDE,
    THEIRS,
    UNLABELLED,
    external,
    make_external,
    organ,
    rows,
    weigh,
    write_case,
)
from support.stages import refine
from support.tiny_model import tiny_experiment
from support.workspace import ROOT

from hstf.cli import main
from hstf.config.experiment import Config
from hstf.config.load import config_text, resolve_config
from hstf.experiment.case_files import CASE_FILES, existing
from hstf.experiment.context import StageContext
from hstf.experiment.dependencies import STAGES
from hstf.experiment.layout import Layout
from hstf.imaging.volumes import read_label
from hstf.method.external import CaseDice, choose_weight
from hstf.method.external_weights import ExternalWeights, Mixture, calibration_path
from hstf.method.tta_summary import TtaSummary
from hstf.runtime.errors import HstfError
from hstf.stages.calibrate.stage import calibrate
from hstf.stages.export import export
from hstf.stages.external import stage
from hstf.stages.external.outputs import read_labels
from hstf.stages.external.programs import Program
from hstf.stages.external.weights import _group_weight

pytestmark = pytest.mark.usefixtures("workplace")


def run_all(config: Config) -> ExternalWeights:
    """Predict the labelled cases, measure, and predict the unlabelled cases."""
    external(config, "labelled_0")
    weights = weigh(config)
    external(config, "unlabelled_0")
    return weights


def with_teacher(config: Config, **changes: object) -> Config:
    """Return the configuration with other keys of the external teacher."""
    content = config.model_dump(mode="json")
    content["teacher"]["external"]["other"] |= changes
    return resolve_config(content)


def pseudo_labels(config: Config) -> dict[str, bytes]:
    """Refine round 1 and return the voxels of each pseudo-label."""
    refine(config, 1, "unlabelled_0")
    folder = Layout.of(config).pseudo_labels(1)
    return {name: read_label(folder / f"{name}.nii.gz").data.tobytes() for name in UNLABELLED}


def calls() -> int:
    return len(Path("calls.txt").read_text().splitlines())


def test_good_teacher_gets_a_weight(tmp_path: Path) -> None:
    config = make_external(tmp_path, version_command="echo model 1.2")
    weights = run_all(config).teachers["other"]
    found = weights.groups["organ"]
    assert found.dice == 1.0
    assert found.ensemble_dice is not None and found.ensemble_dice < 0.7
    assert found.weight > 0 and found.mixed_dice == 1.0
    assert weights.other_values == (200,)
    row = rows(config, "unlabelled_0")["case_3"]
    assert row["values"] == ["0", str(THEIRS), "200"]
    assert row["version"] == "model 1.2"
    assert row["program"].endswith("foreign.sh") and len(row["program_sha256"]) == 64
    refine(config, 1, "unlabelled_0")
    label = read_label(Layout.of(config).pseudo_labels(1) / "case_3.nii.gz").data
    np.testing.assert_array_equal(label == 3, organ("case_3"))


def test_bad_teacher_changes_nothing(tmp_path: Path) -> None:
    config = make_external(tmp_path, "bad")
    weights = run_all(config).teachers["other"]
    assert weights.groups["organ"].weight == 0
    assert "at best, expected more than" in weights.groups["organ"].reason
    assert rows(config, "unlabelled_0") == {}, "it does not predict the unlabelled cases"
    assert calls() == len(LABELLED)
    mixed = pseudo_labels(config)
    plain = config.model_copy(
        update={"teacher": config.teacher.model_copy(update={"external": {}})}
    )
    assert pseudo_labels(plain) == mixed


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


# --- what the output must be


MOVED = np.array([[-1.0, 0, 0, 3], [0, 1, 0, 0], [0, 0, 1.5, 0], [0, 0, 0, 1]])
WRONG = {
    "shape": (np.zeros((SIDE, SIDE, 5), np.uint8), AFFINE, "has shape"),
    "affine": (np.zeros((SIDE,) * 3, np.uint8), MOVED, "corner voxels"),
    "fractions": (np.full((SIDE,) * 3, 0.5, np.float32), AFFINE, "set probabilities: true"),
}


@pytest.mark.parametrize("name", WRONG)
def test_output_that_does_not_fit_is_refused(tmp_path: Path, name: str) -> None:
    values, affine, message = WRONG[name]
    nib.save(nib.Nifti1Image(np.zeros((SIDE,) * 3, np.uint8), AFFINE), "image.nii.gz")
    nib.save(nib.Nifti1Image(values, affine), "output.nii.gz")
    with pytest.raises(HstfError) as error:
        read_labels(Path("output.nii.gz"), Path("image.nii.gz"), 0.01)
    assert message in str(error.value)


def test_case_with_an_output_that_does_not_fit_is_missing(tmp_path: Path) -> None:
    config = make_external(tmp_path)
    nib.save(nib.Nifti1Image(*WRONG["shape"][:2]), "good/case_4.nii.gz")
    run_all(config)
    assert "has shape" in rows(config, "unlabelled_0")["case_4"]["missing"]
    assert not list(Path("results").rglob("case_4.nii.gz"))
    assert not list(Path("results").rglob(".work/case_*")), "temporary files are removed"


def test_predictions_that_exist_are_used(tmp_path: Path) -> None:
    config = make_external(tmp_path, files="good/{case}.nii.gz")
    Path("good/case_4.nii.gz").unlink()
    assert run_all(config).teachers["other"].groups["organ"].weight > 0
    assert rows(config, "unlabelled_0")["case_4"]["missing"] == "good/case_4.nii.gz does not exist"


@pytest.mark.parametrize("suffix", ["npz", "nii.gz"])
def test_probabilities_of_nnunet_and_of_nifti_are_on_the_same_voxels(
    tmp_path: Path, suffix: str
) -> None:
    """A file .npz of nnU-Net has the axes in reverse order."""
    config = make_external(
        tmp_path, files=f"soft/{{case}}.{suffix}", probabilities=True, labels={"organ": 1}
    )
    Path("soft").mkdir()
    for case in [*LABELLED, *UNLABELLED]:
        organ_channel = np.where(organ(case), 0.9, 0.05).astype(np.float32)
        channels = np.stack([1 - organ_channel, organ_channel])
        if suffix == "npz":
            np.savez(f"soft/{case}.npz", probabilities=channels.transpose(0, 3, 2, 1))
        else:
            image = nib.Nifti1Image(np.moveaxis(channels, 0, 3), AFFINE)
            nib.save(image, f"soft/{case}.nii.gz")
    weights = run_all(config).teachers["other"]
    assert weights.groups["organ"].dice == 1.0
    assert weights.groups["organ"].weight > 0


def test_probabilities_with_too_few_channels_are_missing(tmp_path: Path) -> None:
    config = make_external(
        tmp_path, files="soft/{case}.npz", probabilities=True, labels={"organ": 5}
    )
    Path("soft").mkdir()
    for case in LABELLED:
        np.savez(f"soft/{case}.npz", probabilities=np.zeros((2, SIDE, SIDE, SIDE), np.float32))
    with pytest.raises(HstfError, match="has 2 channels, but 'labels' names the value 5"):
        external(config, "labelled_0")


def test_names_of_values_are_read_from_a_label_map(tmp_path: Path) -> None:
    config = make_external(tmp_path, labels={"organ": ["liver"]}, label_map="dataset.json")
    Path("dataset.json").write_text('{"labels": {"background": 0, "liver": 7}}')
    weights = run_all(config)
    assert weights.teachers["other"].groups["organ"].values == (7,)
    Path("dataset.json").write_text('{"7": "spleen"}')
    with pytest.raises(HstfError, match="has no name 'liver'"):
        weigh(config)


# --- functions and prompts


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


# --- the mixture


def test_region_is_measured_as_a_whole(tmp_path: Path) -> None:
    config = make_external(tmp_path)
    regions = {"whole": ["organ", "vessel"], "vessel": ["vessel"]}
    content = config.model_dump(mode="json") | {"regions": regions}
    content["teacher"]["external"]["other"]["labels"] = {"whole": THEIRS}
    whole = resolve_config(content)
    external(whole, "labelled_0")
    found = weigh(whole).teachers["other"].groups["whole"]
    assert (found.dice, found.mixed_dice) == (1.0, 1.0)
    assert found.weight > 0


def case_with_gains(gains: list[float]) -> CaseDice:
    """Return the Dice 0.6 of the ensemble and 0.7 of the teacher in a case that may show them."""
    known = not np.isnan(gains).any()
    dices = np.array([[0.6], [0.7]]) if known else np.full((2, 1), np.nan)
    return CaseDice(np.array([0.5]), dices[0], dices[1], np.array([gains]))


def test_group_weight_counts_the_patients_whose_labels_show_the_class() -> None:
    unknown = case_with_gains([np.nan] * 4)
    cases = [case_with_gains([0, 0.05, 0.1, 0.08]), unknown, unknown]
    choice = choose_weight(np.array([case.gains[0] for case in cases]), list("abc"))
    mixed = [case.ensemble_groups for case in cases]
    found = _group_weight((1,), choice, list("abc"), cases, 0, mixed, is_harmful=False)
    assert (found.weight, found.standard_error) == (0.0, None)
    assert found.reason == "1 labelled patient is too few to measure it"


def test_group_weight_of_a_harmful_mixture_is_that_of_the_ensemble() -> None:
    """The class is not mixed itself, but the mixture of another class has changed its Dice."""
    cases = [case_with_gains([0, -0.1, -0.2, -0.3])] * 2
    choice = choose_weight(np.array([case.gains[0] for case in cases]), list("ab"))
    mixed = [np.array([0.4])] * 2
    found = _group_weight((1,), choice, list("ab"), cases, 0, mixed, is_harmful=True)
    assert (found.weight, found.mixed_dice) == (0.0, pytest.approx(0.6))


@pytest.mark.parametrize(("rounds", "is_measured_with_first"), [([2], False), ([1, 2], True)])
def test_measure_mixes_earlier_teachers_of_the_same_rounds_only(
    tmp_path: Path, rounds: list[int], is_measured_with_first: bool
) -> None:
    """Both teachers know the same. The second helps only where the first is no teacher."""
    config = make_external(tmp_path, rounds=[1])
    content = config.model_dump(mode="json") | {"rounds": 2}
    teachers = content["teacher"]["external"]
    teachers["second"] = teachers["other"] | {"rounds": rounds}
    both = resolve_config(content)
    external(both, "labelled_0")
    weights = weigh(both).teachers
    first = weights["other"].groups["organ"]
    second = weights["second"].groups["organ"]
    assert first.weight > 0
    if is_measured_with_first:
        assert (second.weight, second.ensemble_dice) == (0, first.mixed_dice)
    else:
        assert second.model_dump() == first.model_dump()


def test_withdrawn_case_leaves_no_prediction(tmp_path: Path) -> None:
    config = make_external(tmp_path)
    run_all(config)
    found = existing(Layout.of(config).root, CASE_FILES, "case_3")
    names = {str(path.relative_to(Layout.of(config).root)) for path in found}
    assert {"external/other/case_3.nii.gz", "external/other/.records/case_3.json"} <= names


def test_all_rounds_or_some_of_them(tmp_path: Path) -> None:
    config = make_external(tmp_path, rounds=[2])
    with pytest.raises(HstfError, match="no round has an external teacher"):
        stage.used_teachers(StageContext.of(config, "external"))


def test_mixture_raises_the_uncertainty_where_the_teachers_disagree(tmp_path: Path) -> None:
    config = make_external(tmp_path)
    run_all(config)
    mixture = Mixture.of_shard(StageContext.of(config, "refine", 1), "unlabelled_0")
    ensemble = TtaSummary.load(Layout.of(config).teacher(1) / "case_3")
    mixed = mixture.mixed("case_3", ensemble)
    moved = (mixed.probabilities != ensemble.probabilities).any(axis=0)
    assert moved.any()
    assert (mixed.uncertainty[2] >= ensemble.uncertainty[2]).all()
    assert (mixed.uncertainty[2][moved] > ensemble.uncertainty[2][moved]).any()
    np.testing.assert_array_equal(mixed.uncertainty[1], ensemble.uncertainty[1])


def test_calibration_of_a_round_is_a_file_of_the_round(tmp_path: Path) -> None:
    config = make_external(tmp_path)
    layout = Layout.of(config)
    assert calibration_path(StageContext.of(config, "calibrate", 1)) == layout.round_calibration(1)
    assert calibration_path(StageContext.of(config, "calibrate")) == layout.calibration
    later = with_teacher(config, rounds=[2]).model_copy(update={"rounds": 2})
    with pytest.raises(HstfError, match="--round 1: has no external teacher"):
        calibrate(StageContext.of(later, "calibrate", 1))


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


def test_changed_prediction_is_refused(tmp_path: Path) -> None:
    config = make_external(tmp_path)
    run_all(config)
    path = Layout.of(config).external_table("other", "unlabelled_0").parent / "case_3.nii.gz"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(HstfError, match="not as they were written"):
        refine(config, 1, "unlabelled_0")


def test_new_image_is_predicted_again(tmp_path: Path) -> None:
    config = make_external(tmp_path)
    run_all(config)
    image = nib.load("case_3.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + 1, image.affine), "case_3.nii.gz")
    assert external(config, "unlabelled_0") == 1
    write_case(config, "case_3")
