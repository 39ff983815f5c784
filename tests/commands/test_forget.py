"""``hstf forget`` finds and removes everything of a case, and nothing of other cases."""

import contextlib
import io
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.processes import in_another_process
from support.report_files import NO_FILES
from support.tiny_model import tiny_experiment

from hstf.cli import main
from hstf.commands.forget import _confirms, forget
from hstf.config.load import load_config
from hstf.experiment import case_files
from hstf.experiment.case_files import find_traces
from hstf.experiment.case_mentions import mention_of
from hstf.experiment.jobs import Jobs
from hstf.experiment.last_run import log_of
from hstf.experiment.layout import Layout
from hstf.experiment.records import JobRecord
from hstf.experiment.review_tables import SET_ASIDE, SUGGEST
from hstf.experiment.round_tables import LABELS
from hstf.experiment.scan_tables import DICOM_SERIES
from hstf.models.registry import load_network, save_network
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_csv, write_text

ROOT = Path("results/liver")
PREFIXED = ["p10", "p1.b", "p1-b", "p1_b", "p1.target", "p1.lesions", "P1", "xp1"]
CASES = ["p1", *PREFIXED, "round_1", "labels", "report", "p2"]
"""Names that begin or end with another one, or are the names of folders."""


def files_of_case(case: str) -> list[str]:
    """Return the files of a case in an experiment of one round."""
    files = [
        f"preprocessed/{case}/image.b2nd",
        f"preprocessed/.records/{case}.json",
        f"round_0/out_of_fold/{case}/agreement.json",
        f"round_0/out_of_fold/.records/{case}.json",
        f"round_1/evaluation/predictions/{case}.nii.gz",
        f"round_1/evaluation/scores/{case}.json",
        f"suggest/templates/{case}.nii.gz",
        f"external/sam/{case}.nii.gz",
        f"external/sam/{case}.b2nd",
        f"external/sam/.records/{case}.json",
        f"external/sam/.work/{case}/image.nii.gz",
        f"round_1/evaluation/.records/{case}.json",
        f"round_1/labels/.records/{case}.json",
        f"round_1/labels/{case}/target.b2nd",
        f"round_1/pseudo_labels/overlays/{case}.png",
        f"round_1/pseudo_labels/.tmp-0a1b2c3d-{case}.nii.gz",
        f"round_1/teacher/{case}/probabilities.b2nd",
    ]
    for folder, suffixes in {
        "round_1/labels": ["nii.gz", "weight.nii.gz"],
        "round_1/pseudo_labels": ["nii.gz", "weight.nii.gz", "target.b2nd", "lesions.csv"],
    }.items():
        files += [f"{folder}/{case}.{suffix}" for suffix in suffixes]
    return files


def table(path: Path, cases: Sequence[str]) -> None:
    """Write a table with a row for each case."""
    write_csv(path, [{"case_id": case, "found": "x"} for case in cases], ["case_id", "found"])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an experiment of one round and all files of all cases."""
    folder = tmp_path_factory.mktemp("original")
    with contextlib.chdir(folder):
        write_experiment()
    return folder


@pytest.fixture
def root(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the experiment, in the working directory."""
    monkeypatch.chdir(shutil.copytree(original, tmp_path / "copy"))
    return ROOT


def write_experiment() -> None:
    config = tiny_experiment(Path())
    config = config.model_copy(update={"overrides": "overrides", "cases": "cases.csv"})
    root = Layout.of(config).root
    assert root == ROOT
    for case in CASES:
        write_text(Path(f"{case}_t1.nii.gz"), "voxels")
    # A sheet cannot have two names that differ in their letter case only.
    write_sheet([case for case in CASES if case != "P1"])
    write_text(root / "config.yaml", yaml.safe_dump(config.model_dump(mode="json")))
    for case in CASES:
        for name in files_of_case(case):
            write_text(root / name, f"of {case}")
        write_text(Path(f"overrides/round_1/{case}.nii.gz"), "corrected")
    table(root / "check.csv", [*CASES, *CASES])
    table(root / "round_1" / "evaluation" / "cases.csv", CASES)
    table(root / "round_1" / "pseudo_labels" / "unlabelled_0.csv", CASES)
    LABELS.write(
        root / "round_1" / "labels.csv",
        [{"case_id": case, "source": "automatic", **NO_FILES} for case in CASES[1:-1]],
    )
    pages = ("report/report.html", "logs/check.log", ".check_cache.json", "records/check.json")
    for name in pages:
        write_text(root / name, " ".join(CASES))
    write_text(root / "report" / "calibration.png", "picture")
    table(Path("overrides/decisions_seen.csv"), CASES)
    write_text(Path("overrides/decisions.csv"), "round,case_id,action\n1,p10,reject\n1,p1,accept\n")


def write_sheet(cases: Sequence[str]) -> None:
    """Write a case sheet with ``cases``: a labelled one, unlabelled ones, and a test case."""
    splits = ["labelled", *["unlabelled"] * (len(cases) - 2), "test"]
    rows = []
    for case, split in zip(cases, splits, strict=True):
        label = "" if split == "unlabelled" else f"{case}_label.nii.gz"
        rows.append({"case_id": case, "image": f"{case}_t1.nii.gz", "label": label, "split": split})
    write_csv(Path("cases.csv"), rows, list(rows[0]))


def write_jobs(folder: Path, jobs: Jobs, names: Sequence[str]) -> dict[str, set[str]]:
    """Write a table, record, key and log of jobs. Each record names the cases of the shard.

    Args:
        folder: the folder of the experiment.
        jobs: the jobs of the experiment.
        names: names of jobs of shards.

    Returns:
        The files of each job.
    """
    written = {}
    for job in jobs.with_results():
        if job.name not in names:
            continue
        (path,) = jobs.outputs(job)
        output = path.relative_to(jobs.layout.root)
        cases = [case.case_id for case in jobs.shards[job.part]]
        table(folder / output, cases)
        record = {"sources": cases, "outputs": {str(output): {}}}
        notes = [f"records/{job.name}.json", f"keys/{job.name}.json", str(log_of(job.name))]
        for name, content in zip(notes, (record, {"job": job.name}, {}), strict=True):
            write_text(folder / name, json.dumps(content))
        written[job.name] = {f"{folder}/{name}" for name in (str(output), *notes)}
    assert len(written) == len(names)
    return written


def learns_from(root: Path, *cases: str) -> None:
    """Make the first student one that has learned from the labels of some cases."""
    path = root / "round_1" / "model" / "seed_0" / "weights.pt"
    network, facts = load_network(path)
    save_network(path, network, facts | {"trained_on": list(cases)})


def all_files(folder: Path = Path()) -> set[str]:
    return {path.as_posix() for path in folder.rglob("*") if path.is_file()}


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


@pytest.mark.parametrize("case", CASES)
def test_forget_removes_all_files_of_the_case_and_no_others(root: Path, case: str) -> None:
    before = all_files()
    assert forget(case, root, is_confirmed=True)
    expected = {f"{root}/{name}" for name in files_of_case(case)}
    expected |= {f"overrides/round_1/{case}.nii.gz"}
    expected |= {f"{root}/report/report.html", f"{root}/report/calibration.png"}
    expected |= {f"{root}/.check_cache.json"}
    assert before - all_files() == expected
    left = find_traces(root, case)
    assert left.files == [] and left.pictures == []


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


def test_forget_finds_cases_of_a_comparison(root: Path) -> None:
    cell = root / "compare" / "supervised_0"
    write_text(cell / "config.yaml", (root / "config.yaml").read_text())
    for name in files_of_case("p1"):
        write_text(cell / name, "x")
    forget("p1", root, is_confirmed=True)
    assert all_files(cell) == {f"{cell}/config.yaml"}


def suggest(folder: Path, cases: Sequence[str], like: str = "") -> Path:
    """Write what ``hstf suggest`` writes, with all ``cases`` suggested and set aside."""
    rows = [{"rank": rank, "case_id": case, "like": like} for rank, case in enumerate(cases, 1)]
    SUGGEST.write(folder / "suggest" / "suggest.csv", rows)
    aside = [{"case_id": case, "action": "skip", "round": 1} for case in cases]
    SET_ASIDE.write(folder / "suggest" / "set_aside.csv", aside)
    return folder / "suggest"


def test_forget_removes_suggestions_and_the_row_of_the_case_in_the_list_set_aside(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = suggest(root, ["p1", "p10", "p2"])
    cell = root / "compare" / "supervised_0"
    write_text(cell / "config.yaml", (root / "config.yaml").read_text())
    suggest(cell, ["p1"])
    removed = forget("p1", root, is_confirmed=True)
    assert {folder / "suggest.csv", cell / "suggest" / "suggest.csv"} <= set(removed)
    assert not (folder / "suggest.csv").exists()
    left = SET_ASIDE.records(folder / "set_aside.csv")
    assert [row["case_id"] for row in left] == ["p10", "p2"]
    assert SET_ASIDE.records(cell / "suggest" / "set_aside.csv") == []
    printed = capsys.readouterr().out
    assert f"which are removed; `hstf suggest` writes them again (2):\n  {folder}" in printed
    assert f"from which its row is removed (2):\n  {folder}/set_aside.csv (line 2)" in printed
    assert f"The row of the case was removed from {folder}/set_aside.csv, {cell}" in printed
    report, _, _ = printed.partition("files and folders were removed")
    _, _, of_next_run = report.partition("which the next run writes again")
    assert of_next_run and "suggest/" not in of_next_run
    traces = find_traces(root, "p1")
    assert traces.suggestions == [] and traces.set_aside == []


def test_forget_removes_suggestions_that_are_like_the_case_and_no_others(root: Path) -> None:
    folder = suggest(root, ["p10"], like="p1")
    forget("p2", root, is_confirmed=True)
    assert (folder / "suggest.csv").exists()
    forget("p1", root, is_confirmed=True)
    assert not (folder / "suggest.csv").exists()
    assert [row["case_id"] for row in SET_ASIDE.records(folder / "set_aside.csv")] == ["p10"]


def test_forget_finds_a_case_that_is_only_set_aside(root: Path) -> None:
    folder = suggest(root, ["gone", "p10"])
    (folder / "suggest.csv").unlink()
    assert forget("gone", root, is_confirmed=True) == []
    assert [row["case_id"] for row in SET_ASIDE.records(folder / "set_aside.csv")] == ["p10"]


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


def test_forget_removes_a_decision_that_was_not_completely_saved(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pending = Path("overrides/.history/pending.json")
    write_text(pending, json.dumps({"case_id": "p1"}))
    forget("p10", root, is_confirmed=True)
    assert pending.exists()
    forget("p1", root, is_confirmed=True)
    assert not pending.exists()
    assert "not completely saved, which are removed" in capsys.readouterr().out


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


def test_find_traces_looks_into_links_and_an_experiment_called_teacher(root: Path) -> None:
    outside = Path("disk").resolve()
    shutil.move(root / "round_1", outside)
    (root / "round_1").symlink_to(outside)
    (outside / "loop").symlink_to(root.resolve())
    renamed = root.rename(root.with_name("teacher"))
    (outside / "loop").unlink()
    (outside / "loop").symlink_to(renamed.resolve())
    tables = [rows.table for rows in find_traces(renamed, "p1").tables]
    tables += [rows.table for rows in find_traces(renamed, "p1").other_tables]
    assert renamed / "round_1" / "evaluation" / "cases.csv" in tables
    assert renamed / "logs" / "check.log" in find_traces(renamed, "p1").mentions


NO_CASES = ["", " ", ".", "..", "../..", "p1/", "/", "p1/../p2", "*", "p?", "p1\n", ".p1", "-p1"]


@pytest.mark.parametrize("case", [*NO_CASES, "p1.", "p1.weight", "p1.nii.gz", "p" * 129])
def test_forget_refuses_names_that_no_case_can_have(root: Path, case: str) -> None:
    before = all_files(Path("..").resolve())
    with pytest.raises(HstfError, match="is not the name of a case"):
        forget(case, root, is_confirmed=True)
    with pytest.raises(HstfError, match="is not the name of a case"):
        find_traces(root, case)
    assert all_files(Path("..").resolve()) == before


@pytest.mark.parametrize(
    "pattern", ["preprocessed/.records", "../cases.csv", "../{case}_t1.nii.gz"]
)
def test_forget_refuses_targets_that_do_not_belong_to_the_case(
    root: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    before = all_files()
    monkeypatch.setattr(case_files, "OVERRIDES", (pattern,))
    monkeypatch.setattr(case_files, "CASE_FILES", ("preprocessed/{case}", pattern))
    with pytest.raises(HstfError, match="does not belong to case p1"):
        forget("p1", root, is_confirmed=True)
    assert all_files() == before


def test_confirms_never_accepts_an_empty_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO("\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert not _confirms("", 1)


UNLABELLED = ["u0", "u1", "u2", "u3"]
SHARD_JOBS = ("preprocess.{}", "teacher.round_1.{}", "refine.round_1.{}", "labels.round_1.{}")


def in_shards_of_three(folder: Path, cases: Sequence[str]) -> Jobs:
    """Write a case sheet, and let the jobs of an experiment have three cases each."""
    write_sheet(["l0", *cases, "t0"])
    path = folder / "config.yaml"
    config = load_config(path).model_copy(update={"shard_size": 3})
    write_text(path, yaml.safe_dump(config.model_dump(mode="json")))
    return Jobs(config)


@pytest.mark.parametrize("is_removed_first", [False, True])
def test_forget_removes_what_belongs_to_jobs_that_no_longer_exist(
    root: Path, capsys: pytest.CaptureFixture[str], is_removed_first: bool
) -> None:
    jobs = in_shards_of_three(root, UNLABELLED)
    first = [name.format("unlabelled_0") for name in SHARD_JOBS]
    last = [name.format("unlabelled_1") for name in SHARD_JOBS]
    write_jobs(root, jobs, [*first, "evaluate.round_1.test_0"])
    gone = write_jobs(root, jobs, last)
    if is_removed_first:
        write_sheet(["l0", *UNLABELLED[:-1], "t0"])
    write_text(root / "provenance.json", "{}")
    before = all_files()
    forget("u3", root, is_confirmed=True)
    expected = set().union(*gone.values())
    assert before - all_files() == expected | {f"{root}/provenance.json"}, "it lists the tables"
    assert find_traces(root, "u3").gone_jobs == []
    printed = capsys.readouterr().out
    assert f"do not exist without it, which are removed ({len(expected)}):\n  {root}" in printed
    assert "which the next run writes again" not in printed


def test_forget_keeps_tables_of_jobs_that_still_exist(root: Path) -> None:
    jobs = in_shards_of_three(root, [*UNLABELLED, "u4"])
    last = [name.format("unlabelled_1") for name in SHARD_JOBS]
    tables = {name for files in write_jobs(root, jobs, last).values() for name in files}
    before = all_files()
    assert forget("u3", root, is_confirmed=True) == []
    assert all_files() == before
    traces = find_traces(root, "u3")
    assert {str(rows.table) for rows in traces.tables} < tables
    assert traces.gone_jobs == traces.other_tables == []


def test_forget_keeps_what_jobs_that_no_longer_exist_have_of_other_cases(root: Path) -> None:
    jobs = in_shards_of_three(root, UNLABELLED)
    write_jobs(root, jobs, [name.format("unlabelled_1") for name in SHARD_JOBS])
    write_sheet(["l0", "u1", "u2", "t0"])
    table(root / "check.csv", ["u1"])
    before = all_files()
    forget("u1", root, is_confirmed=True)
    assert all_files() == before


def test_forget_removes_keys_of_jobs_that_ran_because_of_the_case(root: Path) -> None:
    keys = {"plan": "u9", "check": "u90", "report": "u9.b", "export": "xu9"}
    external = {"job": "lesions.round_1", "runs_because": ["sam/u9 changed"]}
    write_text(root / "keys" / "lesions.round_1.json", json.dumps(external))
    for job, case in keys.items():
        content = {"job": job, "runs_because": ["cases changed", f"{case}/image_0 changed"]}
        write_text(root / "keys" / f"{job}.json", json.dumps(content))
    write_text(root / "keys" / "calibrate.json", "{")
    assert forget("u9", root, is_confirmed=True) == [
        root / "keys" / f"{name}.json" for name in ("lesions.round_1", "plan")
    ]
    assert find_traces(root, "u9").is_empty


def test_forget_keeps_results_of_removed_rounds_that_have_no_row_of_the_case(root: Path) -> None:
    outputs = {f"round_9/{name}": {} for name in ("model/seed_0/history.csv", "track.json")}
    for name in outputs:
        write_text(root / name, "step 12 of p1")
    record = {"facts": "p1", "outputs": outputs}
    write_text(root / "records" / "student.round_9.seed_0.json", json.dumps(record))
    assert find_traces(root, "p1").gone_jobs == []


def test_forget_removes_the_log_of_a_shard_that_never_finished(root: Path) -> None:
    in_shards_of_three(root, UNLABELLED)
    key = root / "keys" / "teacher.round_1.unlabelled_1.json"
    log = root / log_of(key.stem)
    write_text(key, "{}")
    write_text(log, "u3: no file")
    write_text(root / "preprocessed" / "u3" / "image.b2nd", "voxels")
    assert set(forget("u3", root, is_confirmed=True)) == {root / "preprocessed" / "u3", key, log}


def test_forget_finds_jobs_of_a_comparison_that_no_longer_exist(root: Path) -> None:
    cell = root / "compare" / "supervised_0"
    write_text(cell / "config.yaml", (root / "config.yaml").read_text())
    jobs = in_shards_of_three(cell, UNLABELLED)
    gone = write_jobs(cell, jobs, ["labels.round_1.unlabelled_1"])
    removed = forget("u3", root, is_confirmed=True)
    assert [{str(path) for path in removed}] == list(gone.values())


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


@pytest.mark.parametrize("answer", ["", "y", "p10", "p1"])
def test_forget_asks_before_it_removes(
    root: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    before = all_files()
    terminal = io.StringIO(f"{answer}\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert main(["forget", "p1", "--results", str(root)]) == 0
    assert (all_files() == before) is (answer != "p1")


def test_forget_without_a_terminal_needs_yes(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = all_files()
    monkeypatch.setattr(sys, "stdin", io.StringIO("p1\n"))
    assert main(["forget", "p1", "--results", str(root)]) == 1
    assert all_files() == before
    assert "Add --yes to remove" in capsys.readouterr().err
    assert main(["forget", "p1", "--results", str(root), "--yes"]) == 0
    assert all_files() != before


def test_forget_refuses_unknown_cases_and_folders(root: Path, tmp_path: Path) -> None:
    for name in ("p", "10", "p3", "voxels"):
        with pytest.raises(HstfError, match="has nothing of case"):
            forget(name, root, is_confirmed=True)
    with pytest.raises(HstfError, match=r"has no config\.yaml"):
        forget("p1", tmp_path, is_confirmed=True)


def test_forget_waits_for_no_running_workflow(root: Path) -> None:
    before = all_files(root)
    Path(".snakemake").mkdir()
    code = "take(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    process = in_another_process(code, Path(".snakemake/hstf.lock").resolve())
    with pytest.raises(HstfError, match=rf"a workflow is running.*process {process.pid}"):
        forget("p1", root, is_confirmed=True)
    assert all_files(root) == before
    process.kill()
    process.wait()
    assert forget("p1", root, is_confirmed=True)


def test_forget_waits_for_a_run_in_another_folder(root: Path) -> None:
    code = "lock_results(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    process = in_another_process(code, root)
    with pytest.raises(HstfError, match=rf"writes these results.*process {process.pid}"):
        forget("p1", root, is_confirmed=True)
    process.kill()
    process.wait()


def test_forget_removes_links_and_not_what_they_point_to(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside" / "image.b2nd"
    write_text(outside, "of somebody else")
    folder = root / "preprocessed" / "p1"
    (folder / "image.b2nd").unlink()
    folder.rmdir()
    folder.symlink_to(outside.parent)
    forget("p1", root, is_confirmed=True)
    assert not folder.is_symlink()
    assert outside.is_file()


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
