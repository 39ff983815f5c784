"""``hstf forget`` names the models that have learned from a case."""

from pathlib import Path
from typing import Any

import pytest
from support.report_files import NO_FILES

from hstf.commands.forget import forget
from hstf.experiment.records import JobRecord
from hstf.experiment.round_tables import LABELS
from hstf.models.registry import load_network, save_network
from hstf.runtime.files import write_text


def test_forget_names_a_pre_training_and_removes_its_pictures(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, facts = load_network(root / "round_1" / "model" / "seed_0" / "weights.pt")
    folder = root / "pretrain"
    save_network(folder / "weights.pt", network, facts | {"images_of": ["p1"]})
    write_text(folder / "examples.png", "picture")
    assert folder / "examples.png" in forget("p1", root, is_confirmed=True)
    assert f"{folder}: from its image, and all rounds, which start" in capsys.readouterr().out
    forget("p10", root, is_confirmed=True)
    assert "from its image" not in capsys.readouterr().out


def test_forget_names_students_that_learned_from_a_pseudo_label(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forget("p10", root, is_confirmed=True)
    printed = capsys.readouterr().out
    for member in ("seed_0", "seed_1"):
        assert f"model/{member}: from its pseudo-label (automatic)" in printed
    forget("p2", root, is_confirmed=True)
    assert "Learned from" not in capsys.readouterr().out, "a test case"


def write_record(root: Path, name: str, facts: dict[str, Any], before: dict[str, str]) -> JobRecord:
    """Write the record of a job."""
    record = JobRecord(
        job=name,
        key=name,
        facts=facts,
        sources={},
        before=before,
        outputs={},
        hstf="1",
        commit=None,
        code_sha256="1",
        packages={},
        machine="here",
    )
    record.save(root / "records" / f"{name}.json")
    return record


def test_forget_names_students_whose_labels_were_made_again(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = write_record(root, "labels_table.round_1", {}, {})
    facts = {"other_patients": [["p10", ""], ["p1.b", ""]]}
    before = {labels.job: labels.digest}
    write_record(root, "student.round_1.seed_0", facts, before)
    write_record(root, "student.round_1.seed_1", facts, before | {labels.job: "earlier"})
    rows = [{"case_id": case, "source": "rejected", **NO_FILES} for case in ("p10", "p1.b")]
    LABELS.write(root / "round_1" / "labels.csv", rows)
    forget("p10", root, is_confirmed=True)
    printed = capsys.readouterr().out
    assert "model/seed_1: perhaps: the labels of its round were made again" in printed
    assert "model/seed_0:" not in printed, "it has read this table"
    assert f"{root}: all rounds after round 1" in printed


def test_forget_names_students_that_learned_from_the_image(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_record(root, "student.round_1.seed_0", {"other_patients": [["p10", ""]]}, {})
    (root / "round_1" / "labels.csv").unlink()
    forget("p10", root, is_confirmed=True)
    printed = capsys.readouterr().out
    assert "model/seed_0: from its image" in printed
    assert "model/seed_1:" not in printed


def test_forget_names_models_that_no_run_trains_again(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_again = root / "round_1" / "model" / "seed_0"
    network, facts = load_network(made_again / "weights.pt")
    of_case = facts | {"trained_on": ["former"]}
    removed = [root / "round_3" / "model" / "seed_0", root / "round_1" / "model" / "seed_7"]
    for folder in (made_again, *removed):
        save_network(folder / "weights.pt", network, of_case)
    write_text(root / "round_3" / "state" / "seed_0" / "state.pt", "state")
    assert forget("former", root, is_confirmed=True) == [], "only models are left of it"
    printed = capsys.readouterr().out
    state = root / "round_3" / "state" / "seed_0"
    assert f"Delete {removed[0]} and {state}: no run makes it again" in printed
    assert f"Delete {removed[1]}: no run makes it again" in printed
    assert f"Delete {made_again}" not in printed
