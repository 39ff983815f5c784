"""Tracking shows a round in MLflow and never fails a run."""

import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from support.report_files import NO_FILES, plan

from hstf.cli import main
from hstf.config.experiment import Config
from hstf.config.load import resolve_config
from hstf.config.track import TrackConfig, without_credentials
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.experiment.round_tables import HISTORY, LABELS, REFINE
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_json, write_text
from hstf.stages.track import content, stage
from hstf.stages.track import server as server_module
from hstf.stages.track.content import RoundLog, flatten, metric_name
from hstf.stages.track.documents import TrackedRuns, Tracking
from hstf.stages.track.server import with_variables


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Two rounds with the files that tracking reads; the working directory is ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    config = Config.model_validate({"experiment": "toy", "rounds": 1, "student": {"steps": 40}})
    layout = Layout.of(config)
    write_text(layout.config, yaml.safe_dump(config.model_dump(mode="json")))
    plan().save(layout.plan)
    history = [{"step": step, "learning_rate": 1e-3, "loss": 1 / step} for step in (20, 40)]
    HISTORY.write(layout.history(1, "seed_0"), [*history, {"step": 60, "loss": float("nan")}])
    write_json(
        layout.evaluation_summary(1), {"cases": 4, "dice": {"foreground": 0.81}, "note": "text"}
    )
    labels = [
        {"case_id": "a", "source": "automatic", "predicted_dice": 0.8, **NO_FILES},
        {"case_id": "b", "source": "rejected", **NO_FILES},
    ]
    LABELS.write(layout.labels_table(1), labels)
    refine = [
        {"case_id": "a", "predicted_dice": 0.8, "accepted": True, **NO_FILES},
        {"case_id": "b", "predicted_dice": 0.9, "accepted": True, **NO_FILES},
    ]
    REFINE.write(layout.refine(1), refine)
    for name in "ab":
        write_text(layout.pseudo_labels(1) / "overlays" / f"{name}.png", "picture")
    return config


def collect(config: Config, number: int) -> RoundLog:
    return content.collect(StageContext.of(config, "track", number))


def track(config: Config, number: int) -> Tracking:
    return stage.track(StageContext.of(config, "track", number))


def with_uri(config: Config, uri: str) -> Config:
    return config.model_copy(update={"track": TrackConfig(uri=uri)})


def without_tracking(config: Config) -> Config:
    return config.model_copy(update={"track": TrackConfig(enabled=False)})


def test_collect_reads_the_files_of_the_round(experiment: Config) -> None:
    log = collect(experiment, 1)
    assert log.parameters["student.steps"] == "40"
    assert log.parameters["planned.spacing"] == "[1.5, 1.5, 3.0]"
    assert not any(name.startswith("track") for name in log.parameters)
    losses = [(step, value) for name, step, value in log.curves if name == "student/seed_0/loss"]
    assert losses == [(20, 0.05), (40, 0.025)]  # nan is left out
    assert log.scores["test/dice/foreground"] == 0.81
    assert log.scores["pseudo_labels/automatic"] == log.scores["pseudo_labels/rejected"] == 1
    assert [path.name for path, _ in log.files] == ["plan.json", "summary.json"]
    assert [path.name for path, folder in log.case_files if folder == ""] == [
        "refine.csv",
        "labels.csv",
    ]
    assert [path.name for path, folder in log.case_files if folder == "overlays"] == [
        "a.png",
        "b.png",
    ]  # least certain first


def test_collect_of_a_round_without_files_has_parameters(experiment: Config) -> None:
    log = collect(experiment, 0)
    assert log.curves == [] and log.scores == {}
    assert log.parameters["warmup.folds"] == "3"


def test_collect_leaves_out_pseudo_labels_of_an_earlier_run(experiment: Config) -> None:
    """The method was changed to one without pseudo-labels in the same experiment."""
    log = collect(Config.model_validate({**experiment.model_dump(), "method": "supervised"}), 1)
    assert log.scores == {"test/cases": 4.0, "test/dice/foreground": 0.81}
    assert log.case_files == []


def test_track_writes_one_run_for_each_round(experiment: Config, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    layout = Layout.of(experiment)
    first = track(experiment, 1)
    assert first.logged, first
    assert track(experiment, 1).run_id == first.run_id, "the same content: the same run"
    client = MlflowClient("sqlite:///mlflow.db")
    client.set_tag(first.run_id, "mlflow.note.content", "looks good")

    write_json(layout.evaluation_summary(1), {"dice": {"foreground": 0.9}})
    second = track(experiment, 1)
    track(experiment, 0)
    found = client.get_experiment_by_name("toy")
    runs = {run.info.run_name: run for run in client.search_runs([found.experiment_id])}
    assert sorted(runs) == ["round_0", "round_1"]
    run = runs["round_1"]
    assert run.info.run_id == second.run_id != first.run_id
    assert run.data.metrics["test/dice/foreground"] == 0.9
    assert run.data.tags["mlflow.note.content"] == "looks good"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "student/seed_0/loss")] == [
        20,
        40,
    ]
    artefacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert artefacts >= {
        "plan.json",
        "config.yaml",
        "refine.csv",
        "labels.csv",
        "summary.json",
        "overlays",
    }
    assert Path(found.artifact_location.removeprefix("file://")).is_relative_to(
        tmp_path / "mlartifacts"
    )
    assert json.loads(layout.track(1).read_text()) == second.to_json()


def test_track_in_two_processes_creates_one_database(experiment: Config, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "hstf",
        "track",
        "--config",
        str(Layout.of(experiment).config),
        "--round",
    ]
    processes = [
        subprocess.Popen([*command, number], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        for number in "01"
    ]
    assert [process.communicate()[1] for process in processes] == ["", ""]
    assert [process.returncode for process in processes] == [0, 0]
    outcomes = [json.loads(Layout.of(experiment).track(number).read_text()) for number in (0, 1)]
    assert [outcome["logged"] for outcome in outcomes] == [True, True]
    assert not list(tmp_path.glob(".tmp-*"))


def test_track_warns_of_an_unreachable_server(
    experiment: Config,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config_file = tmp_path / "c.yaml"
    uri = "http://127.0.0.1:9"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "geheim")
    write_text(
        config_file,
        yaml.safe_dump({"experiment": "toy", "track": {"uri": uri, "timeout_seconds": 1}}),
    )
    started = time.monotonic()
    assert main(["track", "--config", str(config_file), "--round", "1"]) == 0
    assert time.monotonic() - started < 20
    outcome = Layout.of(experiment).track(1).read_text()
    assert json.loads(outcome)["logged"] is False
    printed = capsys.readouterr()
    assert "round 1 is not in MLflow" in printed.err
    assert "geheim" not in outcome + printed.err + printed.out


@pytest.mark.parametrize(
    "content", [b"this is no database", b"SQLite format 3\0" + b"garbage" * 400, b""]
)
def test_track_warns_of_a_damaged_database_and_keeps_it(
    experiment: Config, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "mlflow.db").write_bytes(content)
    outcome = track(experiment, 1)
    assert outcome.logged is False
    assert "mlflow.db" in outcome.reason and "Move it away" in outcome.reason
    assert (tmp_path / "mlflow.db").read_bytes() == content


def test_track_states_that_a_locked_database_is_in_use(
    experiment: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert track(experiment, 1).logged
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, timeout=0))
    with closing(sqlite3.connect("mlflow.db", isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        reason = track(experiment, 1).reason
    assert reason.startswith("mlflow.db: is in use by another program (database is locked)")
    assert "Run the stage again later" in reason and "Move it away" not in reason


def test_track_states_that_a_database_cannot_be_opened(experiment: Config, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").mkdir()
    reason = track(experiment, 1).reason
    assert reason.startswith("mlflow.db: cannot be read (") and "Make it readable" in reason
    assert "Move it away" not in reason


def test_track_keeps_the_last_run_if_a_later_attempt_fails(experiment: Config) -> None:
    layout = Layout.of(experiment)
    first = track(experiment, 1)
    other = track(with_uri(experiment, "sqlite:///other.db"), 1)
    layout.track(1).unlink()  # as Snakemake does before the stage runs
    unreachable = with_uri(experiment, "sqlite:///other.db/no/folder.db")
    for config in (unreachable, without_tracking(experiment)):
        failed = track(config, 1)
        assert not failed.logged and failed.reason
        assert (failed.uri, failed.run, failed.run_id) == (other.uri, "round_1", other.run_id)
        assert json.loads(layout.track(1).read_text()) == failed.to_json()
    assert TrackedRuns.of_round(layout, 1).runs == (first, other)
    assert track(experiment, 1).run_id == first.run_id
    assert TrackedRuns.of_round(layout, 1).runs == (other, first), "one run for each address"


def test_track_keeps_the_run_of_a_version_without_the_list_of_runs(experiment: Config) -> None:
    layout = Layout.of(experiment)
    old = Tracking(logged=True, uri="sqlite:///mlflow.db", run="round_1", run_id="abc")
    old.save(layout.track(1))
    assert track(without_tracking(experiment), 1).run_id == "abc"
    write_text(layout.tracked(1), "{")
    assert track(without_tracking(experiment), 1).run_id is None, "a damaged list fails no run"


def test_track_warns_of_a_damaged_file_of_the_round(experiment: Config) -> None:
    write_text(Layout.of(experiment).evaluation_summary(1), '{"dice":')
    assert "not readable as JSON" in track(experiment, 1).reason


def test_track_stops_at_the_deadline(experiment: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object) -> None:
        while True:
            try:
                time.sleep(60)
            except Exception:
                continue  # as MLflow's retries do

    monkeypatch.setattr(stage, "log_round", hang)
    monkeypatch.setattr(stage, "DEADLINE_SECONDS", 0.2)
    assert "took more than" in track(experiment, 1).reason


def test_track_disabled_does_not_import_mlflow(experiment: Config, tmp_path: Path) -> None:
    config_file = tmp_path / "c.yaml"
    write_text(config_file, yaml.safe_dump({"experiment": "toy", "track": {"enabled": False}}))
    arguments = ["track", "--config", str(config_file), "--round", "1"]
    code = f"import sys; from hstf.cli import main; main({arguments})"
    subprocess.run(
        [sys.executable, "-c", code + "; assert 'mlflow' not in sys.modules"],
        check=True,
        cwd=tmp_path,
    )
    outcome = json.loads(Layout.of(experiment).track(1).read_text())
    assert outcome == {"logged": False, "reason": "track.enabled is false"}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://me:pa@ss@host/mlflow?x=1", "https://***@host/mlflow?x=1"),
        ("postgresql://u:p@db:5432/mlflow", "postgresql://***@db:5432/mlflow"),
        ("https://host/?token=abc&x=1", "https://host/?***&x=1"),
        ("sqlite:///some/folder@home/mlflow.db", "sqlite:///some/folder@home/mlflow.db"),
        ("uri: http://a:b@c\nmail: x@y.org", "uri: http://***@c\nmail: x@y.org"),
    ],
)
def test_without_credentials_masks_credentials(text: str, masked: str) -> None:
    assert without_credentials(text) == masked


def test_track_config_refuses_a_folder() -> None:
    with pytest.raises(ValueError, match="write sqlite:///"):
        TrackConfig(uri="mlruns")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("https://anna:geheim@host", "MLFLOW_TRACKING_PASSWORD"),
        ("https://geheim@host", "MLFLOW_TRACKING_TOKEN"),
        ("https://host/?token=geheim", "MLFLOW_TRACKING_TOKEN"),
        ("https://${USER}:${HSTF_PASS}@host", "MLFLOW_TRACKING_PASSWORD"),
        ("postgresql://anna:geheim@host/mlflow", "${HSTF_PASSWORD}"),
        ("mysql://host/mlflow?password=geheim", "${HSTF_PASSWORD}"),
        ("anna:geheim@host", "not an address"),
    ],
)
def test_track_config_refuses_secrets_without_repeating_them(uri: str, expected: str) -> None:
    with pytest.raises(HstfError) as caught:
        resolve_config({"track": {"uri": uri}})
    assert expected in str(caught.value)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://anna@host/mlflow",
        "postgresql://anna:${HSTF_DB_PASSWORD}@host/mlflow",
        "sqlite:///a@b:c.db",
    ],
)
def test_track_config_accepts_addresses_without_secrets(uri: str) -> None:
    assert TrackConfig(uri=uri).uri == uri


def test_track_uses_a_password_of_the_environment_and_never_shows_it(
    experiment: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_uri(experiment, "postgresql://anna:${HSTF_DB_PASSWORD}@host/mlflow")
    assert "HSTF_DB_PASSWORD, which the environment does not set" in track(config, 1).reason
    monkeypatch.setenv("HSTF_DB_PASSWORD", "geheim")
    used: list[str] = []

    def connect(uri: str, _: object) -> None:
        used.append(uri)
        raise RuntimeError(f"cannot connect to {uri} as anna with geheim")

    monkeypatch.setattr(server_module, "_connect", connect)
    reason = track(config, 1).reason
    assert used == ["postgresql://anna:geheim@host/mlflow"]
    assert reason == "RuntimeError: cannot connect to postgresql://***@host/mlflow as anna with ***"
    assert "geheim" not in str(collect(config, 1))


def test_metric_name_replaces_characters_and_keeps_names_apart() -> None:
    assert metric_name("linker Ventrikel") == "linker Ventrikel"
    assert metric_name("Ventrikel (LV, ä)").startswith("Ventrikel _LV_ __-")
    names = ["肝", "脾", "a b", "a_b", "a/b", "a(b", "..", ".", "", "low", "Low"]
    assert len({metric_name(name) for name in names}) == len(names)


def test_flatten_returns_distinct_paths() -> None:
    scores = {"dice": {"mean": 0.5}}
    content = {"classes": {"a": {"presence": scores}, "a/presence": scores, "肝": 1, "脾": 2}}
    paths = [path for path, _ in flatten(content, "/")]
    assert len(set(paths)) == len(paths) == 4


class FakeServer:
    """A tracking server with an experiment, which keeps the names of logged files."""

    def __init__(self, location: str = "mlflow-artifacts:/1") -> None:
        self.artifact_location = location
        self.logged: list[str] = []
        self.lifecycle_stage = "active"
        self.experiment_id = "1"

    def __getattr__(self, name: str):  # type: ignore[no-untyped-def]
        def call(*arguments: object, **_: object) -> object:
            if name == "log_artifact":
                self.logged.append(Path(str(arguments[1])).name)
            if name == "search_runs":
                return []
            if name == "create_run":
                return SimpleNamespace(info=SimpleNamespace(run_id="r"))
            return self

        return call


@pytest.mark.parametrize(
    ("uri", "location", "case_files", "has_case_files"),
    [
        ("https://host", "mlflow-artifacts:/1", "local", False),
        ("https://host", "file:///srv/mlruns", "local", False),
        ("https://host", "mlflow-artifacts:/1", "always", True),
        ("postgresql://host/mlflow", "s3://bucket", "local", False),
        ("sqlite:///mlflow.db", "file:///here/mlartifacts", "local", True),
        ("sqlite:///mlflow.db", "/here/mlartifacts", "local", True),
        ("sqlite:///mlflow.db", "s3://bucket", "local", False),
        ("sqlite:///mlflow.db", "file:///here/mlartifacts", "never", False),
    ],
)
def test_track_sends_files_of_cases_to_a_server_only_if_asked(
    experiment: Config,
    monkeypatch: pytest.MonkeyPatch,
    uri: str,
    location: str,
    case_files: str,
    has_case_files: bool,
) -> None:
    server = FakeServer(location)
    monkeypatch.setattr(server_module, "_connect", lambda *_: server)
    section = TrackConfig.model_validate({"uri": uri, "case_files": case_files})
    assert track(experiment.model_copy(update={"track": section}), 1).logged
    files = ["plan.json", "summary.json"]
    if has_case_files:
        files += ["refine.csv", "labels.csv", "a.png", "b.png"]
    assert server.logged == files


@pytest.mark.parametrize(
    "uri", ["https://host/${AWS_SECRET_ACCESS_KEY}", "https://${SSH_AUTH_SOCK}", "sqlite:///${A}"]
)
def test_track_config_refuses_other_environment_variables(uri: str) -> None:
    with pytest.raises(HstfError, match=r"names the environment variable \w+; only HOME, USER"):
        resolve_config({"track": {"uri": uri}})


def test_with_variables_replaces_variables_of_the_list_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    monkeypatch.setenv("HSTF_DB", "runs")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://host")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim")
    address = TrackConfig(uri="sqlite:///${HOME}/${HSTF_DB}.db").uri
    assert with_variables(address) == "sqlite:////home/anna/runs.db"
    assert with_variables(TrackConfig(uri="${MLFLOW_TRACKING_URI}").uri) == "https://host"
    with pytest.raises(HstfError, match="AWS_SECRET_ACCESS_KEY, which it may not use"):
        with_variables("https://host/${AWS_SECRET_ACCESS_KEY}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "folder")
    with pytest.raises(HstfError, match="its value is not an address"):
        with_variables("${MLFLOW_TRACKING_URI}")


@pytest.mark.parametrize("stage", ["track", "monitor", "evaluate"])
@pytest.mark.parametrize("number", [-1, 2])
def test_stages_refuse_a_round_that_does_not_exist(
    experiment: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str, number: int
) -> None:
    path = str(Layout.of(experiment).config)
    before = sorted(tmp_path.rglob("*"))
    assert main([stage, "--config", path, "--round", str(number)]) == 1
    assert f"--round {number}: there are rounds 0 to 1." in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
