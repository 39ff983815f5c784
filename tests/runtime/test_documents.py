"""JSON documents: saving, loading, and errors that name the invalid values."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from hstf.runtime.documents import MAXIMUM_PROBLEMS, Document, Part
from hstf.runtime.errors import HstfError


class Point(Part):
    """A part of a document."""

    x: float
    y: float = 0.0


class Route(Document):
    """A document with all kinds of values."""

    stage = "plan"

    name: str
    shape: tuple[int, int, int]
    points: list[Point]
    note: str | None = None


ROUTE = Route(name="a", shape=(1, 2, 3), points=[Point(x=1.5), Point(x=2.0, y=-1.0)])


def write(path: Path, **changes: object) -> Path:
    """Write the content of the document with some changes."""
    path.write_text(json.dumps(ROUTE.to_json() | changes))
    return path


def test_to_json_has_plain_values_in_the_order_of_the_fields() -> None:
    content = ROUTE.to_json()
    assert content == {
        "name": "a",
        "shape": [1, 2, 3],
        "points": [{"x": 1.5, "y": 0.0}, {"x": 2.0, "y": -1.0}],
        "note": None,
    }
    assert list(content) == ["name", "shape", "points", "note"]


def test_load_returns_what_save_wrote(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "route.json"
    ROUTE.save(path)
    assert Route.load(path) == ROUTE


def test_save_writes_indented_json(tmp_path: Path) -> None:
    ROUTE.save(tmp_path / "route.json")
    assert json.loads((tmp_path / "route.json").read_text()) == ROUTE.to_json()
    assert len((tmp_path / "route.json").read_text().splitlines()) > 4


def test_save_of_equal_documents_writes_equal_bytes(tmp_path: Path) -> None:
    ROUTE.save(tmp_path / "a.json")
    Route.load(tmp_path / "a.json").save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_instances_are_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ROUTE.name = "b"  # type: ignore[misc]


def test_load_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(HstfError, match=r"route\.json"):
        Route.load(tmp_path / "route.json")


def test_load_refuses_damaged_json(tmp_path: Path) -> None:
    path = tmp_path / "route.json"
    path.write_text('{"name": ')
    with pytest.raises(HstfError, match=r"route\.json"):
        Route.load(path)


def test_load_names_the_stage_that_writes_the_document(tmp_path: Path) -> None:
    path = write(tmp_path / "route.json", shape=[1, 2])
    with pytest.raises(HstfError, match="Delete the file and run the stage 'plan' again"):
        Route.load(path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"shape": [1, 2, "x"]}, "shape.2: Input should be a valid integer"),
        ({"shape": None}, "shape: Input should be a valid tuple"),
        ({"points": [{"y": 1.0}]}, "points.0.x: Field required"),
        ({"points": [{"x": 1.0, "z": 1.0}]}, "points.0.z: Extra inputs are not permitted"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
    ],
)
def test_load_names_the_place_of_an_invalid_value(
    tmp_path: Path, changes: dict[str, object], problem: str
) -> None:
    with pytest.raises(HstfError) as caught:
        Route.load(write(tmp_path / "route.json", **changes))
    assert problem in str(caught.value)


def test_load_refuses_a_file_that_is_no_object(tmp_path: Path) -> None:
    path = tmp_path / "route.json"
    path.write_text("[1, 2]")
    with pytest.raises(HstfError, match="Input should be a valid dictionary"):
        Route.load(path)


def test_load_lists_a_limited_number_of_problems(tmp_path: Path) -> None:
    path = write(tmp_path / "route.json", points=[{}] * 50)
    with pytest.raises(HstfError) as caught:
        Route.load(path)
    assert str(caught.value).count("Field required") == MAXIMUM_PROBLEMS
