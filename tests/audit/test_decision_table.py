"""Rows of ``decisions.csv`` are changed one by one; the rest of the table stays as it is."""

from pathlib import Path

import pytest

from hstf.audit.decision_table import DecisionTable
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_sheet

HEADER = "round,case_id,action,reviewer,date,reason"
ROW = {"round": "1", "case_id": "a", "action": "accept", "reviewer": "AB", "sha256": "0" * 64}


def table(folder: Path, content: str | bytes) -> DecisionTable:
    path = folder / "decisions.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return DecisionTable(path)


def test_new_table_has_all_columns_that_are_needed(tmp_path: Path) -> None:
    found = DecisionTable(tmp_path / "overrides" / "decisions.csv")
    found.replace(1, "a", [ROW | {"seconds": "7"}])
    assert found.path.read_text() == (f"{HEADER},sha256,seconds\n1,a,accept,AB,,,{'0' * 64},7\n")
    assert found.rows(1, "a") == (ROW | {"seconds": "7"},)
    assert found.rows(2, "a") == ()


def test_other_rows_separators_and_columns_stay(tmp_path: Path) -> None:
    text = (
        "\ufeffsep=;\r\n"
        "Round;Case_ID;action;room;reviewer;date;reason\r\n"
        "\r\n"
        '1;b;REJECT; 12 ;ZZ;02.01.2026;"two\r\nlines; here"\r\n'
        "1.0;a;reject;7;AB;;old\r\n"
        "2;a;accept;;AB;;\r\n"
    )
    found = table(tmp_path, text)
    assert found.rows(1, "a")[0]["room"] == "7"
    found.replace(1, "a", [ROW])
    content = found.path.read_bytes().decode("utf-8")
    assert (
        content
        == text.replace("1.0;a;reject;7;AB;;old\r\n", "").replace(
            "date;reason\r\n", "date;reason;sha256\r\n"
        )
        + f"1;a;accept;;AB;;;{'0' * 64}\r\n"
    )
    assert found.rows(1, "a") == (ROW,)
    assert len(found.rows(1, "b")) == len(found.rows(2, "a")) == 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("ending", ["", "\n", "\n\n"])
@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_all_forms_of_tables_can_be_changed(
    tmp_path: Path, encoding: str, newline: str, ending: str, delimiter: str
) -> None:
    text = f"{HEADER}\n1,ä,reject,Zoë,,möglich{ending}".replace(",", delimiter)
    found = table(tmp_path, text.replace("\n", newline).encode(encoding))
    found.replace(1, "a", [ROW])
    assert found.rows(1, "ä")[0]["reason"] == "möglich"
    assert found.rows(1, "a") == (ROW,)
    content = found.path.read_bytes()
    assert content.decode(encoding).replace(newline, "").count("\n") == 0
    found.replace(1, "a", [])
    assert found.rows(1, "a") == () and len(found.rows(1, "ä")) == 1


def test_table_without_rows_or_header_is_begun(tmp_path: Path) -> None:
    for text in ("", "\n\n", HEADER, f"{HEADER}\n"):
        found = table(tmp_path, text)
        found.replace(1, "a", [ROW])
        assert found.rows(1, "a") == (ROW,)


def test_same_rows_do_not_write_the_file(tmp_path: Path) -> None:
    found = table(tmp_path, f"{HEADER}\n1,a,reject,AB,,\n")
    before = found.path.stat().st_ino
    found.replace(1, "a", found.rows(1, "a"))
    found.replace(1, "b", [])
    assert found.path.stat().st_ino == before


@pytest.mark.parametrize(
    "text", ["case_id,action\na,accept\n", f'{HEADER}\n1,a,accept,AB,,"open\n', "\xff\xfe\xff"]
)
def test_table_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    found = table(tmp_path, text.encode("latin-1"))
    before = found.path.read_bytes()
    with pytest.raises(HstfError):
        found.replace(1, "a", [ROW])
    assert found.path.read_bytes() == before


def test_cells_of_any_content_come_back(tmp_path: Path) -> None:
    found = table(tmp_path, f"{HEADER}\n")
    for reason in ('say "no"', "a,b", "a;b", "=1+1", "@home", "-5", "'", "é漢"):
        found.replace(1, "a", [ROW | {"reason": reason}])
        assert found.rows(1, "a")[0]["reason"] == reason
        assert len(read_sheet(found.path)[1]) == 1
