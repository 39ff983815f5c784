"""Typed tables: reading, writing, and errors that name the invalid cells."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hstf.experiment.tables import TABLES
from hstf.runtime.errors import HstfError
from hstf.runtime.tables import MAXIMUM_PROBLEMS, Column, Table, split_list

TABLE = Table(
    "results",
    "results.csv",
    "A result.",
    [
        Column("case_id", "text", "The case."),
        Column("count", "integer", "A number of voxels.", "voxels"),
        Column("dice", "number", "A score.", "0 to 1"),
        Column("accepted", "flag", "Whether it is accepted."),
        Column("files", "list", "Its files."),
        Column("dice_<structure>", "number", "Score of each structure."),
        Column("note", "text", "A note.", optional=True),
        Column("f1_<structure>", "number", "Lesion score.", optional=True),
    ],
)
REQUIRED = ["case_id", "count", "dice", "accepted", "files"]

ROW: dict[str, Any] = {
    "case_id": "a",
    "count": 3,
    "dice": 0.25,
    "accepted": True,
    "files": ["a.nii.gz", "b.nii.gz"],
}
EMPTY: dict[str, Any] = {
    "case_id": "",
    "count": None,
    "dice": None,
    "accepted": None,
    "files": [],
}


def written(path: Path, *lines: str) -> Path:
    """Write the lines of a CSV file."""
    path.write_text("\n".join(lines) + "\n")
    return path


def problems_of(path: Path) -> str:
    """Read a table, which must fail, and return the message."""
    with pytest.raises(HstfError) as caught:
        TABLE.records(path)
    return str(caught.value)


# ---- records and write


def test_records_returns_the_values_that_write_wrote(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "results.csv"
    TABLE.write(path, [ROW, EMPTY])
    assert TABLE.records(path) == [ROW, EMPTY]


def test_write_writes_plain_text(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    TABLE.write(path, [ROW, EMPTY])
    assert path.read_text().splitlines() == [
        "case_id,count,dice,accepted,files",
        "a,3,0.25,true,a.nii.gz;b.nii.gz",
        ",,,,",
    ]


def test_write_leaves_missing_values_empty(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    TABLE.write(path, [{"case_id": "a"}])
    assert TABLE.records(path) == [EMPTY | {"case_id": "a"}]


def test_write_without_rows_writes_the_header(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    TABLE.write(path, [], ["liver"])
    assert path.read_text().splitlines() == ["case_id,count,dice,accepted,files,dice_liver"]
    assert TABLE.records(path) == []


def test_write_accepts_a_generator(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    TABLE.write(path, (row for row in [ROW]))
    assert TABLE.records(path) == [ROW]


def test_write_refuses_an_unknown_column(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    with pytest.raises(KeyError, match="table 'results' has no column colour"):
        TABLE.write(path, [ROW | {"colour": "red"}])
    assert not path.exists()


def test_write_uses_the_given_header(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    TABLE.write(path, [{"dice": 1.0, "case_id": "a"}], header=["dice", "case_id"])
    assert path.read_text().splitlines() == ["dice,case_id", "1,a"]


def test_write_writes_whole_numbers_without_decimals(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    TABLE.write(path, [ROW | {"dice": 1}])
    assert path.read_text().splitlines()[1] == "a,3,1,true,a.nii.gz;b.nii.gz"


# ---- columns of structures and optional columns


def test_header_has_a_column_for_each_structure() -> None:
    assert TABLE.header(["liver", "spleen"]) == [*REQUIRED, "dice_liver", "dice_spleen"]


def test_header_has_optional_columns_only_if_a_row_has_them() -> None:
    rows = [ROW, ROW | {"note": "x", "f1_liver": 0.5}]
    assert TABLE.header((), rows) == [*REQUIRED, "note", "f1_liver"]


def test_records_reads_columns_of_structures_and_optional_columns(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    row = ROW | {"dice_liver": 0.5, "f1_liver": 1.0, "note": "x"}
    TABLE.write(path, [row, ROW], ["liver"])
    assert TABLE.records(path) == [row, ROW | {"dice_liver": None, "f1_liver": None, "note": ""}]


def test_column_prefers_the_exact_name() -> None:
    table = Table(
        "t",
        "t.csv",
        "A row.",
        [Column("dice_<structure>", "number", "A score."), Column("dice_note", "text", "A note.")],
    )
    assert table.column("dice_note").kind == "text"
    assert table.column("dice_liver").kind == "number"


def test_column_refuses_an_unknown_name() -> None:
    with pytest.raises(KeyError, match="table 'results' has no column 'colour'"):
        TABLE.column("colour")


@pytest.mark.parametrize(
    ("template", "name", "expected"),
    [
        ("dice", "dice", True),
        ("dice", "dice_liver", False),
        ("dice_<structure>", "dice_left_kidney", True),
        ("dice_<structure>", "dice_", False),
        ("dice_<structure>", "f1_liver", False),
        ("vs_<reference>_low", "vs_supervised_low", True),
        ("vs_<reference>_low", "vs_supervised_high", False),
        ("<metric>_<structure>", "hd95_mm_liver", True),
    ],
)
def test_matches_compares_names_with_templates(template: str, name: str, expected: bool) -> None:
    assert Column(template, "number", "A value.").matches(name) is expected


# ---- invalid files


@pytest.mark.parametrize(
    ("column", "cell", "problem"),
    [
        ("count", "3.5", "line 2: count is '3.5', expected integer"),
        ("count", "many", "line 2: count is 'many', expected integer"),
        ("dice", "high", "line 2: dice is 'high', expected number"),
        ("accepted", "yes", "line 2: accepted is 'yes', expected true or false"),
        ("accepted", "1", "line 2: accepted is '1', expected true or false"),
    ],
)
def test_records_names_a_cell_of_another_type(
    tmp_path: Path, column: str, cell: str, problem: str
) -> None:
    cells = {"case_id": "a", "count": "3", "dice": "0.5", "accepted": "true", "files": ""}
    cells[column] = cell
    path = written(tmp_path / "results.csv", ",".join(cells), ",".join(cells.values()))
    assert problem in problems_of(path)


@pytest.mark.parametrize(("cell", "flag"), [("true", True), ("False", False), ("TRUE", True)])
def test_records_reads_flags_in_any_case(tmp_path: Path, cell: str, flag: bool) -> None:
    path = written(tmp_path / "results.csv", ",".join(REQUIRED), f"a,1,0.5,{cell},")
    assert TABLE.records(path)[0]["accepted"] is flag


def test_records_names_all_invalid_cells(tmp_path: Path) -> None:
    path = written(tmp_path / "results.csv", ",".join(REQUIRED), "a,x,0.5,true,", "b,1,y,true,")
    message = problems_of(path)
    assert "line 2: count is 'x'" in message
    assert "line 3: dice is 'y'" in message
    assert "Delete the file and run the stage that writes it again" in message


def test_records_lists_a_limited_number_of_problems(tmp_path: Path) -> None:
    path = written(tmp_path / "results.csv", ",".join(REQUIRED), *["a,x,0.5,true,"] * 50)
    assert problems_of(path).count("count is 'x'") == MAXIMUM_PROBLEMS


@pytest.mark.parametrize("row", ["b,3,0.5,true,,surplus", "b,3"])
def test_records_names_rows_of_another_length(tmp_path: Path, row: str) -> None:
    path = tmp_path / "results.csv"
    path.write_text("\n".join([",".join(REQUIRED), row, "a,3,0.5,true,"]) + "\n")
    with pytest.raises(HstfError, match="line 2: has another number of cells than the header"):
        TABLE.records(path)


def test_records_names_missing_and_unknown_columns(tmp_path: Path) -> None:
    path = written(tmp_path / "results.csv", "case_id,count,dice,files,colour", "a,1,0.5,,red")
    message = problems_of(path)
    assert "column 'accepted' is missing" in message
    assert "column 'colour' is unknown" in message


def test_records_does_not_require_optional_columns(tmp_path: Path) -> None:
    path = written(tmp_path / "results.csv", ",".join(REQUIRED), "a,1,0.5,true,")
    assert TABLE.records(path)[0].keys() == set(REQUIRED)


def test_records_names_a_missing_file(tmp_path: Path) -> None:
    assert "results.csv" in problems_of(tmp_path / "results.csv")


# ---- frames


def test_read_returns_a_type_for_each_kind(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    TABLE.write(path, [ROW, EMPTY], ["liver"])
    frame = TABLE.read(path)
    assert frame["count"].dtype == "Int64"
    assert frame["dice"].dtype == "float64"
    assert frame["accepted"].dtype == "boolean"
    assert frame["case_id"].tolist() == ["a", ""]
    assert frame["files"].tolist() == [["a.nii.gz", "b.nii.gz"], []]
    assert frame["count"].isna().tolist() == [False, True]
    assert frame["dice_liver"].isna().all()


def test_read_of_an_empty_table_has_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    TABLE.write(path, [])
    frame = TABLE.read(path)
    assert list(frame.columns) == REQUIRED
    assert frame["dice"].dtype == "float64"


def test_write_of_a_frame_writes_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    rows = [ROW | {"dice_liver": 0.125, "note": "x"}, EMPTY]
    TABLE.write(path, rows, ["liver"])
    again = tmp_path / "again.csv"
    TABLE.write(again, TABLE.read(path), ["liver"])
    assert again.read_bytes() == path.read_bytes()


def test_write_of_a_frame_keeps_integers_after_a_selection(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    TABLE.write(path, [ROW, ROW | {"case_id": "b", "count": 7}])
    frame = TABLE.read(path)
    assert isinstance(frame, pd.DataFrame)
    TABLE.write(path, frame[frame["case_id"] == "b"])
    assert TABLE.records(path) == [ROW | {"case_id": "b", "count": 7}]


# ---- documentation


def test_markdown_has_a_line_for_each_column() -> None:
    lines = TABLE.markdown().splitlines()
    assert lines[0] == "| column | type | unit or range | meaning |"
    assert lines[3] == "| `count` | integer | voxels | A number of voxels. |"
    assert lines[5] == "| `accepted` | true or false |  | Whether it is accepted. |"
    assert len(lines) == 2 + len(TABLE.columns)


@pytest.mark.parametrize(("cell", "expected"), [("", []), ("a", ["a"]), ("a;b", ["a", "b"])])
def test_split_list_splits_at_semicolons(cell: str, expected: list[str]) -> None:
    assert split_list(cell) == expected


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_descriptions_of_tables_are_complete(table: Table) -> None:
    names = [column.name for column in table.columns]
    assert len(set(names)) == len(names)
    assert table.meaning.endswith(".")
    assert all(column.meaning.endswith(".") for column in table.columns)
    optional = [column.optional for column in table.columns]
    assert optional == sorted(optional), "optional columns come last"
