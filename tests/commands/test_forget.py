"""``hstf forget`` finds and removes everything of a case, and nothing of other cases."""

import contextlib
import io
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from support.processes import in_another_process
from support.report_files import NO_FILES
from support.tiny_model import tiny_experiment

from hstf.cli import main
from hstf.commands.forget import forget
from hstf.experiment.case_files import find_traces, mention_of
from hstf.experiment.layout import Layout
from hstf.experiment.tables import DICOM_SERIES, LABELS, SET_ASIDE, SUGGEST
from hstf.models.registry import load_network, save_network
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_csv, write_text

ROOT = Path("results/liver")
CASES = ["p1", "p10", "p1.b", "p1-b", "P1", "xp1", "round_1", "labels", "report", "p2"]
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
    splits = ["labelled", *["unlabelled"] * 8, "test"]
    rows = []
    for case, split in zip(CASES, splits, strict=True):
        rows.append({"case_id": case, "image": f"{case}_t1.nii.gz", "label": "", "split": split})
        write_text(Path(f"{case}_t1.nii.gz"), "voxels")
    write_csv(Path("cases.csv"), rows, list(rows[0]))
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
    for name in ("report/report.html", "logs/check.log", ".check_cache.json", "records/a.json"):
        write_text(root / name, " ".join(CASES))
    write_text(root / "report" / "calibration.png", "picture")
    table(Path("overrides/decisions_seen.csv"), CASES)
    write_text(Path("overrides/decisions.csv"), "round,case_id,action\n1,p10,reject\n1,p1,accept\n")


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
        f"{root}/check.csv (line 2, 12)",
        f"{root}/round_1/evaluation/cases.csv (line 2)",
        f"{root}/logs/check.log",
        f"{root}/records/a.json",
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
    for name in ("p", "p1.", "10", "p3", "voxels"):
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
