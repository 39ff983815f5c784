"""``hstf track``: show a round in MLflow. Tracking never fails a run: whatever goes wrong is a warning.

An MLflow experiment per ``experiment:``, and in it a run ``round_<r>`` with the parameters, the training
curves of each member, the scores and the small files of that round. A round logged again with the same
content stays as it is; with other content its run is replaced (MLflow can neither change a parameter nor
take a metric back), and the notes and tags of people move along.

Writes ``round_<r>/track.json``: ``logged``, then experiment and run, or the ``reason`` why not.
"""

import argparse
import logging
import os
import re
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hstf import __version__
from hstf.config.track import VARIABLE, without_credentials
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.experiment.tables import HISTORY, LABELS, REFINE
from hstf.imaging.overlays import overlay_path
from hstf.runtime.errors import HstfError
from hstf.runtime.files import (
    atomic_path,
    read_json,
    sha256_file,
    sha256_json,
    write_json,
)
from hstf.runtime.locks import exclusive
from hstf.stages.report.results import to_number

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEADLINE_SECONDS = 600.0  # for all of it, whatever the server does
BATCH = 1000  # metrics in one request, MLflow's limit
PARAMETER_BATCH = 100
OVERLAYS = 8
PLANNED = ("spacing", "patch_size", "batch_size", "channels", "strides")
COMMON_KEYS = (
    "preprocess",
    "network",
    "predict",
    "evaluate",
    "modalities",
    "labels",
    "regions",
    "lesions",
    "seed",
    "teacher",
    "refine",
)
WARMUP_KEYS = ("plan", "warmup", "calibrate", *COMMON_KEYS)
ROUND_KEYS = ("student", *COMMON_KEYS)


def run(args: argparse.Namespace) -> int:
    track(StageContext.of_arguments(args, "track"))
    return 0


def track(context: StageContext) -> dict[str, Any]:
    """Log round ``number`` to MLflow and write ``track.json``; returns its content."""
    number = context.round
    outcome = _outcome(context)
    write_json(context.layout.track(number), outcome)
    if outcome["logged"]:
        print(f"{outcome['run']} is in MLflow; to look at it: {outcome['show']}", flush=True)
    elif context.config.track.enabled:
        print(
            f"hstf track: warning: round {number} is not in MLflow: {outcome['reason']}",
            file=sys.stderr,
            flush=True,
        )
    return outcome


def _outcome(context: StageContext) -> dict[str, Any]:
    config = context.config
    if not config.track.enabled:
        return {"logged": False, "reason": "track.enabled is false"}
    try:
        with _deadline(DEADLINE_SECONDS):
            return {"logged": True, **_log(context)}
    except _TimeUp:
        reason = f"MLflow took more than {DEADLINE_SECONDS:.0f} s"
    except HstfError as error:
        reason = str(error)
    except Exception as error:  # whatever MLflow, a database or a network comes up with
        reason = f"{type(error).__name__}: {error}"
    return {"logged": False, "reason": without_secrets(reason, config.track.uri)[:2000]}


SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


def with_variables(uri: str) -> str:
    """``uri`` with the environment's values in place of ``${NAME}``.

    Raises:
        HstfError: a variable is not set.
    """
    missing = [name for name in VARIABLE.findall(uri) if name not in os.environ]
    if missing:
        raise HstfError(
            f"track.uri names {', '.join(missing)}, which the environment does not set."
        )
    return VARIABLE.sub(lambda match: os.environ[match[1]], uri)


def without_secrets(text: str, uri: str) -> str:
    """``text`` without credentials of addresses and without the values of secret environment variables."""
    for value in filter(None, map(os.environ.get, (*SECRETS, *VARIABLE.findall(uri)))):
        text = text.replace(value, "***")
    return without_credentials(text)


class _TimeUp(BaseException):
    """Not an ``Exception``: MLflow catches those and tries again."""


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _TimeUp

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@dataclass(frozen=True)
class RoundLog:
    """What MLflow shows of a round."""

    parameters: dict[str, str]
    curves: list[tuple[str, int, float]]
    """Name, step and value, from the members' ``history.csv``."""
    scores: dict[str, float]
    files: list[tuple[Path, str]] = field(default_factory=list)
    """A file and the artefact folder that it goes to."""
    config_text: str = ""

    @property
    def digest(self) -> str:
        """Equal for equal content."""
        files = [(folder, path.name, sha256_file(path)) for path, folder in self.files]
        return sha256_json([self.parameters, self.curves, self.scores, files, self.config_text])


def collect(context: StageContext) -> RoundLog:
    """Read the files of round ``number``; those that are not there are left out."""
    layout = context.layout
    number = context.round
    text = layout.config.read_text(encoding="utf-8") if layout.config.is_file() else ""
    return RoundLog(
        parameters=_parameters(context),
        curves=[
            point
            for member in context.schedule.members(number)
            for point in _curve(layout, number, member)
        ],
        scores={**_summary_scores(layout, number), **_label_counts(layout, number)},
        files=[
            *_small_files(layout, number),
            *((path, "overlays") for path in _overlays(layout, number)),
        ],
        config_text=without_credentials(text),
    )


def _parameters(context: StageContext) -> dict[str, str]:
    keys = ROUND_KEYS if context.round else WARMUP_KEYS
    values = context.config.model_dump(mode="json", include=set(keys))
    path = context.layout.plan
    plan = read_json(path) if path.is_file() else {}
    planned = {key: plan[key] for key in PLANNED if key in plan}
    return {metric_name(k): str(v) for k, v in flatten({**values, "planned": planned}, ".")}


def flatten(content: Mapping[str, Any], separator: str) -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings, each with its path."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from (
                (f"{key}{separator}{name}", leaf) for name, leaf in flatten(value, separator)
            )
        else:
            yield str(key), value


def metric_name(text: str) -> str:
    """``text`` with the characters that MLflow refuses in names replaced."""
    return re.sub(r"[^\w\-. /]", "_", text, flags=re.ASCII)


def _curve(layout: Layout, number: int, member: str) -> list[tuple[str, int, float]]:
    path = layout.history(number, member)
    rows = HISTORY.records(path) if path.is_file() else []
    prefix = f"{'student' if number else 'warmup'}/{member}"
    return [
        (metric_name(f"{prefix}/{column}"), row["step"], value)
        for row in rows
        for column, text in row.items()
        if column != "step" and (value := to_number(text)) is not None
    ]


def _summary_scores(layout: Layout, number: int) -> dict[str, float]:
    path = layout.evaluation_summary(number)
    summary = read_json(path) if path.is_file() else {}
    leaves = (
        (f"test/{name}", to_number(leaf))
        for name, leaf in flatten(summary, "/")
        if not isinstance(leaf, str)
    )
    return {metric_name(name): value for name, value in leaves if value is not None}


def _label_counts(layout: Layout, number: int) -> dict[str, float]:
    path = layout.labels_table(number)
    rows = LABELS.records(path) if path.is_file() else []
    counts = Counter(row["source"] for row in rows)
    dice = [value for row in rows if (value := to_number(row.get("predicted_dice"))) is not None]
    scores: dict[str, float] = {
        f"pseudo_labels/{source}": count for source, count in counts.items()
    }
    return scores | ({"pseudo_labels/predicted_dice": sum(dice) / len(dice)} if dice else {})


def _small_files(layout: Layout, number: int) -> list[tuple[Path, str]]:
    paths = [layout.plan, layout.evaluation_summary(number), layout.evaluation_cases(number)]
    paths += (
        [layout.refine(number), layout.labels_table(number)] if number else [layout.calibration]
    )
    return [(path, "") for path in paths if path.is_file()]


def _overlays(layout: Layout, number: int) -> list[Path]:
    """Pictures of the least certain pseudo-labels, which ``refine.csv`` names first."""
    table = layout.refine(number)
    rows = REFINE.records(table) if table.is_file() else []
    paths = (overlay_path(layout.pseudo_labels(number), row["case_id"]) for row in rows)
    return [path for path in paths if path.is_file()][:OVERLAYS]


def _log(context: StageContext) -> dict[str, str]:
    config = context.config
    number = context.round
    uri, log = with_variables(config.track.uri), collect(context)
    database = sqlite_file(uri)
    _prepare_mlflow(config.track.timeout_seconds)
    # A database that several processes create at once stays broken; later, concurrent writers time out.
    with (
        exclusive(Path(f"{database}.lock"), f"track round {number}") if database else nullcontext()
    ):
        client = _connect(uri, database)
        experiment_id = _experiment(client, context.experiment, database)
        run_id = _log_run(client, experiment_id, context.layout.root.resolve(), number, log)
    shown = without_credentials(config.track.uri)
    return {
        "uri": shown,
        "experiment": context.experiment,
        "run": f"round_{number}",
        "run_id": run_id,
        "show": f"mlflow ui --backend-store-uri {shown}" if database else shown,
    }


def sqlite_file(uri: str) -> Path | None:
    """The file of ``sqlite:///file``, relative to the working directory; None for other addresses."""
    return (
        Path(uri.removeprefix("sqlite:///").partition("?")[0])
        if uri.startswith("sqlite:///")
        else None
    )


def _prepare_mlflow(timeout_seconds: int) -> None:
    """Import MLflow (seconds), quiet, patient for ``timeout_seconds``, and without its telemetry."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(timeout_seconds)
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
    import mlflow  # noqa: F401

    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _connect(uri: str, database: Path | None) -> "MlflowClient":
    """A client; a sqlite file is created first, whole, or checked.

    Raises:
        HstfError: the file exists and is no database.
    """
    from mlflow import MlflowClient

    if database is not None and not database.exists():
        with atomic_path(database) as temporary:
            MlflowClient(f"sqlite:///{temporary}").search_experiments(max_results=1)
    elif database is not None:
        _check_database(database)
    return MlflowClient(uri)


def _check_database(database: Path) -> None:
    try:
        with closing(
            sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)
        ) as connection:
            tables = connection.execute(
                "SELECT count(*) FROM sqlite_master WHERE name = 'alembic_version'"
            ).fetchone()
    except sqlite3.DatabaseError as error:
        raise HstfError(
            f"{database}: not a readable sqlite database ({error}). Move it away and rerun."
        ) from error
    if not tables[0]:
        raise HstfError(
            f"{database}: not a database of MLflow. Move it away, or set track.uri, and rerun."
        )


def _experiment(client: "MlflowClient", name: str, database: Path | None) -> str:
    """Id of the experiment called ``name``, created or restored when need be."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        artifacts = (
            (database.parent.resolve() / "mlartifacts" / name).as_uri() if database else None
        )
        try:
            return client.create_experiment(name, artifacts)
        except MlflowException:  # another job was faster
            if (found := client.get_experiment_by_name(name)) is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def _log_run(
    client: "MlflowClient", experiment_id: str, root: Path, number: int, log: RoundLog
) -> str:
    """Write the run of a round, unless it is there already; returns its id."""
    tags = {"hstf.folder": str(root).replace("'", "_"), "hstf.round": str(number)}
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    earlier = client.search_runs([experiment_id], query)
    kept = [run for run in earlier if run.data.tags.get("hstf.digest") == log.digest]
    if kept:
        return kept[0].info.run_id
    notes = {key: value for run in earlier for key, value in run.data.tags.items() if _is_note(key)}
    tags = {**notes, **tags, "hstf.version": __version__}
    run = client.create_run(experiment_id, run_name=f"round_{number}", tags=tags)
    _send(client, run.info.run_id, log)
    client.set_tag(
        run.info.run_id, "hstf.digest", log.digest
    )  # last: a run without it is incomplete
    for old in earlier:
        client.delete_run(old.info.run_id)
    return run.info.run_id


def _is_note(tag: str) -> bool:
    return tag == "mlflow.note.content" or not tag.startswith(("mlflow.", "hstf."))


def _send(client: "MlflowClient", run_id: str, log: RoundLog) -> None:
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    metrics = [Metric(name, value, now, step) for name, step, value in log.curves]
    metrics += [Metric(name, value, now, 0) for name, value in log.scores.items()]
    parameters = [Param(name, value) for name, value in log.parameters.items()]
    for start in range(0, len(parameters), PARAMETER_BATCH):
        client.log_batch(run_id, params=parameters[start : start + PARAMETER_BATCH])
    for start in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + BATCH])
    client.set_terminated(run_id)
    if log.config_text:
        client.log_text(run_id, log.config_text, "config.yaml")
    for path, folder in log.files:
        client.log_artifact(run_id, str(path), folder or None)
