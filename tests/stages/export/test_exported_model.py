"""An exported model is checked when it is read: its format, digests and values."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.export_files import edit, files_of
from support.stages import export

from hstf.config.experiment import Config
from hstf.method.exported_model import read_exported_model, write_digests
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_json


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
    ("line", "message"),
    [
        ("rubbish", "hstf did not write"),
        (f"{'0' * 64}  ../../etc/passwd", "hstf did not write"),
        (f"{'0' * 64}  /etc/passwd", "hstf did not write"),
        ("", "hstf did not write"),
        (f"{'0' * 64}  configs/metadata.json", r"does not list model\.json"),
    ],
)
def test_read_exported_model_refuses_invalid_digests(
    config: Config, line: str, message: str
) -> None:
    folder = export(config)
    (folder / "SHA256SUMS").write_text(f"{line}\n")
    with pytest.raises(HstfError, match=message):
        read_exported_model(folder)


RULE = {
    "maximum_components": 1,
    "minimum_mm3": 0.0,
    "has_holes": True,
    "may_be_absent": False,
}


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
