"""The exported folder is complete, is checked, is replaced as a whole and names no patient."""

import argparse
import json
import re
import shlex
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_model import calibration, tiny_experiment

from hstf.config.experiment import Config
from hstf.config.reuse import ReuseConfig
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.experiment.round_tables import LABELS
from hstf.experiment.score_tables import EVALUATION_CASES, EVALUATION_MEMBERS
from hstf.method.bundle import folder as bundle_folder
from hstf.method.bundle.metadata import METADATA_SCHEMA
from hstf.method.exported_model import read_exported_model, write_digests
from hstf.models.registry import load_network
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_json, write_text
from hstf.scoring.absent_classes import AbsentCases, PresentCases
from hstf.scoring.averages import Statistics
from hstf.scoring.documents import (
    EmptyCounts,
    EvaluationSummary,
    MemberSummary,
    StructureSummary,
)
from hstf.scoring.metrics import METRICS
from hstf.scoring.significance import Interval
from hstf.stages import export as export_stage

# Keys that the specification of MONAI bundles requires, for the file and for each tensor.
BUNDLE_KEYS = {
    "authors",
    "copyright",
    "description",
    "monai_version",
    "network_data_format",
    "numpy_version",
    "pytorch_version",
    "required_packages_version",
    "schema",
    "task",
    "version",
}
TENSOR_KEYS = {
    "channel_def",
    "dtype",
    "format",
    "is_patch_data",
    "modality",
    "num_channels",
    "spatial_shape",
    "type",
    "value_range",
}


ONE = {"members": 1}
DECLARED = ("model.json", "configs/metadata.json", "SHA256SUMS", "README.md")
"""Files of the export that Snakemake deletes before it exports again."""
RULE = {
    "maximum_components": 1,
    "minimum_mm3": 0.0,
    "has_holes": True,
    "may_be_absent": False,
}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return tiny_experiment(tmp_path)


def export(config: Config) -> Path:
    return export_stage.export(config)[0]


def write_summary(config: Config, dices: dict[str, Statistics]) -> None:
    """Write a summary of the evaluation that has only a Dice of each class."""
    classes = {}
    for name, dice in dices.items():
        metrics = dict.fromkeys(METRICS, dice)
        classes[name] = StructureSummary(
            **metrics,
            empty=EmptyCounts(both=0, prediction=0, reference=0),
            present=PresentCases(cases=7, dice=dice, predicted=7, found=7),
            absent=AbsentCases(cases=0, false_alarms=0),
        )
    EvaluationSummary(
        round=1,
        model="student",
        cases=7,
        patients=7,
        dice=Interval(mean=0.75, low=0.7, high=0.79, scans=7, patients=7),
        mean={},
        classes=classes,
        lesions={},
        warnings=[],
        members=MemberSummary(mean=0.74, each={}),
        pseudo_labels=None,
    ).save(Layout.of(config).evaluation_summary(1))


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def write_member_scores(config: Config) -> None:
    rows = []
    for member, dice in (("seed_0", 0.7), ("seed_1", 0.8)):
        for name in ("liver", "tumour"):
            row = {"case_id": "patient_5", "member": member, "class": name, "dice": dice}
            rows.append(row)
    EVALUATION_MEMBERS.write(Layout.of(config).evaluation_members(1), rows)


def test_export_of_one_member_has_its_weights_and_its_scores(config: Config) -> None:
    layout = Layout.of(config)
    write_summary(config, {"liver": Statistics(mean=0.9, sd=0.1, median=0.9, cases=7)})
    write_member_scores(config)
    folder, _ = export_stage.export(config, "seed_1")
    assert folder == layout.root / "export_seed_1" != layout.export
    model = read_exported_model(folder)
    assert [member.name for member in model.members] == ["seed_1"]
    scores = model.provenance.scores
    assert scores is not None and scores.cases == 1
    assert scores.dice.mean == scores.classes["liver"].mean == 0.8
    assert "one network (seed_1)" in (folder / "README.md").read_text()
    assert not layout.export.exists()


@pytest.mark.parametrize("member", [None, "seed_0"])
def test_export_of_a_warm_up_that_was_scored_on_other_cases_has_no_scores(
    tmp_path: Path, member: str | None
) -> None:
    """Two experiments have a warm-up in common, but not their test cases."""
    first = tiny_experiment(tmp_path)
    root = str(Layout.of(first).root)
    config = first.model_copy(
        update={
            "experiment": "second",
            "rounds": 0,
            "reuse": ReuseConfig(data=root, warmup=root),
        }
    )
    layout = Layout.of(config)
    write_summary(config, {"liver": Statistics(mean=0.9, sd=0.1, median=0.9, cases=7)})
    scores = {"case_id": "other_1", "group": "other_1", "dice": 0.9}
    EVALUATION_CASES.write(layout.evaluation_cases(0), [scores | {"class": "liver"}])
    context = StageContext.of(config, "export", 0)
    names = context.schedule.members(0) if member is None else [member]
    assert export_stage._scores(context, names) is None
    assert "test cases of this experiment" in export_stage._score_lines(None, 1)


def test_run_prints_a_command_for_folders_with_spaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_experiment(tmp_path / "my data")
    monkeypatch.setattr(export_stage, "load_config", lambda: config)
    assert export_stage.run(argparse.Namespace(config=[], member=None)) == 0
    _, _, command = capsys.readouterr().out.partition("segment with: ")
    assert shlex.split(command)[:4] == ["hstf", "predict", "--model", str(Layout.of(config).export)]


def test_export_refuses_an_unknown_member(config: Config) -> None:
    message = r"--member fold_0: round 1, .* no such member\. There are seed_0, seed_1\."
    with pytest.raises(HstfError, match=message):
        export_stage.export(config, "fold_0")


def test_export_writes_what_prediction_needs(config: Config) -> None:
    folder = export(config)
    assert files_of(folder) == {
        ".exported.sha256",
        "LICENSE",
        "README.md",
        "SHA256SUMS",
        "configs/metadata.json",
        "members/seed_0.pt",
        "members/seed_1.pt",
        "model.json",
    }
    model = read_exported_model(folder)
    assert model.labels == {"background": 0, "liver": 6, "tumour": 200}
    assert model.predict == config.predict
    assert model.plan.patch_size == (16, 16, 8)
    assert model.structure == calibration().applicable_rules(config.structures)
    for member in ("seed_0", "seed_1"):
        ours, _ = load_network(folder / "members" / f"{member}.pt")
        trained, _ = load_network(Layout.of(config).weights(1, member))
        for name, value in trained.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=0, atol=0)


def test_export_names_no_case(config: Config) -> None:
    folder = export(config)
    assert all(b"patient_" not in (folder / name).read_bytes() for name in files_of(folder))
    assert load_network(folder / "members" / "seed_0.pt")[1] == {"member": "seed_0", "round": 1}


def test_model_card_has_cases_and_scores(config: Config) -> None:
    layout = Layout.of(config)
    rows = []
    for i, source in enumerate(["automatic", "rejected", "corrected"]):
        rows.append({"case_id": f"patient_{i + 2}", "source": source, "files": [], "sha256": []})
    LABELS.write(layout.labels_table(1), rows)
    card = (export(config) / "README.md").read_text()
    assert "exported before they were scored" in card, "the case sheet has a test case"
    liver = Statistics(mean=0.81234, sd=0.05, median=0.8, cases=7)
    tumour = Statistics(mean=None, sd=None, median=0.8, cases=7)
    write_summary(config, {"liver": liver, "tumour": tumour})
    card = (export(config) / "README.md").read_text()
    assert "| method | hstf, round 1; " in card
    assert (
        "| training cases | 2 labelled, 1 pseudo-labels automatic, 1 pseudo-labels corrected |"
        in card
    )
    assert "| other cases | 1 test, 1 pseudo-labels rejected |" in card
    assert "| liver | 0.812 | 0.050 | 7 |" in card and "| tumour | unknown | unknown | 7 |" in card
    assert "0.750 (95% interval 0.700 to 0.790), 7 patients" in card


def test_model_card_shows_names_of_classes_as_they_are(config: Config) -> None:
    """The check of the configuration allows these characters."""
    liver = Statistics(mean=0.8, sd=0.05, median=0.8, cases=7)
    write_summary(config, {"a | b": liver, "<b>x</b>": liver})
    card = (export(config) / "README.md").read_text()
    assert "| a \\| b | 0.800 | 0.050 | 7 |" in card
    assert "| &lt;b&gt;x&lt;/b&gt; | 0.800 | 0.050 | 7 |" in card


@pytest.mark.parametrize(
    ("number", "learns_from", "trained_on", "method"),
    [
        (0, "labels", "2 labelled", "initial supervised training (warm-up)"),
        (1, "labels", "2 labelled", "supervised, round 1"),
        (1, "images", "2 labelled, 3 unlabelled (images only)", "supervised, round 1"),
    ],
)
def test_model_card_has_what_the_round_learned_from(
    config: Config, number: int, learns_from: str, trained_on: str, method: str
) -> None:
    export(config)
    model = read_exported_model(Layout.of(config).export)
    changed = {
        "round": number,
        "learns_from": learns_from,
        "method": "supervised",
        "cases": {"labelled": 2, "unlabelled": 3, "test": 1},
    }
    provenance = model.provenance.model_copy(update=changed)
    card = export_stage.model_card(model.model_copy(update={"provenance": provenance}))
    assert f"| method | {method}; " in card
    assert f"| training cases | {trained_on} |" in card


def test_bundle_metadata_has_the_keys_of_a_monai_bundle(config: Config) -> None:
    metadata = read_json(export(config) / "configs" / "metadata.json")
    assert metadata.keys() >= BUNDLE_KEYS
    assert metadata["schema"] == METADATA_SCHEMA
    tensors = metadata["network_data_format"]
    assert (
        tensors["inputs"]["image"].keys() >= TENSOR_KEYS
        and tensors["outputs"]["pred"].keys() >= TENSOR_KEYS
    )
    assert tensors["outputs"]["pred"]["channel_def"] == {
        "0": "background",
        "1": "liver",
        "2": "tumour",
    }


def test_export_replaces_the_last_export_as_a_whole(config: Config) -> None:
    folder = export(config)
    larger = files_of(folder)
    smaller = config.model_copy(update={"student": config.student.model_copy(update=ONE)})
    export(smaller)
    assert files_of(folder) == larger - {"members/seed_1.pt"}
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_export_that_fails_keeps_the_last_export(config: Config) -> None:
    folder = export(config)
    Layout.of(config).weights(1, "seed_1").write_bytes(b"damaged")
    with pytest.raises(HstfError, match=r"seed_1/weights\.pt"):
        export(config)
    assert read_exported_model(folder).weights(folder)
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_export_names_all_missing_weights(config: Config) -> None:
    for member in ("seed_0", "seed_1"):
        Layout.of(config).weights(1, member).unlink()
    with pytest.raises(HstfError, match=r"seed_0(.|\n)*seed_1"):
        export(config)


def edit(folder: Path, is_signed: bool = True, **values: object) -> None:
    """Change values of ``model.json``, with a new digest or without one."""
    path = folder / "model.json"
    path.write_text(json.dumps(read_json(path) | values))
    if is_signed:
        write_digests(folder)


def test_read_exported_model_refuses_invalid_folders(config: Config, tmp_path: Path) -> None:
    with pytest.raises(HstfError, match=r"no model\.json"):
        read_exported_model(tmp_path)
    folder = export(config)
    members = read_json(folder / "model.json")["members"]
    edit(folder, format=99)
    with pytest.raises(HstfError, match=r"format 99, but .* reads the formats 2, 3, 4 and 5"):
        read_exported_model(folder)
    edit(folder, format=5, members=[{**members[0], "name": "../../elsewhere"}])
    with pytest.raises(HstfError, match=r"members\.0\.name"):
        read_exported_model(folder)
    edit(folder, members=members, predict={"from_the_future": 1})
    with pytest.raises(HstfError, match=r"predict\.from_the_future"):
        read_exported_model(folder)


@pytest.mark.parametrize("number", [2, 3])
def test_read_exported_model_reads_earlier_formats(config: Config, number: int) -> None:
    folder = export(config)
    content = read_json(folder / "model.json")
    del content["intensities"]
    (folder / "model.json").write_text(json.dumps(content | {"format": number}))
    if number == 2:
        (folder / "SHA256SUMS").unlink()
    else:
        write_digests(folder)
    assert read_exported_model(folder).intensities == {}


def test_export_has_the_intensities_of_the_training_scans(config: Config) -> None:
    intensities = read_exported_model(export(config)).intensities
    assert intensities.keys() == {"image"}
    assert intensities["image"].median == (180, 181)
    assert intensities["image"].width == (380, 380)


def test_read_exported_model_names_changed_and_missing_weights(config: Config) -> None:
    folder = export(config)
    (folder / "members" / "seed_0.pt").unlink()
    (folder / "members" / "seed_1.pt").write_bytes(b"cut")
    with pytest.raises(HstfError, match=r"seed_0\.pt is missing(.|\n)*seed_1\.pt differs"):
        read_exported_model(folder)


def test_export_writes_digests_that_sha256sum_checks(config: Config) -> None:
    folder = export(config)
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    checked = {line.removesuffix(": OK") for line in done.stdout.splitlines()}
    assert checked == files_of(folder) - {".exported.sha256", "LICENSE", "README.md", "SHA256SUMS"}


def test_read_exported_model_names_a_changed_model_file(config: Config) -> None:
    folder = export(config)
    labels = read_json(folder / "model.json")["labels"]
    edit(folder, is_signed=False, labels=labels | {"liver": 200, "tumour": 6})
    with pytest.raises(HstfError, match=r"model\.json was changed after it was exported"):
        read_exported_model(folder)
    write_digests(folder)
    assert read_exported_model(folder).labels["liver"] == 200
    (folder / "README.md").write_text("Approved by our committee.")
    read_exported_model(folder)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(HstfError, match="SHA256SUMS is missing; copy the folder again"):
        read_exported_model(folder)


@pytest.mark.parametrize("content", [b"", b'{"format": 5, "exp', b"\xff\xfe{"])
def test_read_exported_model_never_advises_to_delete_a_damaged_model_file(
    config: Config, content: bytes
) -> None:
    """A site that was given the folder has no stage that writes it again."""
    folder = export(config)
    (folder / "model.json").write_bytes(content)
    with pytest.raises(HstfError, match=r"model\.json: is damaged \(.*\)\. Copy the folder again"):
        read_exported_model(folder)


@pytest.mark.parametrize(
    "line", ["rubbish", f"{'0' * 64}  ../../etc/passwd", f"{'0' * 64}  /etc/passwd", ""]
)
def test_read_exported_model_refuses_invalid_digests(config: Config, line: str) -> None:
    folder = export(config)
    (folder / "SHA256SUMS").write_text(f"{line}\n")
    with pytest.raises(HstfError, match=r"hstf did not write|does not list model\.json"):
        read_exported_model(folder)


def test_export_refuses_to_replace_a_changed_export(config: Config) -> None:
    folder = export(config)
    edit(folder, is_signed=False, experiment="renamed")
    with pytest.raises(HstfError, match=r"has changed since it was exported(.|\n)*model\.json"):
        export(config)
    assert read_json(folder / "model.json")["experiment"] == "renamed"
    folder.rename(folder.with_name("kept"))
    assert read_exported_model(export(config))


def delete_as_snakemake(folder: Path) -> None:
    for name in DECLARED:
        (folder / name).unlink(missing_ok=True)


def write_all(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        write_text(folder / name, text)


def texts_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in names}


@pytest.mark.parametrize("is_recorded", [True, False])
@pytest.mark.parametrize("by_workflow", [True, False])
def test_export_keeps_the_licence_and_added_files_with_a_message(
    config: Config, capsys: pytest.CaptureFixture[str], by_workflow: bool, is_recorded: bool
) -> None:
    folder = export(config)
    generated = files_of(folder)
    own = {"LICENSE": "MY CC-BY", "validation_note.txt": "signed", "docs/figure.svg": "<svg/>"}
    write_all(folder, own)
    (folder / "link").symlink_to("validation_note.txt")
    if not is_recorded:
        (folder / ".exported.sha256").unlink()
        (folder / "README.md").unlink()
    if by_workflow:
        delete_as_snakemake(folder)
    for _ in range(2):
        capsys.readouterr()
        export(config)
        printed = capsys.readouterr().out
        assert f"kept {folder / 'LICENSE'}, which was edited. Delete it and export again" in printed
        assert f"added to {folder}: docs/figure.svg, link, validation_note.txt" in printed
        assert texts_of(folder, own) == own
        assert (folder / "link").readlink() == Path("validation_note.txt")
        assert files_of(folder) == generated | set(own) | {"link"}
    (folder / "LICENSE").unlink()
    export(config)
    assert "All rights of its owner are reserved" in (folder / "LICENSE").read_text()


def test_export_prints_nothing_about_files_that_nobody_changed(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    export(config)
    export(config)
    assert "kept" not in capsys.readouterr().out


def test_export_writes_an_unchanged_text_anew(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_folder, "LICENSE", "A licence of an earlier version. {owner}")
    folder = export(config)
    assert "earlier version" in (folder / "LICENSE").read_text()
    monkeypatch.undo()
    export(config)
    assert "All rights of its owner are reserved" in (folder / "LICENSE").read_text()


def test_export_keeps_an_edited_guide(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    folder = export(config)
    write_text(folder / "docs" / "README.md", "Ask Anna.")
    export(config)
    assert (folder / "docs" / "README.md").read_text() == "Ask Anna."
    assert "README.md, which was edited" in capsys.readouterr().out


@pytest.mark.parametrize("is_recorded", [True, False])
def test_export_refuses_an_edited_model_card_until_its_text_is_moved(
    config: Config, is_recorded: bool
) -> None:
    folder = export(config)
    write_text(folder / "README.md", "Approved by our committee.")
    if not is_recorded:
        (folder / ".exported.sha256").unlink()
    found = "was changed after it" if is_recorded else "may have been edited"
    with pytest.raises(HstfError, match=rf"moved to a file with another(.|\n)*README\.md {found}"):
        export(config)
    (folder / "README.md").rename(folder / "NOTES.md")
    export(config)
    assert (folder / "NOTES.md").read_text() == "Approved by our committee."
    assert "Intended use" in (folder / "README.md").read_text()


def test_export_refuses_changed_weights_after_snakemake_has_deleted_the_digests(
    config: Config,
) -> None:
    folder = export(config)
    delete_as_snakemake(folder)
    (folder / "members" / "seed_0.pt").write_bytes(b"fine-tuned")
    with pytest.raises(HstfError, match=r"members/seed_0\.pt was changed after it was exported"):
        export(config)
    assert (folder / "members" / "seed_0.pt").read_bytes() == b"fine-tuned"


def test_export_does_not_replace_an_added_file_of_the_same_name(config: Config) -> None:
    folder = export(config.model_copy(update={"student": config.student.model_copy(update=ONE)}))
    write_text(folder / "members" / "seed_1.pt", "of the owner")
    before = texts_of(folder, ["members/seed_1.pt", "SHA256SUMS", "README.md"])
    with pytest.raises(HstfError, match=r"did not write(.|\n)*Rename them(.|\n)*seed_1\.pt"):
        export(config)
    assert texts_of(folder, before) == before
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def set_in(content: dict[str, Any], place: str, value: object) -> dict[str, Any]:
    """Set a value of a nested document."""
    *parents, last = place.split(".")
    inner: Any = content
    for name in parents:
        inner = inner[int(name) if isinstance(inner, list) else name]
    inner[int(last) if isinstance(inner, list) else last] = value
    return content


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("labels", {"background": 0, "liver": 256}, "labels.liver"),
        ("labels", {"background": 0, "liver": -1}, "labels.liver"),
        ("labels", {"background": 0, "liver": 0}, "same value"),
        ("labels", {"background": 0}, "labels"),
        ("labels", {"background": 0, "a\nb": 1}, "is not a name"),
        ("modalities", {"image": "xray"}, "modalities.image"),
        ("modalities", {"a": "mr", "b": "mr"}, "another number of channels"),
        ("members", [], "members"),
        ("members.1.name", "seed_0", "same name"),
        ("members.0.sha256", "1", "members.0.sha256"),
        ("plan.patch_size", [1 << 16, 1 << 16, 1 << 16], "voxels"),
        ("plan.patch_size", [0, 16, 16], "plan.patch_size.0"),
        ("plan.spacing", [1.0, float("nan"), 1.0], "plan.spacing.1"),
        ("plan.spacing", [1.0, 0.0, 1.0], "plan.spacing.1"),
        ("plan.strides", [[1, 1, 1]], "one entry for each level"),
        ("plan.normalisation.0.std", float("inf"), "plan.normalisation.0.std"),
        ("predict.overlap", 1.0, "predict.overlap"),
        ("predict.flip_axes", [7], "predict.flip_axes"),
        ("structure.classes.liver", [3], "classes that do not exist"),
        ("structure.rules.spleen", RULE, "spleen, which is no structure"),
        ("structure.rules.liver", RULE | {"maximum_components": -1}, "maximum_components"),
    ],
)
def test_read_exported_model_refuses_values_out_of_range(
    config: Config, place: str, value: object, expected: str
) -> None:
    folder = export(config)
    path = folder / "model.json"
    path.write_text(json.dumps(set_in(read_json(path), place, value)))
    write_digests(folder)
    with pytest.raises(HstfError, match=re.escape(expected)):
        read_exported_model(folder)
