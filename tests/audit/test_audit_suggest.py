"""What to label next: the table, cases set aside, and the computation that the desk starts."""

import sys
from pathlib import Path
from typing import Any

import pytest
from support.audit_desk import Browser

from hstf.audit import children
from hstf.audit.desk import Desk
from hstf.audit.suggest import LOG
from hstf.experiment.review_tables import SET_ASIDE, SUGGEST
from hstf.runtime.files import write_text


def suggestion(case_id: str, **more: object) -> dict[str, Any]:
    """Return a row of the table."""
    row = {"rank": 1, "kind": "scan", "case_id": case_id, "how": "doubt", "structure": "organ"}
    row |= {"doubt_ml": 2.0, "volume_ml": 9.0, "like": "", "reason": "doubt about 2 ml of organ"}
    return row | more


@pytest.fixture
def browser(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Browser:
    monkeypatch.setattr(children, "_started", {})
    rows = [suggestion("good"), suggestion("bad", kind="slice", slice=3, axis=2, how="random")]
    SUGGEST.write(desk.layout.root / "suggest" / "suggest.csv", rows)
    return Browser(desk)


def put_aside(browser: Browser, case_id: str, action: str) -> dict[str, Any]:
    answer = browser.post("/api/suggest/aside", {"case_id": case_id, "action": action})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_suggest_shows_the_table_with_its_date(browser: Browser) -> None:
    found = browser.get("/api/suggest").json()
    assert [row["case_id"] for row in found["rows"]] == ["good", "bad"]
    assert found["rows"][1]["slice"] == 3 and found["rows"][1]["how"] == "random"
    assert found["date"].startswith("20") and not found["running"] and not found["problems"]


def test_suggest_without_a_table(desk: Desk) -> None:
    found = Browser(desk).get("/api/suggest").json()
    assert found["date"] is None and found["rows"] == found["aside"] == []


def test_set_aside_is_stored_as_the_command_stores_it(browser: Browser, desk: Desk) -> None:
    found = put_aside(browser, "good", "skip")
    assert [row["case_id"] for row in found["rows"]] == ["bad"]
    assert put_aside(browser, "bad", "later")["rows"] == []
    path = desk.layout.root / "suggest" / "set_aside.csv"
    assert SET_ASIDE.records(path) == [
        {"case_id": "good", "action": "skip", "round": 1},
        {"case_id": "bad", "action": "later", "round": 1},
    ]
    found = put_aside(browser, "good", "again")
    assert [row["case_id"] for row in found["rows"]] == ["good"]
    assert [row["case_id"] for row in found["aside"]] == ["bad"]


def test_set_aside_refuses_unknown_cases_actions_and_other_sites(browser: Browser) -> None:
    wrong = browser.post("/api/suggest/aside", {"case_id": "../nobody", "action": "skip"})
    assert wrong.status_code == 404
    wrong = browser.post("/api/suggest/aside", {"case_id": "good", "action": "drop"})
    assert wrong.status_code == 400
    client = browser.client
    for path in ("/api/suggest", "/api/suggest/aside"):
        assert client.post(path, json={"case_id": "good", "action": "skip"}).status_code == 403
    assert browser.get("/api/suggest").json()["aside"] == []


def test_a_damaged_table_is_named(browser: Browser, desk: Desk) -> None:
    write_text(desk.layout.root / "suggest" / "suggest.csv", "rank,kind\n1,scan\n")
    (problem,) = browser.get("/api/suggest").json()["problems"]
    assert "suggest.csv" in problem


def program(folder: Path, text: str) -> str:
    """Write a program in place of Python."""
    path = folder / "program"
    path.write_text(f"#!{sys.executable}\nimport sys, time\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_compute_runs_the_command_and_shows_how_far_it_is(
    browser: Browser, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "print(*sys.argv[1:])\nprint('suggest: 2/5, 1/s, 3 s left', flush=True)\ntime.sleep(2)"
    monkeypatch.setattr(sys, "executable", program(Path.cwd(), text))
    assert browser.post("/api/suggest", {"scans": 4, "slices": 0}).json() == {"running": True}
    again = browser.post("/api/suggest", {"scans": 4, "slices": 0})
    assert again.status_code == 409 and "already" in again.json()["error"]
    (process,) = children._started.values()
    found = browser.get("/api/suggest").json()
    assert found["running"]
    while process.poll() is None and found["total"] is None:
        found = browser.get("/api/suggest").json()
    assert (found["done"], found["total"]) == (2, 5)
    assert process.wait(30) == 0
    first = (desk.layout.root / LOG).read_text().splitlines()[0]
    assert first == f"-m hstf suggest {desk.layout.root} --scans 4 --slices 0"
    found = browser.get("/api/suggest").json()
    assert not found["running"] and not found["failed"]


def test_a_failed_computation_shows_its_last_lines(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys, "executable", program(Path.cwd(), "print('hstf suggest: no weights')\nsys.exit(1)")
    )
    assert browser.post("/api/suggest", {"scans": 1, "slices": 1}).status_code == 200
    (process,) = children._started.values()
    assert process.wait(30) == 1
    found = browser.get("/api/suggest").json()
    assert found["failed"] and found["log_tail"] == ["hstf suggest: no weights"]


@pytest.mark.parametrize("scans", [-1, 1001, True, 1.5, "5; rm", None])
def test_compute_refuses_what_is_no_number(browser: Browser, scans: object) -> None:
    answer = browser.post("/api/suggest", {"scans": scans, "slices": 1})
    assert answer.status_code == 400 and "whole number" in answer.json()["error"]
    assert not children._started
