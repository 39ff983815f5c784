"""Write the run of a round to MLflow: to a server, or to a SQLite file."""

import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hstf import __version__
from hstf.config.track import (
    VARIABLE,
    is_allowed_variable,
    without_credentials,
)
from hstf.experiment.context import StageContext
from hstf.runtime.errors import HstfError
from hstf.runtime.files import atomic_path
from hstf.runtime.locks import exclusive

if TYPE_CHECKING:
    from mlflow import MlflowClient
from hstf.stages.track.content import RoundLog, collect
from hstf.stages.track.documents import Tracking

METRICS_PER_REQUEST = 1000
"""Upper bound of MLflow."""
PARAMETERS_PER_REQUEST = 100
"""Upper bound of MLflow."""
SQLITE = "sqlite:///"
Item = TypeVar("Item")


def with_variables(uri: str) -> str:
    """Replace ``${NAME}`` in an address by the value of the environment variable.

    Raises:
        HstfError: if a variable is not set, if it may not be used, or if the result is no address.
    """
    refused = [name for name in VARIABLE.findall(uri) if not is_allowed_variable(name)]
    if refused:
        raise HstfError(f"track.uri names {', '.join(refused)}, which it may not use.")
    missing = [name for name in VARIABLE.findall(uri) if name not in os.environ]
    if missing:
        raise HstfError(
            f"track.uri names {', '.join(missing)}, which the environment does not set."
            " Set it and run the stage again."
        )
    address = VARIABLE.sub(lambda match: os.environ[match[1]], uri)
    if "://" not in address:
        raise HstfError(f"{uri}: its value is not an address such as https://server.")
    return address


def log_round(context: StageContext) -> Tracking:
    """Log a round to MLflow."""
    section = context.config.track
    number = context.round
    log = collect(context)
    uri = with_variables(section.uri)
    database = sqlite_file(uri)
    _prepare_mlflow(section.timeout_seconds)
    # A database that several processes create at the same time is damaged. Later, writers that work
    # at the same time run into timeouts.
    lock: AbstractContextManager[None] = nullcontext()
    if database:
        lock = exclusive(Path(f"{database}.lock"), f"track round {number}")
    with lock:
        client = _connect(uri, database)
        experiment_id = _experiment_id(client, context.experiment, database)
        if not _may_have_case_files(client, experiment_id, database, section.case_files):
            log = replace(log, case_files=[])
        root = context.layout.root.resolve()
        run_id = _log_run(client, experiment_id, root, number, log)
    shown_uri = without_credentials(section.uri)
    return Tracking(
        logged=True,
        uri=shown_uri,
        experiment=context.experiment,
        run=f"round_{number}",
        run_id=run_id,
        show=f"mlflow ui --backend-store-uri {shown_uri}" if database else shown_uri,
    )


def _may_have_case_files(
    client: "MlflowClient",
    experiment_id: str,
    database: Path | None,
    case_files: str,
) -> bool:
    """Return whether overlays and tables of cases are logged, see ``track.case_files``."""
    if case_files != "local":
        return case_files == "always"
    location = client.get_experiment(experiment_id).artifact_location
    return database is not None and location.startswith(("file:", "/"))


def sqlite_file(uri: str) -> Path | None:
    """Return the file of ``sqlite:///file``; None for other addresses."""
    if not uri.startswith(SQLITE):
        return None
    return Path(uri.removeprefix(SQLITE).partition("?")[0])


def _prepare_mlflow(timeout_seconds: int) -> None:
    """Import MLflow, which takes seconds, without telemetry and with few messages."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(timeout_seconds)
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
    import mlflow  # noqa: F401

    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _connect(uri: str, database: Path | None) -> "MlflowClient":
    """Connect to MLflow. A SQLite file is created or checked first.

    Raises:
        HstfError: if the file exists and is not a database of MLflow.
    """
    from mlflow import MlflowClient

    if database is not None and not database.exists():
        with atomic_path(database) as temporary:
            MlflowClient(f"{SQLITE}{temporary}").search_experiments(max_results=1)
    elif database is not None:
        _check_database(database)
    return MlflowClient(uri)


def _check_database(database: Path) -> None:
    """Refuse a file that cannot be used now, or that is not a database of MLflow.

    Raises:
        HstfError: if another program has locked it, if it cannot be read, or if it is not one.
    """
    query = "SELECT count(*) FROM sqlite_master WHERE name = 'alembic_version'"
    address = f"{database.resolve().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True)) as connection:
            tables = connection.execute(query).fetchone()
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise HstfError(
                f"{database}: is in use by another program ({error}). Run the stage again later."
            ) from error
        raise HstfError(
            f"{database}: cannot be read ({error}). Make it readable and run the stage again."
        ) from error
    except sqlite3.DatabaseError as error:
        raise HstfError(
            f"{database}: is not a readable SQLite database ({error})."
            " Move it away and run the stage again."
        ) from error
    if not tables[0]:
        raise HstfError(
            f"{database}: is not a database of MLflow."
            " Move it away, or set track.uri, and run the stage again."
        )


def _experiment_id(
    client: "MlflowClient",
    name: str,
    database: Path | None,
) -> str:
    """Return the id of an experiment of MLflow, which is created or restored if necessary."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        artifacts = None
        if database:
            artifacts = (database.parent.resolve() / "mlartifacts" / name).as_uri()
        try:
            return client.create_experiment(name, artifacts)
        except MlflowException:
            # Another job may have created it at the same time.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def _log_run(
    client: "MlflowClient",
    experiment_id: str,
    root: Path,
    number: int,
    log: RoundLog,
) -> str:
    """Write the run of a round, unless a complete run with this content exists.

    Returns:
        The id of the run.
    """
    tags = {
        "hstf.folder": str(root).replace("'", "_"),
        "hstf.round": str(number),
    }
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    earlier = client.search_runs([experiment_id], query)
    notes: dict[str, str] = {}
    for run in earlier:
        if run.data.tags.get("hstf.digest") == log.digest:
            return run.info.run_id
        for key, value in run.data.tags.items():
            if _is_note(key):
                notes[key] = value
    tags = {**notes, **tags, "hstf.version": __version__}
    run = client.create_run(
        experiment_id,
        run_name=f"round_{number}",
        tags=tags,
    )
    _send(client, run.info.run_id, log)
    # The digest comes last: a run without it is incomplete.
    client.set_tag(run.info.run_id, "hstf.digest", log.digest)
    for old in earlier:
        client.delete_run(old.info.run_id)
    return run.info.run_id


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Yield the items in groups of at most ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _is_note(tag: str) -> bool:
    """Return whether people have added a tag."""
    return tag == "mlflow.note.content" or not tag.startswith(("mlflow.", "hstf."))


def _send(
    client: "MlflowClient",
    run_id: str,
    log: RoundLog,
) -> None:
    """Send the content of a run."""
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    metrics = [Metric(name, value, now, step) for name, step, value in log.curves]
    metrics += [Metric(name, value, now, 0) for name, value in log.scores.items()]
    parameters = [Param(name, value) for name, value in log.parameters.items()]
    for some_parameters in _batches(parameters, PARAMETERS_PER_REQUEST):
        client.log_batch(run_id, params=some_parameters)
    for some_metrics in _batches(metrics, METRICS_PER_REQUEST):
        client.log_batch(run_id, metrics=some_metrics)
    client.set_terminated(run_id)
    if log.config_text:
        client.log_text(run_id, log.config_text, "config.yaml")
    for path, folder in log.files + log.case_files:
        client.log_artifact(run_id, str(path), folder or None)
