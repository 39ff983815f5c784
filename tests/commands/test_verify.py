"""The provenance of results, and ``hstf verify``, which compares results with it."""

import json
from pathlib import Path

import pytest
from support.stages import predict_fold
from support.training_files import write_experiment
from support.workspace import ROOT

from hstf.cli import main
from hstf.commands.verify import Verification, examine, verify
from hstf.config.experiment import Config
from hstf.config.load import config_text
from hstf.experiment import provenance as module
from hstf.experiment.job import Job
from hstf.experiment.job_inputs import facts_of
from hstf.experiment.jobs import Jobs
from hstf.experiment.layout import Layout
from hstf.experiment.plan import Plan
from hstf.experiment.provenance import code_sha256, commit, provenance, write_provenance
from hstf.experiment.records import JobRecord
from hstf.method.exported_model import (
    FORMAT,
    MODEL_FILE,
    ExportedModel,
    ModelMember,
    ModelProvenance,
    weights_path,
    write_digests,
)
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_json, sha256_file, write_csv, write_json, write_text

RESULTS = Path("results/tiny")
PROGRAMS = ("configs/inference.json", "models/model.ts", "models/model.pt2")
"""Files of the bundle in an exported model."""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Return a trained experiment with its table of scans, in the working directory."""
    monkeypatch.chdir(tmp_path)
    config, path = write_experiment(tmp_path, output="results", warmup={"steps": 2})
    layout = Layout.of(config)
    scan = Path("scans/a.nii.gz")
    write_text(scan, "voxels")
    row = {"case_id": "a", "file": str(scan), "sha256": sha256_file(scan)}
    write_csv(layout.check, [row], list(row))
    assert main(["warmup", "--config", str(path), "--member", "fold_0"]) == 0
    predict_fold(config, "fold_0")
    export_model(config)
    write_provenance(config)
    return config


def export_model(config: Config, folder: Path | None = None) -> None:
    """Write an exported model with one member."""
    layout = Layout.of(config)
    folder = folder or layout.export
    weights = weights_path(folder, "seed_0")
    write_text(weights, "weights")
    for name in PROGRAMS:
        write_text(folder / name, "program")
    ExportedModel(
        format=FORMAT,
        experiment=config.experiment,
        members=[ModelMember(name="seed_0", sha256=sha256_file(weights), trained_as="")],
        labels=config.labels,
        modalities=dict(config.modalities),
        predict=config.predict,
        preprocess=config.preprocess,
        plan=Plan.load(layout.plan),
        structure=None,
        provenance=ModelProvenance(hstf="", round=1, steps=2, cases={}, packages={}, scores=None),
    ).save(folder / MODEL_FILE)
    write_digests(folder)


def test_provenance_names_software_machine_and_files(config: Config) -> None:
    made = read_json(Layout.of(config).provenance)
    assert made["experiment"] == "tiny"
    assert made["seed"] == 0
    assert made["hstf"] == module.hstf.__version__
    assert made["packages"]["torch"]
    assert made["packages"]["python"].startswith("3.")
    assert made["machine"]["cores"] >= 1
    assert made["data"] == {
        "file": "results/tiny/check.csv",
        "sha256": sha256_file(Layout.of(config).check),
    }
    name = made["machine"]["name"]
    assert made["machines"] == {
        "round_0/out_of_fold": {name: 2},
        "round_0/state/fold_0": {name: 1},
    }
    expected = {
        "check.csv",
        "plan.json",
        "round_0/model/fold_0/weights.pt",
        "round_0/out_of_fold/fold_0.csv",
    }
    assert expected <= set(made["files"])
    for file in made["files"]:
        assert "state" not in file
        assert "records" not in file


def test_write_provenance_writes_the_same_bytes_again(config: Config) -> None:
    path = Layout.of(config).provenance
    before = path.read_bytes()
    write_provenance(config)
    assert path.read_bytes() == before


def test_provenance_depends_on_the_configuration(config: Config) -> None:
    made = json.loads(Layout.of(config).provenance.read_bytes())
    other = provenance(config.model_copy(update={"seed": 1}))
    assert other.configuration_sha256 != made["configuration_sha256"]


def test_code_sha256_and_commit_have_their_length() -> None:
    assert len(code_sha256()) == 64
    if (ROOT / ".git").is_dir():
        found = commit()
        assert found is not None
        assert len(found) == 40


def test_commit_reads_the_files_of_git(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module.hstf, "__file__", str(tmp_path / "hstf" / "__init__.py"))
    assert commit() is None
    head = tmp_path / ".git" / "HEAD"
    packed = tmp_path / ".git" / "packed-refs"
    write_text(head, "ref: refs/heads/main\n")
    write_text(packed, "# pack-refs\n" + "a" * 40 + " refs/heads/main\n")
    assert commit() == "a" * 40
    write_text(head, "b" * 40 + "\n")
    assert commit() == "b" * 40


def test_verify_counts_what_is_unchanged(
    config: Config,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["verify", "results/tiny"]) == 0
    output = capsys.readouterr().out
    assert "and 1 scans, labels and overrides are unchanged" in output
    assert "Computed with other software" not in output


FILES = {
    "scans/a.nii.gz": "scans/a.nii.gz",
    "results/tiny/plan.json": "plan.json",
    "results/tiny/round_0/model/fold_0/weights.pt": "weights.pt",
    "results/tiny/export/members/seed_0.pt": "seed_0.pt",
    "results/tiny/round_0/out_of_fold/fold_0.csv": "fold_0.csv",
    "cases.csv": "cases.csv",
}
"""Files that are verified, and how a message names them."""


def only_problem() -> str:
    """Verify the results and return the only problem."""
    with pytest.raises(HstfError) as caught:
        verify(RESULTS)
    _, *problems = str(caught.value).splitlines()
    (problem,) = problems
    return problem


def test_verify_prints_json_and_its_exit_code_is_1_if_a_file_has_changed(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(RESULTS), "--json"]) == 0
    sound = Verification.model_validate_json(capsys.readouterr().out)
    assert sound.problems == () and sound.files > 0
    assert sound.sources is not None and sound.sources > 0
    path = RESULTS / "plan.json"
    path.write_bytes(path.read_bytes() + b"\n")
    assert main(["verify", str(RESULTS), "--json", "--no-data"]) == 1
    changed = Verification.model_validate_json(capsys.readouterr().out)
    (problem,) = changed.problems
    assert "was changed: SHA-256" in problem
    assert changed.sources is None


@pytest.mark.parametrize("name", FILES)
def test_verify_reports_a_changed_file(config: Config, name: str) -> None:
    path = Path(name)
    path.write_bytes(path.read_bytes() + b"\n")
    assert f"{FILES[name]} was changed: SHA-256" in only_problem()


@pytest.mark.parametrize("name", FILES)
def test_verify_reports_a_missing_file(config: Config, name: str) -> None:
    Path(name).unlink()
    assert f"{FILES[name]} is missing" in only_problem()


@pytest.mark.parametrize("folder", ["export", "export_seed_0"])
@pytest.mark.parametrize("name", [*PROGRAMS, MODEL_FILE])
def test_verify_reports_changed_and_missing_files_of_the_bundle(
    config: Config, name: str, folder: str
) -> None:
    export_model(config, RESULTS / folder)
    write_text(RESULTS / folder / "LICENSE", "licence of the owner")
    assert verify(RESULTS)
    path = RESULTS / folder / name
    path.write_bytes(b"damaged")
    assert f"{path} was changed: SHA-256" in only_problem()
    path.unlink()
    assert f"{path} is missing" in only_problem()


def test_verify_reports_damaged_digests_of_a_member_that_was_exported(config: Config) -> None:
    folder = Layout.of(config).exported_member("seed_0")
    export_model(config, folder)
    digests = folder / "SHA256SUMS"
    digests.write_text("rubbish")
    assert "SHA256SUMS has a line that hstf did not write" in only_problem()
    digests.write_text("")
    assert f"does not list {MODEL_FILE}" in only_problem()
    digests.unlink()
    assert "SHA256SUMS is missing" in only_problem()


@pytest.mark.parametrize("name", ["members/seed_0.pt", MODEL_FILE])
def test_verify_reports_a_changed_file_of_a_member_that_was_exported(
    config: Config, name: str
) -> None:
    folder = Layout.of(config).exported_member("seed_0")
    export_model(config, folder)
    assert verify(RESULTS)
    path = folder / name
    path.write_bytes(path.read_bytes() + b"\n")
    assert f"export_seed_0/{name} " in only_problem()


def test_verify_reports_a_changed_file_of_a_case(config: Config) -> None:
    path = RESULTS / "preprocessed" / "l_1" / "image.b2nd"
    path.write_bytes(path.read_bytes() + b"\n")
    assert "l_1: " in only_problem()


def test_verify_reports_a_missing_file_of_a_case(config: Config) -> None:
    path = RESULTS / "preprocessed" / "l_1" / "image.b2nd"
    path.unlink()
    assert "l_1: " in only_problem()


def test_verify_without_data_ignores_missing_scans(config: Config) -> None:
    Path("scans/a.nii.gz").unlink()
    lines = verify(RESULTS, data=False)
    assert "scans" not in lines[0]


def edit_record(**changes: object) -> None:
    """Change the record of the only training."""
    path = RESULTS / "records" / "warmup.round_0.fold_0.json"
    write_json(path, {**read_json(path), **changes})


def test_verify_reports_other_software_of_a_result_without_failing(config: Config) -> None:
    edit_record(packages={"torch": "0.1"})
    lines = verify(RESULTS)
    assert "other software (warmup.round_0.fold_0): " in lines[1]
    assert "torch 0.1, here" in lines[1]


def test_verify_reports_results_of_other_inputs(config: Config) -> None:
    record = read_json(RESULTS / "records" / "warmup.round_0.fold_0.json")
    plan = {**record, "job": "plan", "outputs": {}, "before": {}}
    write_json(RESULTS / "records" / "plan.json", plan)
    assert "warmup.round_0.fold_0: was made from other results of plan" in only_problem()


def test_verify_leaves_out_jobs_that_the_experiment_no_longer_has(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 'rounds' was lowered, no run makes the results of the last round again."""
    write_text(Layout.of(config).config, config_text(config))
    record = read_json(RESULTS / "records" / "warmup.round_0.fold_0.json")
    lost = {"path": "x.csv", "sha256": "0", "stamp": [1, 1, 1, 1]}
    former = {
        **record,
        "job": "student.round_9.seed_0",
        "before": {"warmup.round_0.fold_0": "earlier"},
        "outputs": {"round_9/model/seed_0/weights.pt": lost},
    }
    write_json(RESULTS / "records" / "student.round_9.seed_0.json", former)
    assert "no longer has 1 of its jobs (student.round_9.seed_0)" in verify(RESULTS)[-1]
    write_text(RESULTS / "round_9" / "model" / "seed_0" / "weights.pt", "edited")
    assert "weights.pt was changed" in only_problem()


def test_provenance_names_what_made_each_result(config: Config) -> None:
    edit_record(hstf="0.0.1")
    write_provenance(config)
    jobs = read_json(Layout.of(config).provenance)["jobs"]
    assert jobs["warmup.round_0.fold_0"]["hstf"] == "0.0.1"


def test_verify_refuses_a_folder_without_records(config: Config) -> None:
    with pytest.raises(HstfError, match=r"has neither records nor provenance\.json"):
        verify(Path("results"))


def test_verify_refuses_a_damaged_provenance(config: Config) -> None:
    write_json(Layout.of(config).provenance, {"format": 1})
    with pytest.raises(HstfError, match="does not have the content"):
        verify(RESULTS)


def test_verify_names_a_source_that_changed_while_a_job_ran(config: Config) -> None:
    path = RESULTS / "records" / "warmup.round_0.fold_0.json"
    record = read_json(path)
    write_json(path, record | {"sources": {"a/label": None}})
    assert only_problem().endswith(
        "warmup.round_0.fold_0: a/label was changed while the job ran. Run snakemake again"
    )


def write_decisions(config: Config, *rows: str) -> None:
    lines = ["round,case_id,action,reviewer,date,reason", *rows]
    write_text(Layout.of(config).decisions, "\n".join(lines) + "\n")


def test_verify_reports_decisions_that_no_run_has_used(config: Config) -> None:
    write_text(Layout.of(config).config, config_text(config))
    job = Job("labels_shard", 1, "unlabelled_0")
    write_decisions(config, "1,u_0,reject,Ann,2026-01-01,blurred")
    record = read_json(RESULTS / "records" / "warmup.round_0.fold_0.json")
    facts = facts_of(Jobs(config), job)
    labels = {**record, "job": job.name, "outputs": {}, "before": {}, "facts": facts}
    write_json(RESULTS / "records" / f"{job.name}.json", labels)
    assert verify(RESULTS)
    write_decisions(config, "1,u_0,accept,Ann,2026-01-01,sharp")
    assert "labels.round_1.unlabelled_0: was made with other decisions" in only_problem()
    assert "(u_0). Run snakemake again" in only_problem()
    assert verify(RESULTS, data=False)
    write_decisions(config, "1,u_0,acept,Ann,2026-01-01,sharp")
    assert "problems in the overrides" in only_problem()


def test_verify_compares_results_of_a_reused_experiment(config: Config) -> None:
    """The student was made from the warm-up that the other experiment had then."""
    reused = {"data": str(Layout.of(config).root), "warmup": str(Layout.of(config).root)}
    content = config.model_dump(mode="json") | {"experiment": "second", "reuse": reused}
    second = Config.model_validate(content)
    layout = Layout.of(second)
    write_text(layout.config, config_text(second))
    path = RESULTS / "records" / "warmup.round_0.fold_0.json"
    record = read_json(path)
    student = {
        **record,
        "job": "student.round_1.seed_0",
        "outputs": {},
        "before": {"warmup.round_0.fold_0": JobRecord.load(path).digest},
    }
    write_json(layout.root / "records" / "student.round_1.seed_0.json", student)
    assert examine(layout.root).problems == ()
    write_json(path, {**record, "key": "another"})
    (problem,) = examine(layout.root).problems
    assert "student.round_1.seed_0: was made from other results of warmup.round_0" in problem
    write_json(path, record)
    Layout.of(config).weights(0, "fold_0").write_bytes(b"damaged")
    (problem,) = examine(layout.root).problems
    assert "weights.pt was changed" in problem
    RESULTS.rename("results/moved")
    (problem,) = examine(layout.root).problems
    assert "tiny is missing: 'reuse:' takes results from there" in problem


def test_verify_continues_after_a_table_that_is_not_utf8(config: Config) -> None:
    notes = RESULTS / "notes.csv"
    notes.write_bytes("case,Größe\n".encode("latin-1"))
    write_provenance(config)
    assert verify(RESULTS)
    table = Layout.of(config).out_of_fold_table("fold_0")
    table.write_bytes(b"\xff\n")
    assert "fold_0.csv was changed" in only_problem()
    Path("scans/a.nii.gz").write_text("other voxels")
    assert len(examine(RESULTS).problems) == 2


def test_verify_continues_after_a_file_that_cannot_be_read(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> str:
        if path.name == "plan.json":
            raise HstfError(f"{path}: cannot be read (Permission denied).")
        return sha256_file(path)

    monkeypatch.setattr("hstf.commands.verify.sha256_file", fail)
    assert "plan.json: cannot be read" in only_problem()
