"""``hstf forget`` names tables, scans and other places that a person must look at."""

import json
from pathlib import Path

import pytest
import yaml
from support.forgotten_files import CASES, files_of_case, table

from hstf.commands.forget import forget
from hstf.config.load import load_config
from hstf.experiment.case_mentions import mention_of
from hstf.experiment.scan_tables import DICOM_SERIES
from hstf.models.registry import load_network, save_network
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_text


def learns_from(root: Path, *cases: str) -> None:
    """Make the first student one that has learned from the labels of some cases."""
    path = root / "round_1" / "model" / "seed_0" / "weights.pt"
    network, facts = load_network(path)
    save_network(path, network, facts | {"trained_on": list(cases)})


def test_forget_names_tables_models_and_what_is_left_to_do(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learns_from(root, "p1")
    write_text(root / "export" / "model.json", "{}")
    track = '{"logged": true, "run": "round_1", "uri": "https://host", "run_id": "abc"}'
    write_text(root / "round_1" / "track.json", track)
    for name in files_of_case("p1")[:3]:
        write_text(root.parent / "second" / name, "x")
    write_text(root.parent / "third" / files_of_case("p10")[0], "x")
    forget("p1", root, is_confirmed=True)
    printed = capsys.readouterr().out
    for expected in (
        f"{root}/check.csv (line 2, {len(CASES) + 2})",
        f"{root}/round_1/evaluation/cases.csv (line 2)",
        f"{root}/logs/check.log",
        f"{root}/records/check.json",
        f"{root}/round_1/model/seed_0: from its label",
        f"{root}: all rounds after round 1",
        f"{root}/export: the exported model",
        "Remove the row of the case from cases.csv (line 2)",
        "Remove the row of the case from overrides/decisions.csv (line 3)",
        "Remove the row of the case from overrides/decisions_seen.csv (line 2)",
        "Delete p1_t1.nii.gz",
        "MLflow has round_1 in https://host (run id abc)",
        f"hstf forget p1 --results {root.parent}/second",
    ):
        assert expected in printed
    assert "seed_1: from" not in printed
    assert "third" not in printed
    assert "labels.csv (" not in printed, "the case has no row there"
    assert Path("p1_t1.nii.gz").is_file(), "scans are not touched"
    assert "p1," in Path("cases.csv").read_text(), "the case sheet is not touched"


@pytest.mark.parametrize("name", ["p1", "p1_t1"])
def test_forget_names_the_row_of_the_case_in_the_table_of_dicom_series(
    root: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    forget("p10", root, is_confirmed=True)
    printed = capsys.readouterr().out
    assert "imported from DICOM, remove the row of the case from dicom.csv, or from" in printed
    rows = [{"case_id": case, "series_uid": case} for case in ("p10", name)]
    DICOM_SERIES.write(Path("dicom.csv"), rows)
    forget("p1", root, is_confirmed=True)
    printed = capsys.readouterr().out
    assert "Remove the row of the case from dicom.csv (line 3). It leads back" in printed
    assert "If the scan was imported" not in printed
    assert len(DICOM_SERIES.records(Path("dicom.csv"))) == 2, "the table of people is not changed"


def test_forget_names_other_cases_of_the_patient(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, *rows = Path("cases.csv").read_text().splitlines()
    groups = {"p10": "patient", "p1_b": "patient"}
    lines = [f"{row},{groups.get(row.partition(',')[0], '')}" for row in rows]
    write_text(Path("cases.csv"), "\n".join([f"{header},group", *lines]) + "\n")
    forget("p10", root, is_confirmed=True)
    printed = capsys.readouterr().out
    assert f"another case of the patient: hstf forget p1_b --results {root}\n" in printed
    assert printed.count("another case of the patient") == 1


def test_forget_names_all_files_of_a_scan(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (tmp_path / "own.nii.gz", Path("p10.hdr"), Path("p10.img")):
        write_text(path, "voxels")
    target = tmp_path / "archive.nii.gz"
    Path("p1_t1.nii.gz").rename(target)
    Path("p1_t1.nii.gz").symlink_to(target)
    sheet = Path("cases.csv").read_text().replace("p10_t1.nii.gz", "p10.hdr")
    write_text(Path("cases.csv"), sheet.replace("p1.b_t1.nii.gz", "~/own.nii.gz"))
    expected = {
        "p1": ["p1_t1.nii.gz", str(target)],
        "p10": ["p10.hdr", "p10.img"],
        "p1.b": [str(tmp_path / "own.nii.gz")],
    }
    for case, files in expected.items():
        forget(case, root, is_confirmed=True)
        printed = capsys.readouterr().out
        for file in files:
            assert f"Delete {file}, unless it may be kept" in printed


def test_forget_names_predictions_that_were_made_elsewhere(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(root / "config.yaml").model_dump(mode="json")
    config["teacher"]["external"] = {
        "sam": {"files": "elsewhere/{case}.nii.gz", "labels": {"liver": 1}}
    }
    write_text(root / "config.yaml", yaml.safe_dump(config))
    for case in ("p1", "p10"):
        write_text(Path(f"elsewhere/{case}.nii.gz"), "voxels")
    forget("p1", root, is_confirmed=True)
    printed = capsys.readouterr().out
    assert "Delete elsewhere/p1.nii.gz, unless" in printed
    assert "elsewhere/p10.nii.gz" not in printed


def test_forget_names_other_files_among_the_overrides(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(Path("overrides/round_1/p1.nii.gz~"), "voxels")
    write_text(Path("overrides/README.txt"), "p1 was difficult")
    forget("p1", root, is_confirmed=True)
    printed = capsys.readouterr().out
    assert "Look at overrides/round_1/p1.nii.gz~" in printed
    assert "Look at overrides/README.txt" in printed
    assert "p1.target.nii.gz" not in printed, "the label of another case"


def test_forget_names_overrides_that_are_not_in_this_folder(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = root.resolve()
    monkeypatch.chdir(tmp_path)
    forget("p1", place, is_confirmed=True)
    assert f"{tmp_path / 'overrides'}, the folder of overrides" in capsys.readouterr().out


def test_forget_names_an_experiment_that_starts_from_the_warm_up(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(root / "config.yaml").model_dump(mode="json")
    config |= {"experiment": "second", "reuse": {"data": str(root), "warmup": str(root)}}
    write_text(root.parent / "second" / "config.yaml", yaml.safe_dump(config))
    forget("p1", root, is_confirmed=True)
    assert f"hstf forget p1 --results {root.parent}/second" in capsys.readouterr().out


def test_forget_names_files_that_only_mention_an_unknown_case(root: Path) -> None:
    write_text(root / "logs" / "audit_run.log", "about u99")
    with pytest.raises(HstfError, match=r"in the text of .*audit_run\.log"):
        forget("u99", root, is_confirmed=True)


def test_forget_names_tables_that_no_run_writes_and_keeps_them(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = root / "evaluation_of_somebody.csv"
    table(own, ["p1"])
    forget("p1", root, is_confirmed=True)
    printed = capsys.readouterr().out
    assert own.is_file()
    assert f"which the next run does not write again (1):\n  {own} (line 2)" in printed
    assert f"Remove the row of the case from {own} (line 2), or delete the table" in printed


def test_forget_works_without_the_case_sheet(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("cases.csv").unlink()
    assert forget("p1", root, is_confirmed=True)
    printed = capsys.readouterr().out
    assert f"next run writes again (3):\n  {root}/check.csv" in printed
    assert "these are is not known now. cases.csv: the case sheet is missing" in printed


def test_forget_names_runs_of_mlflow_after_a_failed_attempt(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = root / "compare" / "supervised_0"
    write_text(cell / "config.yaml", (root / "config.yaml").read_text())
    runs = [
        {"logged": True, "run": "round_1", "uri": uri, "run_id": f"id of {uri}"}
        for uri in ("sqlite:///old.db", "sqlite:///new.db", "sqlite:///cell.db")
    ]
    write_text(root / "tracked" / "round_1.json", json.dumps({"runs": runs[:2]}))
    failed = runs[1] | {"logged": False, "reason": "not reachable"}
    write_text(root / "round_1" / "track.json", json.dumps(failed))
    write_text(root / "round_2" / "track.json", json.dumps({"logged": False, "reason": "no"}))
    write_text(root / "round_3" / "track.json", "{")
    write_text(cell / "round_1" / "track.json", json.dumps(runs[2]))
    forget("p1", root, is_confirmed=True)
    printed = capsys.readouterr().out
    for run in runs:
        assert printed.count(f"round_1 in {run['uri']} (run id {run['run_id']})") == 1
    assert "None" not in printed
    assert f"perhaps a run of {root}/round_3/track.json, which is not readable" in printed


@pytest.mark.parametrize(
    ("text", "is_named"),
    [
        ("p1", True),
        ("a/p1/b", True),
        ("p1.nii.gz, p1.weight.nii.gz", True),
        ("scores of p1.", True),
        ('{"p1": 1}', True),
        ("p10 xp1 p1.b p1-b p1_t1 P1", False),
        ("2.p1 a-p1", False),
    ],
)
def test_mention_of_finds_whole_names_only(text: str, is_named: bool) -> None:
    assert bool(mention_of("p1").search(text)) is is_named
