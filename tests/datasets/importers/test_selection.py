"""The options ``--images``, ``--labels`` and ``--match``."""

from pathlib import Path

import pytest
from support.folder_files import Pair, found, pairs_of, write
from support.import_files import imported, run_import

from hstf.datasets.importers.folder import find
from hstf.datasets.importers.options import Options
from hstf.datasets.importers.selection import select
from hstf.runtime.errors import HstfError


def write_visit(folder: Path) -> None:
    for number in (1, 2, 3):
        write(folder / f"P{number}/vol.nii.gz", "image")
        write(folder / f"P{number}/organ.nii.gz", "label")
        write(folder / f"P{number}/old/vol.nii.gz", "image")


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("*/vol.nii.gz", "*/organ.nii.gz"),
        ("P?/vol*", "organ.nii.gz"),
        ("P[1-3]/vol.nii.gz", "**/organ.*"),
        ("./*/vol.nii.gz", "P*/organ.nii.gz"),
    ],
)
def test_find_takes_the_chosen_files(images: str, labels: str, tmp_path: Path) -> None:
    write_visit(tmp_path)
    dataset = found(tmp_path, Options(images=(images,), label_files=(labels,)))
    assert pairs_of(tmp_path, dataset.cases) == {
        f"P{number}": Pair(f"P{number}/vol.nii.gz", f"P{number}/organ.nii.gz")
        for number in (1, 2, 3)
    }
    assert dataset.left_out[0].what.startswith("3 volumes, for example P1/old/vol.nii.gz")


def test_find_takes_chosen_labels_and_recognises_images(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write(tmp_path / f"images/c{number}.nii.gz", "image")
        write(tmp_path / f"labels/c{number}_reader1.nii.gz", "label")
        write(tmp_path / f"labels/c{number}_reader2.nii.gz", "label")
    assert len(find(tmp_path, Options()).problems) == 3
    dataset = found(tmp_path, Options(label_files=("*_reader2.nii.gz",)))
    labels = [pair.label for pair in pairs_of(tmp_path, dataset.cases).values()]
    assert labels == [f"labels/c{number}_reader2.nii.gz" for number in (1, 2, 3)]


@pytest.mark.parametrize("pattern", [r"(\d+)", r"(?P<case>\d+)[a-z]*\.nii"])
def test_find_matches_by_a_pattern(pattern: str, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write(tmp_path / f"pics/x{number}a.nii.gz", "image")
        write(tmp_path / f"marks/q_{number}.nii.gz", "label")
    options = Options(images=("pics/*",), label_files=("marks/*",), match=pattern)
    dataset = found(tmp_path, options)
    assert pairs_of(tmp_path, dataset.cases) == {
        str(number): Pair(f"pics/x{number}a.nii.gz", f"marks/q_{number}.nii.gz")
        for number in (1, 2, 3)
    }


def test_find_names_images_that_the_pattern_does_not_match(tmp_path: Path) -> None:
    write(tmp_path / "images/one.nii.gz", "image")
    dataset = find(tmp_path, Options(match=r"(\d\d)\.nii"))
    assert "does not match its path" in dataset.problems[0].why


def test_import_takes_patterns_and_classes_after_labels(workplace: Path) -> None:
    write_visit(Path("d"))
    patterns = ["--images", "*/vol.nii.gz", "--labels", "*/organ.nii.gz"]
    config = imported("folder", Path("d"), *patterns, "--labels", "liver=1", "cyst=2")
    assert config.labels == {"background": 0, "liver": 1, "cyst": 2}
    again = imported("folder", Path("d"), *patterns, "--classes", "a=1", "b=2", "--force")
    assert again.labels == {"background": 0, "a": 1, "b": 2}


def test_import_takes_paths_that_the_shell_has_expanded(workplace: Path) -> None:
    write_visit(Path("d"))
    images = [str(path) for path in Path("d").glob("P*/vol.nii.gz")]
    labels = [str(path.absolute()) for path in Path("d").glob("P*/organ.nii.gz")]
    config = imported("folder", Path("d"), "--images", *images, "--labels", *labels)
    assert config.labels == {"background": 0, "class_1": 1, "class_2": 2}


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        (["nothing*"], [], r"--images nothing\*: matches none of 9 volumes .* P1/old/vol.nii.gz"),
        ([], ["*/seg"], r"--labels \*/seg: matches none"),
        (["*.nii.gz"], ["*.nii.gz"], "match the same files"),
    ],
)
def test_select_refuses_patterns_without_files(
    images: list[str],
    labels: list[str],
    expected: str,
    tmp_path: Path,
) -> None:
    write_visit(tmp_path)
    volumes = sorted(tmp_path.rglob("*.nii.gz"))
    with pytest.raises(HstfError, match=expected):
        select(tmp_path, volumes, images, labels)


def test_import_shows_the_ways_out_with_a_wrong_pattern(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_visit(Path("d"))
    assert run_import("folder", Path("d"), "--images", "x/*") == 1
    message = capsys.readouterr().err
    assert "--images x/*: matches none" in message
    assert "P#/vol.nii.gz (3 volumes" in message


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("lits", ["--images", "*"], "--images: kind lits does not use it, only folder"),
        ("bids", ["--labels", "*_seg*"], "--labels GLOB: kind bids does not use it"),
        ("acdc", ["--classes", "a=1"], "--labels NAME=VALUE: kind acdc does not use it"),
        ("folder", ["--filter", "run=1"], "--filter: kind folder does not use it, only bids"),
        ("brats", ["--patient", "(p)"], "--patient: kind brats does not use it"),
    ],
)
def test_import_refuses_options_that_the_kind_ignores(
    kind: str,
    options: list[str],
    expected: str,
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_import(kind, Path("d"), *options) == 1
    assert expected in capsys.readouterr().err
