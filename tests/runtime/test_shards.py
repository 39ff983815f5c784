"""Shards skip what is done, and neither half-done nor edited files pass for whole."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_csv, write_text
from hstf.runtime.shards import CaseWork, file_faults, read_table, run_shard


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
        assert run_shard(self.table, self.parameters, works, ["length"], "copy") == len(self.ran)
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


def test_nothing_is_done_twice(shard: Shard) -> None:
    before = shard.table.read_bytes()
    assert shard.run() == []
    assert shard.table.read_bytes() == before
    row = read_table(shard.table)["b"]
    assert row["files"] == "b/out.txt"
    assert row["length"] == "0.333333"


def test_what_changed_and_nothing_else_is_done_again(shard: Shard) -> None:
    shard.texts["b"] = "two"
    assert shard.run() == ["b"]
    shard.texts["d"] = "new"
    assert shard.run() == ["d"]
    shard.file("a").unlink()
    assert shard.run() == ["a"]
    del shard.texts["a"]
    assert shard.run() == []
    assert list(read_table(shard.table)) == ["b", "c", "d"]
    shard.parameters["version"] = 2
    assert shard.run() == ["b", "c", "d"]


def test_a_kill_between_files_and_record(shard: Shard) -> None:
    """The old record is gone before the files change: it cannot vouch for them, whatever they are by then."""

    def killed(name: str) -> None:
        if name == "b":
            raise KeyboardInterrupt

    shard.texts |= {"a": "one", "b": "two"}
    with pytest.raises(KeyboardInterrupt):
        shard.run(killed)
    shard.texts["b"] = "2"  # back to what the old record was about
    assert shard.run() == ["b"]
    assert shard.file("b").read_text() == "2"
    assert read_table(shard.table).keys() == {"a", "b", "c"}


def test_leftovers_of_a_killed_writer_are_removed(shard: Shard) -> None:
    leftover = shard.file("a").with_name(".tmp-0123abcd-out.txt")
    leftover.write_text("half")
    shard.texts["a"] = "one"
    shard.run()
    assert not leftover.exists()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"key": 1}', '{"row": {"files": "x", "sha256": ""}}']
)
def test_a_torn_record_is_none(shard: Shard, content: str) -> None:
    (shard.folder / ".records" / "a.json").write_text(content)
    assert shard.run() == ["a"]


def test_edits_are_named_with_the_way_to_an_override(shard: Shard) -> None:
    shard.file("a").write_text("by hand")
    shard.file("b").unlink()
    with pytest.raises(HstfError) as caught:
        read_table(shard.table)
    told = str(caught.value)
    assert "2 files are not as they were written" in told
    assert (
        f"a: {shard.file('a')} was changed after it was written. To correct a pseudo-label, put the file in"
        in told
    )
    assert f"b: {shard.file('b')} is missing" in told
    assert read_table(shard.table, verify=False).keys() == {"a", "b", "c"}


def test_edits_are_not_written_over(shard: Shard) -> None:
    shard.file("a").write_text("by hand")
    shard.file("c").write_text("too")
    shard.texts["a"] = "one"  # even though it is out of date
    with pytest.raises(HstfError, match="2 files would be lost that were changed by hand"):
        shard.run()
    assert shard.ran == []
    assert shard.file("a").read_text() == "by hand"
    for name in "ac":  # the way that the message shows
        shard.file(name).unlink()
    assert shard.run() == ["a", "c"]


def test_cases_without_files(tmp_path: Path) -> None:
    work = CaseWork("a", {}, [], lambda: {"source": "rejected"})
    table = tmp_path / "labels_0.csv"
    assert run_shard(table, {}, [work], ["source"], "labels") == 1
    assert run_shard(table, {}, [work], ["source"], "labels") == 0
    assert read_table(table)["a"] == {
        "case_id": "a",
        "source": "rejected",
        "files": "",
        "sha256": "",
    }


def test_a_failed_case_keeps_the_others(shard: Shard) -> None:
    def full(name: str) -> None:
        if name == "b":
            raise HstfError("out.txt: could not be written (No space left on device).")

    shard.parameters["version"] = 2
    shard.table.unlink()
    with pytest.raises(HstfError, match="No space"):
        shard.run(full)
    assert not shard.table.exists()
    assert shard.run() == ["b", "c"]


def test_an_edited_table_is_a_sentence(shard: Shard) -> None:
    row = read_csv(shard.table)[0]
    for broken in ({**row, "files": "a/out.txt;b/out.txt"}, {"case_id": "a"}):
        assert "its row was edited" in file_faults(broken, shard.folder)[0]


def test_the_record_tells_what_a_case_was_made_from(shard: Shard) -> None:
    record = json.loads((shard.folder / ".records" / "a.json").read_text())
    assert record["inputs"] == {"text": "1"}
