"""Shards skip cases that are done and notice damaged, edited and missing files."""

import errno
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.damage import flip_bit

from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_text
from hstf.runtime.shards import (
    CaseWork,
    check_case_ids,
    file_problems,
    read_file_rows,
    read_shard,
    run_shard,
)
from hstf.runtime.tables import Column, Table

FILES = [Column("files", "list", "Files."), Column("sha256", "list", "Their digests.")]
TABLE = Table(
    "copies",
    "copies.csv",
    "A copy.",
    [Column("case_id", "text", "Case."), Column("length", "number", "Length."), *FILES],
)


class Shard:
    """Three cases of which each copies its input text into a file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.table = folder, folder / "unlabelled_0.csv"
        self.texts = {"a": "1", "b": "2", "c": "3"}
        self.parameters: dict[str, Any] = {"version": 1}
        self.ran: list[str] = []

    def file(self, name: str) -> Path:
        return self.folder / name / "out.txt"

    def run(self, hook: Callable[[str], None] = lambda name: None) -> list[str]:
        """The cases that were computed."""
        self.ran = []
        works = [
            CaseWork(
                name, {"text": text}, [self.file(name)], lambda name=name: self._work(name, hook)
            )
            for name, text in self.texts.items()
        ]
        assert run_shard(TABLE, self.table, self.parameters, works, "copy") == len(self.ran)
        return self.ran

    def _work(self, name: str, hook: Callable[[str], None]) -> Mapping[str, Any]:
        self.ran.append(name)
        write_text(self.file(name), self.texts[name])
        hook(name)
        return {"length": len(self.texts[name]) / 3}


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    shard = Shard(tmp_path / "teacher")
    assert shard.run() == ["a", "b", "c"]
    return shard


def test_run_shard_does_nothing_twice(shard: Shard) -> None:
    before = shard.table.read_bytes()
    assert shard.run() == []
    assert shard.table.read_bytes() == before
    row = read_shard(TABLE, shard.table, "abc")["b"]
    assert row["files"] == ["b/out.txt"]
    assert row["length"] == 0.333333


def test_run_shard_computes_only_what_changed(shard: Shard) -> None:
    shard.texts["b"] = "two"
    assert shard.run() == ["b"]
    shard.texts["d"] = "new"
    assert shard.run() == ["d"]
    shard.file("a").unlink()
    assert shard.run() == ["a"]
    del shard.texts["a"]
    assert shard.run() == []
    assert list(read_shard(TABLE, shard.table, "bcd")) == ["b", "c", "d"]
    shard.parameters["version"] = 2
    assert shard.run() == ["b", "c", "d"]


def test_run_shard_after_a_kill_between_files_and_record(shard: Shard) -> None:
    """The old record is removed before the files change: it is never valid for other files."""

    def killed(name: str) -> None:
        if name == "b":
            raise KeyboardInterrupt

    shard.texts |= {"a": "one", "b": "two"}
    with pytest.raises(KeyboardInterrupt):
        shard.run(killed)
    shard.texts["b"] = "2"  # back to what the old record was about
    assert shard.run() == ["b"]
    assert shard.file("b").read_text() == "2"
    assert read_shard(TABLE, shard.table, "abc").keys() == {"a", "b", "c"}


def test_run_shard_removes_leftovers_of_a_killed_process(shard: Shard) -> None:
    leftover = shard.file("a").with_name(".tmp-0123abcd-out.txt")
    of_record = shard.folder / ".records" / ".tmp-0123abcd-a.json"
    for path in (leftover, of_record):
        path.write_text("half")
    shard.texts["a"] = "one"
    shard.run()
    assert not leftover.exists()
    assert not of_record.exists()


@pytest.mark.parametrize("name", ["a.json", ".tmp-0123abcd-out.txt"])
def test_run_shard_names_a_folder_that_cannot_be_written(
    shard: Shard, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    shard.file("a").with_name(".tmp-0123abcd-out.txt").touch()
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name == name:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    shard.texts["a"] = "one"
    message = rf"{name}: could not be written \(Read-only file system\)\. The disk is read-only"
    with pytest.raises(HstfError, match=message):
        shard.run()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"key": 1}', '{"row": {"files": ["x"], "sha256": []}}']
)
def test_run_shard_ignores_a_damaged_record(shard: Shard, content: str) -> None:
    (shard.folder / ".records" / "a.json").write_text(content)
    assert shard.run() == ["a"]


def test_run_shard_ignores_a_record_with_a_flipped_bit(shard: Shard) -> None:
    record = shard.folder / ".records" / "a.json"
    row = read_shard(TABLE, shard.table, "abc")["a"]
    content = record.read_bytes()
    assert b"0.333333" in content
    flip_bit(record, 8 * content.index(b"0.333333") + 17)
    json.loads(record.read_text())
    assert shard.run() == ["a"]
    assert read_shard(TABLE, shard.table, "abc")["a"] == row


def test_run_shard_accepts_records_of_an_earlier_version(shard: Shard) -> None:
    record = shard.folder / ".records" / "a.json"
    content = json.loads(record.read_text())
    del content["sha256"]
    write_text(record, json.dumps(content))
    assert shard.run() == []


def test_read_shard_names_edited_and_missing_files(shard: Shard) -> None:
    shard.file("a").write_text("by hand")
    shard.file("b").unlink()
    with pytest.raises(HstfError) as caught:
        read_shard(TABLE, shard.table, "abc")
    message = str(caught.value)
    assert "2 files are not as they were written" in message
    assert f"a: {shard.file('a')} was changed after it was written. To correct" in message
    assert f"b: {shard.file('b')} is missing" in message
    assert read_shard(TABLE, shard.table, "abc", verify=False).keys() == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("lines", "problems"),
    [
        ([0], ["a: is missing", "b: is missing", "c: is missing"]),
        ([0, 1, 3], ["b: is missing"]),
        ([0, 1, 2, 3, 3], ["c: has 2 rows"]),
    ],
    ids=["header only", "shortened", "row twice"],
)
def test_read_shard_compares_the_cases_with_the_case_sheet(
    shard: Shard, lines: list[int], problems: list[str]
) -> None:
    text = shard.table.read_text().splitlines()
    write_text(shard.table, "\n".join(text[line] for line in lines) + "\n")
    with pytest.raises(HstfError) as caught:
        read_shard(TABLE, shard.table, "abc")
    message = str(caught.value)
    assert message.startswith(f"{shard.table}: does not have the cases of the case sheet (")
    assert "found, 3 expected). Delete the table and run its stage again" in message
    assert [line.strip(" -") for line in message.splitlines()[1:]] == problems


def test_read_shard_refuses_a_case_that_the_case_sheet_does_not_have(shard: Shard) -> None:
    with pytest.raises(HstfError, match=r"c: is not a case of this table in the case sheet"):
        read_shard(TABLE, shard.table, "ab")


def test_check_case_ids_lists_the_first_of_many_cases() -> None:
    with pytest.raises(HstfError) as caught:
        check_case_ids([], map(str, range(100_000)), Path("labels.csv"))
    assert len(str(caught.value).splitlines()) == 12
    assert str(caught.value).endswith("and 99990 more")


def test_read_shard_compares_only_files_with_some_endings(shard: Shard) -> None:
    shard.file("a").write_text("by hand")
    assert len(read_shard(TABLE, shard.table, "abc", endings=(".csv",))) == 3
    with pytest.raises(HstfError, match=r"a/out\.txt was changed"):
        read_shard(TABLE, shard.table, "abc", endings=(".csv", ".txt"))


def test_run_shard_keeps_edited_files(shard: Shard) -> None:
    shard.file("a").write_text("by hand")
    shard.file("c").write_text("too")
    shard.texts["a"] = "one"  # even though it is out of date
    with pytest.raises(HstfError, match="2 files that were edited by hand would be lost"):
        shard.run()
    assert shard.ran == []
    assert shard.file("a").read_text() == "by hand"
    for name in "ac":  # the way that the message shows
        shard.file(name).unlink()
    assert shard.run() == ["a", "c"]


def test_run_shard_accepts_cases_without_files(tmp_path: Path) -> None:
    work = CaseWork("a", {}, [], lambda: {"length": 1.0})
    path = tmp_path / "labels_0.csv"
    assert run_shard(TABLE, path, {}, [work], "labels") == 1
    assert run_shard(TABLE, path, {}, [work], "labels") == 0
    expected = {"case_id": "a", "length": 1.0, "files": [], "sha256": []}
    assert read_shard(TABLE, path, "a") == {"a": expected}


def test_run_shard_keeps_finished_cases_when_one_fails(shard: Shard) -> None:
    def full(name: str) -> None:
        if name == "b":
            raise HstfError("out.txt: could not be written (No space left on device).")

    shard.parameters["version"] = 2
    shard.table.unlink()
    with pytest.raises(HstfError, match="No space"):
        shard.run(full)
    assert not shard.table.exists()
    assert shard.run() == ["b", "c"]


def test_file_problems_names_an_edited_row(shard: Shard) -> None:
    row = TABLE.records(shard.table)[0]
    for broken in ({**row, "files": ["a/out.txt", "b/out.txt"]}, {"case_id": "a"}):
        assert "its row was edited" in file_problems(broken, shard.folder)[0]


def test_read_file_rows_reads_any_table(shard: Shard, tmp_path: Path) -> None:
    rows = read_file_rows(shard.table)
    assert [row["files"] for row in rows] == [["a/out.txt"], ["b/out.txt"], ["c/out.txt"]]
    write_text(tmp_path / "other.csv", "case_id,dice\na,0.5\n")
    assert read_file_rows(tmp_path / "other.csv") == []


def test_run_shard_records_the_inputs(shard: Shard) -> None:
    record = json.loads((shard.folder / ".records" / "a.json").read_text())
    assert record["inputs"] == {"text": "1"}
