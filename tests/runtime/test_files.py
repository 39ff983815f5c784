"""Files appear whole or not at all."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hstf.runtime import files
from hstf.runtime.errors import HstfError
from hstf.runtime.files import (
    atomic_path,
    complete_folder,
    find_files,
    read_csv,
    read_json,
    read_sheet,
    recover_folder,
    remove_leftovers,
    sha256_file,
    sha256_json,
    write_csv,
    write_json,
    write_text,
    write_text_if_changed,
)


def names(folder: Path) -> list[str]:
    """Names of the files in ``folder``, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def test_a_block_that_fails_leaves_the_target_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "new" / "table.csv"
    write_text(target, "old")
    with pytest.raises(RuntimeError), atomic_path(target) as path:
        path.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert names(target.parent) == ["table.csv"]


def test_the_temporary_name_keeps_all_suffixes(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "case.nii.gz") as path:
        assert path.name.endswith("case.nii.gz")
        assert path.parent == tmp_path
        path.write_bytes(b"x")


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    write_text(tmp_path / "table.csv", "old")
    message = r"table.csv: could not be written \(No space left on device\)"
    with pytest.raises(HstfError, match=message), atomic_path(tmp_path / "table.csv") as path:
        path.write_text("half")
        Path("/dev/full").write_text("x")
    assert (tmp_path / "table.csv").read_text() == "old"
    assert names(tmp_path) == ["table.csv"]


def test_a_disk_that_is_full_when_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(HstfError, match="quota exceeded"):
        write_text(tmp_path / "a.txt", "x")
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_flushed_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_files(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(files.os, "fsync", only_files)
    write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").read_text() == "x"


def refuse_renames(monkeypatch: pytest.MonkeyPatch, *prefixes: str) -> None:
    """Let the renaming of files and folders fail whose name starts with one of ``prefixes``."""
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if path.name.startswith(prefixes):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)


def replace_folder(target: Path) -> None:
    with complete_folder(target) as folder:
        write_text(folder / "a.txt", "new")


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "export"
    write_text(target / "old.txt", "old")
    replace_folder(target)
    assert names(target) == ["a.txt"]
    assert names(tmp_path) == ["export"]


@pytest.mark.parametrize("prefix", ["export", ".tmp-"])
def test_a_folder_that_cannot_be_renamed_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    target = tmp_path / "export"
    write_text(target / "a.txt", "old")
    refuse_renames(monkeypatch, prefix)
    with pytest.raises(HstfError, match=r"export: could not be written \(Permission denied\)"):
        replace_folder(target)
    assert (target / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["export"]


def test_a_folder_that_cannot_be_renamed_back_is_kept_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "export"
    write_text(target / "a.txt", "old")
    refuse_renames(monkeypatch, ".tmp-", ".old-")
    with pytest.raises(HstfError, match=r"is now .*\.old-.*-export: rename it back"):
        replace_folder(target)
    (left,) = names(tmp_path)
    assert (tmp_path / left / "a.txt").read_text() == "old"


def test_a_new_folder_that_cannot_be_renamed_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_renames(monkeypatch, ".tmp-")
    with pytest.raises(HstfError, match="could not be written"):
        replace_folder(tmp_path / "export")
    assert names(tmp_path) == []


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("has_snakemake_made_folders", [False, True])
def test_recover_folder_after_a_kill(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    has_snakemake_made_folders: bool,
) -> None:
    """Step 0 is before the old folder is moved away, 1 before the new one comes, 2 after it."""
    target = tmp_path / "export"
    write_text(target / "a.txt", "old")
    write_text(tmp_path / ".old-note-export" / "mine.txt", "of a person")
    calls = []

    def kill() -> None:
        calls.append(1)
        if len(calls) > step:
            raise KeyboardInterrupt

    rename = Path.rename

    def renamed(path: Path, to: Path) -> Path:
        kill()
        return rename(path, to)

    def removed(path: Path, **_: object) -> None:
        if step == 2:
            kill()

    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(files, "_rename_back", lambda old, to: None)
    monkeypatch.setattr(files.shutil, "rmtree", removed)
    with pytest.raises(KeyboardInterrupt):
        replace_folder(target)
    monkeypatch.undo()
    if has_snakemake_made_folders:
        (target / "members").mkdir(parents=True, exist_ok=True)
    recover_folder(target)
    assert (target / "a.txt").read_text() == ("new" if step == 2 else "old")
    assert names(tmp_path) == [".old-note-export", "export"]


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "x")
    with pytest.raises(HstfError, match="could not be written"):
        write_text(tmp_path / "a" / "b.txt", "x")


def test_what_a_killed_writer_leaves_is_removed_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "case.nii.gz"
    target.write_text("old")
    writer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time, pathlib; from hstf.runtime.files import atomic_path\n"
            "with atomic_path(pathlib.Path(sys.argv[1])) as path:\n"
            "    path.write_text('half'); time.sleep(60)",
            str(target),
        ]
    )
    deadline = time.monotonic() + 30
    while (
        not any(entry.stat().st_size for entry in tmp_path.glob(".tmp-*"))
        and time.monotonic() < deadline
    ):
        time.sleep(0.02)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert target.read_text() == "old"
    assert len(names(tmp_path)) == 2
    other = tmp_path / ".tmp-01234567-another_case.nii.gz"
    other.write_text("of somebody who is alive")
    remove_leftovers(target)
    assert names(tmp_path) == [other.name, "case.nii.gz"]


def test_remove_leftovers_with_an_age_keeps_newer_files(tmp_path: Path) -> None:
    target = tmp_path / "case.nii.gz"
    for number, age in enumerate((700, 500)):
        path = tmp_path / f".tmp-0123456{number}-case.nii.gz"
        path.touch()
        moment = time.time() - age
        os.utime(path, (moment, moment))
    remove_leftovers(target, age=600)
    assert names(tmp_path) == [".tmp-01234561-case.nii.gz"]


def test_unchanged_text_is_not_written_again(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text_if_changed(target, "ä\n")
    before = target.stat().st_ino
    write_text_if_changed(target, "ä\n")
    assert target.stat().st_ino == before
    write_text_if_changed(target, "b")
    assert target.read_text() == "b"


def test_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, None, 0.1]})
    assert read_json(tmp_path / "a.json") == {"b": [1, None, 0.1]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert read_json(tmp_path / "a.json") == {"b": [1, None, 0.1]}
    for content in (b"{", b"", b"\xff\xfe{"):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(HstfError, match=r"a\.json: not readable as JSON"):
            read_json(tmp_path / "a.json")
    with pytest.raises(HstfError, match=r"missing\. Run the stage"):
        read_json(tmp_path / "b.json")
    with pytest.raises(HstfError, match="cannot be read"):
        read_json(tmp_path)


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.fixed_dictionaries({"a": cells, "b": cells}), max_size=5))
def test_csv_comes_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "t.csv"
    write_csv(path, rows, ["a", "b"])
    assert read_csv(path) == [
        {key: cell.replace("\r", " ") for key, cell in row.items()} for row in rows
    ]


def test_csv_cells(tmp_path: Path) -> None:
    write_csv(
        tmp_path / "t.csv", [{"a": 1 / 3, "b": None, "c": 12345678, "d": 9}], ["c", "a", "b", "e"]
    )
    assert (tmp_path / "t.csv").read_text() == "c,a,b,e\n12345678,0.333333,,\n"


def test_csv_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("name\nMüller\n".encode("cp1252"))
    with pytest.raises(HstfError, match="UTF-8"):
        read_csv(tmp_path / "t.csv")
    with pytest.raises(HstfError, match="missing"):
        read_csv(tmp_path / "u.csv")


@pytest.mark.parametrize(
    "content",
    [
        b"a,b\n1,x y\n2,\n",
        b"\xef\xbb\xbfa;b\r\n1;x y\r\n2\r\n",
        b" a \t b\n\n\t\n 1\tx y \n2\t\n",
        b'"a","b"\r1,"x y"\r2,""\r',
    ],
)
def test_sheets_as_spreadsheets_save_them(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.csv").write_bytes(content)
    header, rows = read_sheet(tmp_path / "s.csv")
    assert header == ["a", "b"]
    assert [row for _, row in rows] == [{"a": "1", "b": "x y", "": ""}, {"a": "2", "b": "", "": ""}]


def test_lines_of_a_sheet_are_numbered_as_an_editor_does(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text('a,b\n\n1,2\n"x\ny",3,4,5\n6,7\n')
    rows = read_sheet(tmp_path / "s.csv")[1]
    assert [(line, row[""]) for line, row in rows] == [(3, ""), (5, "4 5"), (6, "")]


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_sheet_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "s.csv"
    path.write_bytes(content)
    try:
        header, rows = read_sheet(path)
    except HstfError as error:
        assert str(path) in str(error)
    else:
        assert all(set(row) == {*header, ""} for _, row in rows)


def test_fingerprints(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "abc")  # FIPS 180-2, appendix B.1
    assert (
        sha256_file(tmp_path / "a")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    assert sha256_json({"b": 1, "a": [Path("x")]}) == sha256_json(
        json.loads('{"a": ["x"], "b": 1}')
    )
    assert sha256_json({"a": 1}) != sha256_json({"a": 2})
    with pytest.raises(HstfError, match="missing"):
        sha256_file(tmp_path / "b")


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ('a,"1\nb,2\n', 2),
        ('a,1\n\nb,"2\nc,3"x\n', 4),
        ('a,"1\nb,2"\n', 2),
    ],
    ids=["never closed", "closed in another row", "closed at the end of another row"],
)
def test_read_sheet_names_the_line_of_an_unclosed_quote(
    tmp_path: Path, rows: str, line: int
) -> None:
    path = tmp_path / "s.csv"
    path.write_text("case_id,image\n" + rows)
    with pytest.raises(HstfError, match=f"s.csv, line {line}: .* a double quote is missing"):
        read_sheet(path)


def test_read_sheet_accepts_line_breaks_in_a_cell(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text('case_id,image,note\na,1,"first line\nsecond, line"\nb,2,\n')
    assert [row["case_id"] for _, row in read_sheet(path)[1]] == ["a", "b"]


def test_writers_name_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    """Old archives contain names in Latin-1."""
    name = os.fsdecode("Müller.nii.gz".encode("latin-1"))
    message = r"cases\.csv: could not be written, .*M\\udcfcller\.nii\.gz.*Rename the file"
    with pytest.raises(HstfError, match=message):
        write_csv(tmp_path / "cases.csv", [{"image": name}], ["image"])
    with pytest.raises(HstfError, match=r"a\.txt: could not be written, .*not valid UTF-8"):
        write_text(tmp_path / "a.txt", name)
    assert list(tmp_path.iterdir()) == []


def test_find_files_leaves_out_names_with_a_dot_and_folders_with_them(tmp_path: Path) -> None:
    finished = [tmp_path / "a" / "made.json", tmp_path / "b" / "made.json"]
    unfinished = ("b/.tmp-0123abcd-made.json", ".tmp-0123abcd-c/made.json")
    for path in (*finished, *map(tmp_path.joinpath, unfinished)):
        write_json(path, {})
    assert find_files(tmp_path, "*/*.json") == finished


def test_find_files_searches_a_hidden_folder_that_the_pattern_names(tmp_path: Path) -> None:
    path = tmp_path / "teacher" / ".records" / "case_1.json"
    write_json(path, {})
    assert find_files(tmp_path, "*/.records/*.json") == [path]


def test_find_files_of_a_missing_folder_is_empty(tmp_path: Path) -> None:
    assert find_files(tmp_path / "missing", "*/*.json") == []


def test_find_files_leaves_out_a_folder_that_is_removed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job of the export renames its folder while the report lists the results."""
    write_json(tmp_path / "export" / "model.json", {})
    write_json(tmp_path / "other" / "model.json", {})
    scandir = os.scandir

    def remove_before_reading(path: str | int) -> Iterator[os.DirEntry[str]]:
        if str(path).endswith("export"):
            shutil.rmtree(tmp_path / "export")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", remove_before_reading)
    assert find_files(tmp_path, "*/*.json") == [tmp_path / "other" / "model.json"]
