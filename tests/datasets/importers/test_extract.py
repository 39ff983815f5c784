"""Channels of 4D images: their content decides whether a file of an earlier import is kept."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.import_files import describe, imported, run_import

from hstf.datasets.importers import extract
from hstf.datasets.importers.extract import RECORD, ExtractionRecord, Task

CASES = ("p_0", "p_1", "p_2")
FOLDER = Path("task")
CHANNELS = Path("channels")
SHAPE = (8, 8, 6)


def write_scan(path: Path, first: int) -> None:
    """Write a scan with two channels, of the values from ``first`` and from ``first + 1000``."""
    channel = first + np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.stack([channel, channel + 1000], axis=3), np.eye(4)), path)


def scan(case: str) -> Path:
    return FOLDER / f"imagesTr/{case}.nii.gz"


@pytest.fixture
def task(workplace: Path) -> Path:
    """A task of the decathlon with two modalities."""
    training = []
    label = np.zeros(SHAPE, np.uint8)
    label[2:4, 2:4, 2:4] = 1
    (FOLDER / "labelsTr").mkdir(parents=True)
    for number, case in enumerate(CASES):
        write_scan(scan(case), 100 * number)
        nib.save(nib.Nifti1Image(label, np.eye(4)), FOLDER / f"labelsTr/{case}.nii.gz")
        files = {"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"}
        training.append(files)
    content = {
        "name": "task",
        "modality": {"0": "T2", "1": "ADC"},
        "labels": {"0": "background", "1": "organ"},
        "training": training,
        "test": [],
    }
    (FOLDER / "dataset.json").write_text(json.dumps(content))
    return FOLDER


def run(*options: str) -> None:
    imported("msd", FOLDER, "--extract", str(CHANNELS), *options)


def first_value(case: str, modality: str) -> int:
    image = nib.load(CHANNELS / f"{case}_{modality}.nii.gz")
    return int(np.asanyarray(image.dataobj)[0, 0, 0])


def values() -> dict[str, list[int]]:
    """Return the first value of each case, by modality."""
    return {name: [first_value(case, name) for case in CASES] for name in ("t2", "adc")}


def versions() -> dict[str, int]:
    """Return the inode of each written file: it changes when the file is written again."""
    return {path.name: path.stat().st_ino for path in CHANNELS.glob("*.nii.gz")}


def rewritten(before: dict[str, int]) -> set[str]:
    return {name for name, inode in versions().items() if before.get(name) != inode}


def pinned() -> dict[str, int]:
    """Return :func:`versions`, with further links to the files, so that no inode is used again."""
    folder = Path("pinned")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    before = versions()
    for name in before:
        os.link(CHANNELS / name, folder / name)
    return before


def test_extract_keeps_what_has_not_changed(task: Path) -> None:
    run()
    record = (CHANNELS / RECORD).read_bytes()
    before = {path.name: path.stat().st_mtime_ns for path in CHANNELS.iterdir()}
    run("--force")
    assert {path.name: path.stat().st_mtime_ns for path in CHANNELS.iterdir()} == before
    assert (CHANNELS / RECORD).read_bytes() == record


def test_extract_removes_what_a_killed_import_left(task: Path) -> None:
    run()
    target = sorted(CHANNELS.glob("*.nii.gz"))[0]
    target.unlink()
    leftover = target.with_name(f".tmp-0123abcd-{target.name}")
    leftover.write_bytes(b"half")
    run("--force")
    assert target.exists()
    assert not leftover.exists()


def test_extract_keeps_files_whose_source_is_newer_but_equal(task: Path) -> None:
    """A copy of the data set, or `touch`, changes no voxel."""
    run()
    before = pinned()
    for case in CASES:
        shutil.copy(scan(case), "copy")
        shutil.move("copy", scan(case))
    run("--force")
    assert rewritten(before) == set()


def test_extract_writes_missing_and_changed_files_again(task: Path) -> None:
    run()
    before = pinned()
    (CHANNELS / "p_0_t2.nii.gz").unlink()
    shutil.copy(CHANNELS / "p_2_adc.nii.gz", "other")
    shutil.move("other", CHANNELS / "p_1_adc.nii.gz")
    run("--force")
    assert rewritten(before) == {"p_0_t2.nii.gz", "p_1_adc.nii.gz"}
    assert values() == {"t2": [0, 100, 200], "adc": [1000, 1100, 1200]}


def test_extract_follows_a_corrected_order_of_channels(task: Path) -> None:
    run()
    assert values() == {"t2": [0, 100, 200], "adc": [1000, 1100, 1200]}
    describe(modality={"0": "ADC", "1": "T2"})(FOLDER)
    run("--force")
    assert values() == {"adc": [0, 100, 200], "t2": [1000, 1100, 1200]}


def test_extract_follows_a_corrected_scan_that_is_older(task: Path) -> None:
    run()
    before = pinned()
    write_scan(scan("p_1"), 500)
    os.utime(scan("p_1"), (1, 1))
    run("--force")
    assert values() == {"t2": [0, 500, 200], "adc": [1000, 1500, 1200]}
    assert rewritten(before) == {"p_1_t2.nii.gz", "p_1_adc.nii.gz"}


def test_extract_writes_files_without_a_record_once(task: Path) -> None:
    """Earlier versions of hstf wrote no record."""
    run()
    (CHANNELS / RECORD).unlink()
    before = pinned()
    run("--force")
    assert rewritten(before) == before.keys()
    before = pinned()
    run("--force")
    assert rewritten(before) == set()


def test_extract_continues_after_an_interruption(
    task: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(extract, "_write_channels", interrupted_at("p_1"))
        assert run_import("msd", FOLDER, "--extract", str(CHANNELS)) == 130
    before = pinned()
    assert before.keys() == {"p_0_t2.nii.gz", "p_0_adc.nii.gz"}
    run()
    assert rewritten(before) == versions().keys() - before.keys()
    assert values() == {"t2": [0, 100, 200], "adc": [1000, 1100, 1200]}


def interrupted_at(case: str) -> Callable[[Task], str]:
    """Return a function that writes channels until it reaches a case."""
    write_channels = extract._write_channels

    def write(task: Task) -> str:
        if task[0] == scan(case):
            raise KeyboardInterrupt
        return write_channels(task)

    return write


def test_extract_writes_the_record_in_between(
    task: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that is killed cannot write it at the end."""
    write_channels = extract._write_channels
    recorded: list[int] = []

    def observed(task: Task) -> str:
        record = CHANNELS / RECORD
        files = ExtractionRecord.load(record).files if record.exists() else {}
        recorded.append(len(files))
        return write_channels(task)

    monkeypatch.setattr(extract, "_write_channels", observed)
    monkeypatch.setattr(extract, "FILES_PER_RECORD", 1)
    run()
    assert recorded == [0, 2, 4]


def test_extract_names_all_damaged_scans(
    task: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for case in ("p_0", "p_2"):
        content = bytearray(scan(case).read_bytes())
        content[-6] ^= 1  # the checksum
        scan(case).write_bytes(content)
    assert run_import("msd", FOLDER, "--extract", str(CHANNELS)) == 1
    message = capsys.readouterr().err
    assert f"{scan('p_0')}: the voxels cannot be read" in message
    assert f"{scan('p_2')}: the voxels cannot be read" in message
    assert versions().keys() == {"p_1_t2.nii.gz", "p_1_adc.nii.gz"}
    assert not Path("config/x.yaml").exists()


def test_extract_refuses_a_damaged_record(
    task: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run()
    (CHANNELS / RECORD).write_text('{"files": 3}')
    assert run_import("msd", FOLDER, "--extract", str(CHANNELS), "--force") == 1
    message = capsys.readouterr().err
    assert f"{CHANNELS / RECORD}: does not have the content" in message
    assert "Delete the file" in message
