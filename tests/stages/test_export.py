"""The exported folder: complete, checked on reading, replaced as a whole, and silent about patients."""

import json
from pathlib import Path

import pytest
import torch
from support.tiny_model import calibration, tiny_experiment

from hstf.config.experiment import Config
from hstf.experiment.layout import Layout
from hstf.models.registry import load_network
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_json, write_csv, write_json
from hstf.stages.export import METADATA_SCHEMA, ExportedModel, export

# the keys that the MONAI bundle specification makes mandatory, for the file and for each tensor
BUNDLE_KEYS = {
    "schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task",
    "description", "authors", "copyright", "network_data_format",
}  # fmt: skip
TENSOR_KEYS = {
    "type", "format", "modality", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data", "channel_def",
}  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return tiny_experiment(tmp_path)


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_holds_all_that_prediction_needs(config: Config) -> None:
    folder = export(config)
    assert files_of(folder) == {
        "README.md", "configs/metadata.json", "members/seed_0.pt", "members/seed_1.pt", "model.json",
    }  # fmt: skip
    model = ExportedModel.read(folder)
    assert model.labels == {"background": 0, "liver": 6, "tumour": 200}
    assert model.predict == config.predict
    assert model.plan.patch_size == (16, 16, 8)
    assert model.known == calibration().applicable_rules(config.structures)
    for member in ("seed_0", "seed_1"):
        ours, _ = load_network(folder / "members" / f"{member}.pt")
        trained, _ = load_network(Layout.of(config).weights(1, member))
        for name, value in trained.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=0, atol=0)


def test_no_case_is_named_anywhere(config: Config) -> None:
    folder = export(config)
    assert all(b"patient_" not in (folder / name).read_bytes() for name in files_of(folder))
    assert load_network(folder / "members" / "seed_0.pt")[1] == {"member": "seed_0", "round": 1}


def test_the_card_counts_cases_and_tells_the_scores(config: Config) -> None:
    layout = Layout.of(config)
    rows = [
        {"case_id": f"p{i}", "source": source}
        for i, source in enumerate(["automatic", "automatic", "human"])
    ]
    write_csv(layout.labels_table(1), rows, ["case_id", "source"])
    assert "Not measured" in (export(config) / "README.md").read_text()
    dice = {"mean": 0.81234, "sd": 0.05, "median": 0.8, "cases": 7}
    interval = {"mean": 0.75, "low": 0.7, "high": 0.79, "patients": 7, "scans": 7, "level": 0.95}
    classes = {"liver": {"dice": dice}, "tumour": {"dice": {**dice, "mean": None, "sd": None}}}
    write_json(layout.evaluation_summary(1), {"cases": 7, "dice": interval, "classes": classes})
    card = (export(config) / "README.md").read_text()
    assert (
        "2 labelled, 3 unlabelled, 1 test, 2 pseudo-labels automatic, 1 pseudo-labels human" in card
    )
    assert "| liver | 0.812 | 0.050 | 7 |" in card and "| tumour | unknown | unknown | 7 |" in card
    assert "0.750 (95% interval 0.700 to 0.790), 7 patients" in card


def test_the_metadata_has_the_form_of_a_monai_bundle(config: Config) -> None:
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


def test_an_export_replaces_the_last_one_as_a_whole(config: Config) -> None:
    folder = export(config)
    first = {name: (folder / name).read_bytes() for name in files_of(folder)}
    (folder / "members" / "old.pt").write_bytes(b"of a larger ensemble")
    export(config)
    assert files_of(folder) == set(first)
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_a_failed_export_leaves_the_last_one(config: Config) -> None:
    folder = export(config)
    Layout.of(config).weights(1, "seed_1").write_bytes(b"damaged")
    with pytest.raises(HstfError, match=r"seed_1/weights\.pt"):
        export(config)
    assert ExportedModel.read(folder).weights
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_missing_weights_are_all_named(config: Config) -> None:
    for member in ("seed_0", "seed_1"):
        Layout.of(config).weights(1, member).unlink()
    with pytest.raises(HstfError, match=r"seed_0(.|\n)*seed_1"):
        export(config)


def edit(folder: Path, **values: object) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps(read_json(path) | values))


def test_reading_refuses_what_is_no_sound_export(config: Config, tmp_path: Path) -> None:
    with pytest.raises(HstfError, match=r"no model\.json"):
        ExportedModel.read(tmp_path)
    folder = export(config)
    members = read_json(folder / "model.json")["members"]
    edit(folder, format=99)
    with pytest.raises(HstfError, match="format 2"):
        ExportedModel.read(folder)
    edit(folder, format=2, members=[{**members[0], "name": "../../elsewhere"}])
    with pytest.raises(HstfError, match="no plain name"):
        ExportedModel.read(folder)
    edit(folder, members=members, predict={"from_the_future": 1})
    with pytest.raises(HstfError, match="is damaged"):
        ExportedModel.read(folder)


def test_reading_names_weights_that_were_changed_or_lost(config: Config) -> None:
    folder = export(config)
    (folder / "members" / "seed_0.pt").unlink()
    (folder / "members" / "seed_1.pt").write_bytes(b"cut")
    with pytest.raises(HstfError, match=r"seed_0\.pt is missing(.|\n)*seed_1\.pt differs"):
        ExportedModel.read(folder)
