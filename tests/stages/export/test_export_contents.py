"""The exported folder is complete, has scores and a model card, and names no patient."""

import argparse
import shlex
from pathlib import Path

import pytest
import torch
from support.export_files import files_of
from support.stages import export
from support.tiny_model import calibration, tiny_experiment

from hstf.config.experiment import Config
from hstf.config.reuse import ReuseConfig
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.experiment.round_tables import LABELS
from hstf.experiment.score_tables import EVALUATION_CASES, EVALUATION_MEMBERS
from hstf.method.bundle.metadata import METADATA_SCHEMA
from hstf.method.exported_model import read_exported_model
from hstf.models.registry import load_network
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_json
from hstf.scoring.absent_classes import AbsentCases, PresentCases
from hstf.scoring.averages import Statistics
from hstf.scoring.documents import EmptyCounts, EvaluationSummary, MemberSummary, StructureSummary
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


def write_member_scores(config: Config) -> None:
    rows = []
    for member, dice in (("seed_0", 0.7), ("seed_1", 0.8)):
        for name in ("liver", "tumour"):
            row = {"case_id": "patient_5", "member": member, "class": name, "dice": dice}
            rows.append(row)
    EVALUATION_MEMBERS.write(Layout.of(config).evaluation_members(1), rows)


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


def test_export_names_all_missing_weights(config: Config) -> None:
    for member in ("seed_0", "seed_1"):
        Layout.of(config).weights(1, member).unlink()
    with pytest.raises(HstfError, match=r"seed_0(.|\n)*seed_1"):
        export(config)


def test_export_has_the_intensities_of_the_training_scans(config: Config) -> None:
    intensities = read_exported_model(export(config)).intensities
    assert intensities.keys() == {"image"}
    assert intensities["image"].median == (180, 181)
    assert intensities["image"].width == (380, 380)


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


def test_export_refuses_an_unknown_member(config: Config) -> None:
    message = r"--member fold_0: round 1, .* no such member\. There are seed_0, seed_1\."
    with pytest.raises(HstfError, match=message):
        export_stage.export(config, "fold_0")


def test_run_prints_a_command_for_folders_with_spaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_experiment(tmp_path / "my data")
    monkeypatch.setattr(export_stage, "load_config", lambda: config)
    assert export_stage.run(argparse.Namespace(config=[], member=None)) == 0
    _, _, command = capsys.readouterr().out.partition("segment with: ")
    assert shlex.split(command)[:4] == ["hstf", "predict", "--model", str(Layout.of(config).export)]


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
