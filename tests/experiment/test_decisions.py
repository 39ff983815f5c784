"""Decisions of reviewers: the table, and the version of the pseudo-label that each is bound to."""

from pathlib import Path

import pytest
from support.stages import overrides_in_force
from support.written_tables import WAYS

from hstf.config.experiment import Config
from hstf.experiment.decisions import COLUMNS, NO_VERSION, Decision
from hstf.experiment.layout import Layout
from hstf.experiment.overrides import note_decisions, override_messages
from hstf.experiment.review_tables import DECISIONS_SEEN
from hstf.experiment.schedule import Schedule
from hstf.runtime.errors import HstfError
from hstf.runtime.files import sha256_file, write_text

CASES = ("case_1", "case_2", "case_3")
HEADER = ",".join(COLUMNS)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    folder = str(tmp_path / "overrides")
    return Config(overrides=folder, output=str(tmp_path / "results"), rounds=3)


def write(config: Config, text: str) -> None:
    write_text(Layout.of(config).decisions, text)


def decide(config: Config, *rows: str) -> None:
    write(config, "\n".join([HEADER, *rows, ""]))


def make_pseudo_label(config: Config, number: int, case_id: str, content: str) -> str:
    """Write a file in place of a pseudo-label; return its SHA-256."""
    path = Layout.of(config).pseudo_label(number, case_id)
    write_text(path, content)
    return sha256_file(path)


def note(config: Config) -> str | None:
    return note_decisions(Layout.of(config), Schedule.of(config), CASES)


def decisions(config: Config, number: int = 1) -> dict[str, tuple[Decision, ...]]:
    found = overrides_in_force(config, number, CASES)
    return {case_id: override.decisions for case_id, override in found.items()}


def versions(config: Config) -> dict[str, list[str | None]]:
    found = decisions(config)
    return {name: [decision.version for decision in rows] for name, rows in found.items()}


def messages(config: Config) -> list[str]:
    rounds = range(1, config.rounds + 1)
    in_force = {number: overrides_in_force(config, number, CASES) for number in rounds}
    return override_messages(config, in_force)


# --- the table


@pytest.mark.parametrize(
    "text",
    [
        HEADER + '\n1,case_1,reject,mo,,"blurred, cut"\n',
        "\ufeff" + HEADER + '\r\n1,case_1,reject,mo,,"blurred, cut"\r\n\r\n',
        HEADER.replace(",", ";") + "\n1;case_1;reject;mo;;blurred, cut\n",
        HEADER.replace(",", "\t") + "\n1\tcase_1\treject\tmo\t\tblurred, cut\n",
        HEADER.upper() + '\n\n 1 , case_1 , REJECT , mo , ,"blurred, cut"\n,,,,,\n',
        "ticket," + HEADER + '\n7,1,case_1,Reject,mo,,"blurred, cut"\n',
    ],
    ids=["commas", "spreadsheet", "semicolons", "tabs", "letter case and blanks", "more columns"],
)
def test_decisions_are_read_as_people_write_them(config: Config, text: str) -> None:
    write(config, text)
    expected = Decision(1, "case_1", "reject", "mo", "", "blurred, cut")
    assert decisions(config) == {"case_1": (expected,)}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "its first line lacks the columns round, case_id"),
        ("1,case_1,reject,mo,2026-01-02,motion\n", "lacks the columns round, case_id"),
        ("round;case_id;action\n1;case_1;accept\n", "lacks the columns reviewer, date, reason"),
        (HEADER + ",Round\n", "column 'round' appears 2 times"),
        (HEADER + "\n1,CASE_1,accept,,,\n", "did you mean 'case_1'?"),
        (HEADER + ",sha256\n1,case_1,accept,,,,12ab\n", "sha256 '12ab' is not a SHA-256"),
    ],
)
def test_decisions_problems_are_named(config: Config, text: str, problem: str) -> None:
    write(config, text)
    with pytest.raises(HstfError) as error:
        decisions(config)
    assert problem in str(error.value)


def test_decisions_refuse_bytes_that_are_no_text(config: Config) -> None:
    decide(config)
    Layout.of(config).decisions.write_bytes(b"round,case_id\n\xff\xfe,a\n")
    with pytest.raises(HstfError, match=r"is not UTF-8\. Save it as 'CSV UTF-8'"):
        decisions(config)


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (['1,case_1,reject,mo,,"motion', "1,case_2,accept,mo,,"], 2),
        (['1,case_1,reject,mo,,"motion', '1,case_2,accept,mo,,leak"'], 2),
        (['1,case_1,reject,mo,,"motion', '1,case_2,accept,mo,,"fine"'], 2),
        (["1,case_3,reject,mo,,", '1,case_1,reject,"mo,,motion', '1,case_2,accept,mo",,'], 3),
        (['1,case_1,reject,mo,,"motion', '1,case_2,accept"'], 2),
        (['1,case_1,reject,mo,,"motion', '1,case_2,acept,mo"'], 2),
        (["1,case_3,reject,mo,,", '1,"case_1,reject,mo,,motion', "1,case_2,accept,mo,,"], 3),
    ],
)
def test_decisions_name_the_line_of_an_unclosed_quote(
    config: Config, rows: list[str], line: int
) -> None:
    decide(config, *rows)
    with pytest.raises(HstfError) as error:
        decisions(config)
    assert f"decisions.csv, line {line}: " in str(error.value)
    assert "a double quote is missing or surplus" in str(error.value)


def test_decisions_keep_a_reason_of_several_lines(config: Config) -> None:
    decide(config, '1,case_1,reject,mo,,"motion\n2 slices, cut"', "1,case_2,accept,,,")
    found = decisions(config)
    assert found["case_1"][0].reason == "motion\n2 slices, cut"
    assert set(found) == {"case_1", "case_2"}


def test_decisions_that_contradict_each_other_are_named(config: Config) -> None:
    decide(
        config,
        "1,case_1,reject,Ada,2026-01-02,motion",
        "1,case_2,accept,Ada,2026-01-02,",
        "1,case_1,accept,Bo,2026-01-03,fine",
        "2,case_2,reject,Bo,2026-01-03,",
    )
    with pytest.raises(HstfError) as error:
        decisions(config)
    assert "1 problems" in str(error.value)
    assert "lines 2 and 4: case_1 in round 1: Ada decided 'reject'" in str(error.value)
    assert "Bo decided 'accept'" in str(error.value)


def test_decisions_may_be_made_twice(config: Config) -> None:
    decide(config, "1,case_1,reject,Ada,,motion", "1,case_1,reject,Bo,,blurred")
    assert [decision.reviewer for decision in decisions(config)["case_1"]] == ["Ada", "Bo"]


# --- the versions


def test_note_decisions_binds_a_row_to_the_pseudo_label_on_disk(config: Config) -> None:
    first = make_pseudo_label(config, 1, "case_1", "first")
    decide(
        config, "1,case_1,accept,mo,2026-01-02,fine", "1,case_2,accept,mo,,", "1,case_3,reject,,,"
    )
    person = Layout.of(config).decisions.read_bytes()
    assert versions(config)["case_1"] == [None], "nothing has read the row yet"
    assert note(config) is None
    expected = {"case_1": [first], "case_2": [NO_VERSION], "case_3": [NO_VERSION]}
    assert versions(config) == expected
    make_pseudo_label(config, 1, "case_1", "second")
    make_pseudo_label(config, 1, "case_2", "second")
    note(config)
    assert versions(config) == expected, "the look was at the first one"
    assert Layout.of(config).decisions.read_bytes() == person


def test_note_decisions_writes_nothing_without_new_rows(config: Config) -> None:
    path = Layout.of(config).decisions_seen
    note(config)
    decide(config)
    note(config)
    assert not path.exists()
    decide(config, "1,case_1,accept,mo,,")
    note(config)
    before = path.stat()
    note(config)
    assert path.stat() == before


def test_note_decisions_binds_a_changed_row_again(config: Config) -> None:
    make_pseudo_label(config, 1, "case_1", "first")
    decide(config, "1,case_1,accept,mo,2026-01-02,fine")
    note(config)
    second = make_pseudo_label(config, 1, "case_1", "second")
    decide(config, "1,case_1,accept,mo,2026-01-05,fine")
    note(config)
    assert versions(config) == {"case_1": [second]}
    assert len(DECISIONS_SEEN.records(Layout.of(config).decisions_seen)) == 2


def test_note_decisions_keeps_the_version_of_a_row_that_comes_back(config: Config) -> None:
    first = make_pseudo_label(config, 1, "case_1", "first")
    decide(config, "1,case_1,accept,mo,,fine")
    note(config)
    decide(config)
    make_pseudo_label(config, 1, "case_1", "second")
    note(config)
    decide(config, "1,case_1,accept,mo,,fine")
    note(config)
    assert versions(config) == {"case_1": [first]}


@pytest.mark.parametrize(
    "date",
    [
        "02.03.2026",
        "3/2/2026",
        "02/03/26",
        "2026/3/2",
        "2.3.2026 00:00",
        "02-Mar-26",
        "2. März 2026",
        "March 2, 2026",
    ],
)
def test_note_decisions_recognises_a_row_that_a_spreadsheet_wrote(
    config: Config, date: str
) -> None:
    first = make_pseudo_label(config, 1, "case_1", "first")
    decide(config, '1,case_1,accept,Dr. Mo,2026-03-02,"small, but right"')
    note(config)
    make_pseudo_label(config, 1, "case_1", "second")
    header = HEADER.replace(",", ";").title()
    write(config, f"{header}\r\n1;case_1;accept;Dr. Mo ;{date};small, but right\r\n")
    note(config)
    assert versions(config) == {"case_1": [first]}


@pytest.mark.parametrize(
    ("first_date", "second_date"),
    [("03-Feb-26", "03-Mar-26"), ("2. März 2026", "2. April 2026"), ("Dec 1 26", "Nov 1 26")],
)
def test_note_decisions_takes_another_month_for_a_new_decision(
    config: Config, first_date: str, second_date: str
) -> None:
    make_pseudo_label(config, 1, "case_1", "first")
    decide(config, f"1,case_1,accept,mo,{first_date},fine")
    note(config)
    second = make_pseudo_label(config, 1, "case_1", "second")
    decide(config, f"1,case_1,accept,mo,{second_date},fine")
    note(config)
    assert versions(config) == {"case_1": [second]}


@pytest.mark.parametrize("time", ["10:30:15", "10:30:15.25"])
def test_note_decisions_recognises_a_time_that_lost_its_seconds(config: Config, time: str) -> None:
    first = make_pseudo_label(config, 1, "case_1", "first")
    decide(config, f"1,case_1,accept,mo,2026-03-02 {time},fine")
    note(config)
    make_pseudo_label(config, 1, "case_1", "second")
    decide(config, "1,case_1,accept,mo,02.03.2026 10:30,fine")
    note(config)
    assert versions(config) == {"case_1": [first]}
    decide(config, "1,case_1,accept,mo,02.03.2026 10:45,fine")
    note(config)
    assert versions(config) != {"case_1": [first]}


@pytest.mark.parametrize("way", WAYS)
def test_overrides_in_force_reads_each_form_of_the_table_alike(config: Config, way: str) -> None:
    text = f"{HEADER}\n1,case_1,Reject,AB,2026-03-02,motion\n1.0,case_2,accept,AB,,\n"
    path = Layout.of(config).decisions
    path.parent.mkdir(parents=True)
    path.write_bytes(WAYS[way](text))
    found = {case_id: rows[0].action for case_id, rows in decisions(config).items()}
    assert found == {"case_1": "reject", "case_2": "accept"}


def test_note_decisions_keeps_the_sha256_of_the_reviewer(config: Config) -> None:
    make_pseudo_label(config, 1, "case_1", "first")
    wanted = "0A" * 32
    write(config, f"{HEADER},SHA256\n1,case_1,accept,mo,,,{wanted}\n")
    note(config)
    assert versions(config) == {"case_1": [wanted.lower()]}
    assert not Layout.of(config).decisions_seen.exists()


def test_note_decisions_goes_on_in_a_folder_that_is_read_only(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pseudo_label(config, 1, "case_1", "first")
    decide(config, "1,case_1,accept,mo,,")

    def refuse(*_: object) -> None:
        raise HstfError("decisions_seen.csv: could not be written (Read-only file system).")

    monkeypatch.setattr(DECISIONS_SEEN, "write", refuse)
    message = note(config)
    assert message is not None
    assert "'accept' of case_1 has no effect" in message
    assert versions(config) == {"case_1": [None]}


def test_note_decisions_refuses_damaged_versions(config: Config) -> None:
    make_pseudo_label(config, 1, "case_1", "first")
    decide(config, "1,case_1,accept,mo,,")
    path = Layout.of(config).decisions_seen
    for damage in ("round,case_id\n1,case_1\n", f"{HEADER},sha256\n1,case_1,accept,mo,,,x\n"):
        path.write_text(damage)
        with pytest.raises(HstfError, match=r"decisions_seen\.csv: is damaged\."):
            note(config)


# --- messages


def test_override_messages_name_acceptances_of_another_version(config: Config) -> None:
    for case_id in CASES:
        make_pseudo_label(config, 1, case_id, "first")
    decide(config, *(f"1,{case_id},accept,mo,2026-01-02,fine" for case_id in CASES))
    note(config)
    assert messages(config) == []
    make_pseudo_label(config, 1, "case_1", "second")
    (message,) = messages(config)
    assert "round 1: the pseudo-label of case_1 was accepted, but not in the present" in message
    assert "confirm the row by a new date" in message
    make_pseudo_label(config, 1, "case_2", "second")
    (message,) = messages(config)
    assert "the pseudo-labels of 2 cases (case_1, case_2) were accepted" in message


def test_override_messages_name_acceptances_of_an_earlier_round(config: Config) -> None:
    make_pseudo_label(config, 1, "case_1", "first")
    make_pseudo_label(config, 2, "case_1", "of round 2")
    make_pseudo_label(config, 3, "case_1", "first")
    decide(config, "1,case_1,accept,mo,2026-01-02,fine")
    note(config)
    (message,) = messages(config)
    assert "round 2: the pseudo-label of case_1 was accepted in an earlier round" in message
    assert "add rows of round 2" in message


def test_override_messages_do_not_open_rejections(config: Config) -> None:
    make_pseudo_label(config, 1, "case_1", "first")
    decide(config, "1,case_1,reject,mo,2026-01-02,motion")
    note(config)
    make_pseudo_label(config, 1, "case_1", "second")
    assert messages(config) == []


def test_override_messages_name_a_corrected_label_that_is_rejected(config: Config) -> None:
    path = Layout.of(config).override(1, "case_1")
    write_text(path, "corrected")
    decide(config, "1,case_1,reject,mo,2026-01-02,motion")
    (message,) = messages(config)
    assert message.startswith(f"{path}: is not used, because ")
