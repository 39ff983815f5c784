"""``hstf track``: show a round in MLflow. Tracking never fails a run: every problem is a warning.

An experiment of HSTF is an experiment of MLflow, and each round is a run called ``round_<r>``. The
run has the parameters, the training curves of each ensemble member, the scores and the small files
of the round. If a round is tracked again with the same content, its run stays. With other content
the run is replaced, because MLflow can neither change a parameter nor take a metric back. Notes and
tags that people have added to the old run are copied.

The result is stored in ``round_<r>/track.json``, see :class:`Tracking`. The runs are also noted in
``tracked/round_<r>.json``, so that they are known after a later attempt that fails.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from hstf import __version__
from hstf.config.track import (
    ALLOWED_VARIABLES,
    VARIABLE,
    is_allowed_variable,
    without_credentials,
)
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.experiment.plan import Plan
from hstf.experiment.tables import HISTORY, LABELS, REFINE
from hstf.imaging.overlays import overlay_path
from hstf.runtime.documents import Document
from hstf.runtime.errors import HstfError
from hstf.runtime.files import atomic_path, read_json, sha256_file, sha256_json
from hstf.runtime.locks import exclusive
from hstf.scoring.averages import finite_or_none, mean

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEADLINE_SECONDS = 600.0
"""Time for everything, whatever the server does."""
METRICS_PER_REQUEST = 1000
"""Upper bound of MLflow."""
PARAMETERS_PER_REQUEST = 100
"""Upper bound of MLflow."""
DIGEST_LENGTH = 8
"""Number of hexadecimal digits that keep changed names apart."""
MAXIMUM_OVERLAYS = 8
MAXIMUM_REASON = 2000
"""Number of characters of the reason in ``track.json``."""
SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
"""Environment variables whose values are never written."""
SQLITE = "sqlite:///"
Item = TypeVar("Item")

PLAN_KEYS = {"spacing", "patch_size", "batch_size", "channels", "strides"}
"""Keys of the plan that are parameters of a run."""
COMMON_KEYS = {
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
}
"""Sections and keys of the configuration that are parameters of every run."""
WARMUP_KEYS = COMMON_KEYS | {"plan", "pretrain", "warmup", "calibrate"}
ROUND_KEYS = COMMON_KEYS | {"student"}


class Tracking(Document):
    """``track.json``: whether a round is in MLflow. Keys without a value are left out.

    If a round was logged earlier and then not again, the keys below ``reason`` describe the earlier
    run.
    """

    stage: ClassVar[str] = "track"

    logged: bool
    reason: str | None = None
    """Why the round, as it is now, is not in MLflow."""
    uri: str | None = None
    """Address of MLflow, without credentials."""
    experiment: str | None = None
    run: str | None = None
    run_id: str | None = None
    show: str | None = None
    """Command or address that shows the runs."""

    def to_json(self) -> dict[str, Any]:
        """Convert the document to plain JSON values."""
        return self.model_dump(mode="json", exclude_none=True)


class TrackedRuns(Document):
    """``tracked/round_<r>.json``: the last run of a round at each address of MLflow.

    It is no output of a rule, because Snakemake deletes outputs before a job starts.
    """

    stage: ClassVar[str] = "track"

    runs: tuple[Tracking, ...]
    """The newest is the last one."""

    @classmethod
    def of_round(cls, layout: Layout, number: int) -> "TrackedRuns":
        """Return the runs of a round that were logged so far. A damaged file counts as none."""
        with suppress(HstfError):
            return cls.load(layout.tracked(number))
        with suppress(HstfError):  # of a version of hstf without this file
            tracking = Tracking.load(layout.track(number))
            return cls(runs=(tracking,) if tracking.logged else ())
        return cls(runs=())

    def with_run(self, tracking: Tracking) -> "TrackedRuns":
        """Return the runs with one more, which replaces that of the same address."""
        place = (tracking.uri, tracking.experiment)
        others = [run for run in self.runs if (run.uri, run.experiment) != place]
        return TrackedRuns(runs=(*others, tracking))

    def to_json(self) -> dict[str, Any]:
        """Convert the document to plain JSON values."""
        return {"runs": [run.to_json() for run in self.runs]}


def run(args: argparse.Namespace) -> int:
    """Track a round.

    Raises:
        HstfError: if there is no such round. Nothing is written then.
    """
    context = StageContext.of_arguments(args, "track")
    context.schedule.check_exists(context.round)
    track(context)
    return 0


def track(context: StageContext) -> Tracking:
    """Log a round to MLflow, and write ``track.json`` and ``tracked/round_<r>.json``.

    Returns:
        The content of ``track.json``. Nothing is raised.
    """
    number = context.round
    earlier = TrackedRuns.of_round(context.layout, number)
    tracking = _try_to_log(context)
    if tracking.logged:
        earlier = earlier.with_run(tracking)
    elif earlier.runs:
        update = {"logged": False, "reason": tracking.reason}
        tracking = earlier.runs[-1].model_copy(update=update)
    if earlier.runs:
        earlier.save(context.layout.tracked(number))
    tracking.save(context.layout.track(number))
    if tracking.logged:
        print(f"{tracking.run} is in MLflow. To see it: {tracking.show}", flush=True)
    elif context.config.track.enabled:
        print(
            f"hstf track: warning: round {number} is not in MLflow: {tracking.reason}",
            file=sys.stderr,
            flush=True,
        )
    return tracking


def _try_to_log(context: StageContext) -> Tracking:
    """Log a round; a problem becomes the reason why it is not logged."""
    section = context.config.track
    if not section.enabled:
        return Tracking(logged=False, reason="track.enabled is false")
    try:
        with _deadline(DEADLINE_SECONDS):
            return _log(context)
    except _TimeUp:
        reason = f"MLflow took more than {DEADLINE_SECONDS:.0f} s"
    except HstfError as error:
        reason = str(error)
    except Exception as error:
        # MLflow, databases and networks raise errors of many types.
        reason = f"{type(error).__name__}: {error}"
    safe_reason = without_secrets(reason, section.uri)
    return Tracking(logged=False, reason=safe_reason[:MAXIMUM_REASON])


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


def without_secrets(text: str, uri: str) -> str:
    """Remove credentials of addresses and the values of secret environment variables.

    Args:
        text: the text.
        uri: an address; the variables that it names are secret, but for those of every user.
    """
    named = [name for name in VARIABLE.findall(uri) if name not in ALLOWED_VARIABLES]
    for name in (*SECRETS, *named):
        value = os.environ.get(name)
        if value:
            text = text.replace(value, "***")
    return without_credentials(text)


class _TimeUp(BaseException):
    """The deadline has passed.

    This is not an ``Exception``, because MLflow catches those and tries again.
    """


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise :class:`_TimeUp` in the block after some seconds."""

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
    """Name, step and value of each point, from ``history.csv`` of each member."""
    scores: dict[str, float]
    files: list[tuple[Path, str]] = field(default_factory=list)
    """Each file and its folder among the artefacts."""
    case_files: list[tuple[Path, str]] = field(default_factory=list)
    """The same for pictures of single cases and tables of cases."""
    config_text: str = ""

    @property
    def digest(self) -> str:
        """SHA-256, equal for equal content."""
        files = []
        for path, folder in self.files + self.case_files:
            files.append((folder, path.name, sha256_file(path)))
        content = [
            self.parameters,
            self.curves,
            self.scores,
            files,
            self.config_text,
        ]
        return sha256_json(content)


def collect(context: StageContext) -> RoundLog:
    """Read the files of a round. Files that do not exist are left out."""
    layout = context.layout
    number = context.round
    text = ""
    if layout.config.is_file():
        text = layout.config.read_text(encoding="utf-8")
    curves = []
    for member in context.schedule.trained(number):
        curves += _curves(layout, number, member)
    scores = _summary_scores(layout, number)
    case_files = [(path, "") for path in _case_tables(layout, number)]
    # An earlier run may have left files of pseudo-labels that the round does not learn from.
    if context.schedule.has_pseudo_labels(number):
        scores |= _label_scores(layout, number)
        case_files += [(path, "") for path in _pseudo_label_tables(layout, number)]
        case_files += [(path, "overlays") for path in _overlays(layout, number)]
    return RoundLog(
        parameters=_parameters(context),
        curves=curves,
        scores=scores,
        files=[(path, "") for path in _small_files(layout, number)],
        case_files=case_files,
        config_text=without_credentials(text),
    )


def _parameters(context: StageContext) -> dict[str, str]:
    keys = ROUND_KEYS if context.round else WARMUP_KEYS
    if not context.config.pretrain.is_on:
        keys = keys - {"pretrain"}
    values = context.config.model_dump(mode="json", include=keys)
    values["planned"] = {}
    if context.layout.plan.is_file():
        plan = Plan.load(context.layout.plan)
        values["planned"] = plan.model_dump(mode="json", include=PLAN_KEYS)
    return {name: str(value) for name, value in flatten(values, ".")}


def flatten(content: Mapping[str, Any], separator: str) -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings with their paths, which MLflow accepts.

    Args:
        content: the mappings.
        separator: text between the keys of a path.

    Example:
        >>> list(flatten({"a": {"b": 1}, "c": 2}, "/"))
        [('a/b', 1), ('c', 2)]
    """
    for key, value in content.items():
        name = metric_name(str(key))
        if not isinstance(value, Mapping):
            yield name, value
            continue
        for inner_name, inner in flatten(value, separator):
            yield f"{name}{separator}{inner_name}", inner


def metric_name(text: str) -> str:
    """Return a part of a path that MLflow accepts; different texts have different names.

    Characters that MLflow refuses are replaced. A few digits of a digest then keep names apart that
    differ in these characters only, such as two names in Chinese.

    Example:
        >>> metric_name("left kidney")
        'left kidney'
        >>> metric_name("kidney (left)")
        'kidney _left_-72a21ac6'
    """
    name = re.sub(
        r"[^\w\-. ]",
        "_",
        text,
        flags=re.ASCII,
    )
    if name == text and name.strip("."):
        return name
    return f"{name}-{sha256_json(text)[:DIGEST_LENGTH]}"


def _curves(
    layout: Layout,
    number: int,
    member: str,
) -> list[tuple[str, int, float]]:
    """Return the points of the training curves of a member."""
    path = layout.history(number, member)
    rows = HISTORY.records(path) if path.is_file() else []
    prefix = f"{'student' if number else 'warmup'}/{member}"
    points = []
    for row in rows:
        for column, cell in row.items():
            value = None if column == "step" else finite_or_none(cell)
            if value is not None:
                points.append((f"{prefix}/{metric_name(column)}", row["step"], value))
    return points


def _summary_scores(layout: Layout, number: int) -> dict[str, float]:
    """Return all numbers of ``summary.json``."""
    path = layout.evaluation_summary(number)
    summary = read_json(path) if path.is_file() else {}
    scores = {}
    for name, value in flatten(summary, "/"):
        if isinstance(value, int | float):
            scores[f"test/{name}"] = float(value)
    return scores


def _label_scores(layout: Layout, number: int) -> dict[str, float]:
    """Return the number of labels of each source, and their mean predicted Dice."""
    path = layout.labels_table(number)
    rows = LABELS.records(path) if path.is_file() else []
    scores: dict[str, float] = {}
    for source, count in Counter(row["source"] for row in rows).items():
        scores[f"pseudo_labels/{source}"] = count
    dice = mean(row["predicted_dice"] for row in rows)
    if dice is not None:
        scores["pseudo_labels/predicted_dice"] = dice
    return scores


def _small_files(layout: Layout, number: int) -> list[Path]:
    """Return files that name no case."""
    paths = [layout.plan, layout.evaluation_summary(number)]
    return [path for path in paths if path.is_file()]


def _case_tables(layout: Layout, number: int) -> list[Path]:
    """Return files with something about each labelled or test case."""
    paths = [layout.evaluation_cases(number)]
    if not number:
        paths.append(layout.calibration)
    return [path for path in paths if path.is_file()]


def _pseudo_label_tables(layout: Layout, number: int) -> list[Path]:
    """Return files with something about each pseudo-label."""
    paths = [layout.refine(number), layout.labels_table(number)]
    return [path for path in paths if path.is_file()]


def _overlays(layout: Layout, number: int) -> list[Path]:
    """Return pictures of the least certain pseudo-labels, which come first in ``refine.csv``."""
    table = layout.refine(number)
    rows = REFINE.records(table) if table.is_file() else []
    folder = layout.pseudo_labels(number)
    paths = [overlay_path(folder, row["case_id"]) for row in rows]
    return [path for path in paths if path.is_file()][:MAXIMUM_OVERLAYS]


def _log(context: StageContext) -> Tracking:
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
