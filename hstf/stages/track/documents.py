"""What is stored about the runs of MLflow: ``track.json`` and ``tracked/round_<r>.json``."""

from contextlib import suppress
from typing import Any, ClassVar

from hstf.experiment.layout import Layout
from hstf.runtime.documents import Document
from hstf.runtime.errors import HstfError


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
