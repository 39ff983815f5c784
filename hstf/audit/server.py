"""The server of the audit desk: it joins the routes of all modules, the static files and the guard.

To add an address, add a route to ``ROUTES`` of its module, and the module to :data:`MODULES`.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.resources import files
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles

from hstf.audit.calls import Refusal, refused
from hstf.audit.desk import Desk, open_experiment
from hstf.audit.saving import Saving
from hstf.audit.security import Guard
from hstf.audit.worker import Worker

MODULES = (
    "session",
    "queue",
    "cases",
    "layers",
    "marks",
    "decisions",
    "agreement",
    "feedback",
    "rerun",
    "progress",
    "suggest",
)
"""The modules of this package with ``ROUTES``."""


def create_app(desk: Desk) -> Starlette:
    """Return the application of a desk."""
    routes: list[BaseRoute] = []
    for name in MODULES:
        routes += import_module(f"hstf.audit.{name}").ROUTES
    folder = str(files("hstf.audit") / "static")
    routes.append(Mount("/", StaticFiles(directory=folder, html=True, check_dir=False)))
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, token=desk.token)],
        exception_handlers={HTTPException: _http_error},
    )
    app.state.desk = desk
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    """Answer a request for an address that does not exist."""
    assert isinstance(error, HTTPException)
    return refused(Refusal(error.status_code, f"{error.detail}."))


@contextmanager
def opened_desk(results: Path, number: int | None, consensus: str, reviewer: str) -> Iterator[Desk]:
    """Open the desk of an experiment; converted volumes are removed at the end.

    Args:
        results: the folder of the experiment.
        number: the round that is shown first; None: the last one.
        consensus: whose decision is in force.
        reviewer: the name of a new session.

    Raises:
        HstfError: if the folder has no results, or no round has pseudo-labels.
    """
    config = open_experiment(results)
    with (
        tempfile.TemporaryDirectory(prefix="hstf-audit-") as cache,
        Worker() as worker,
    ):
        name = " ".join(reviewer.split())
        desk = Desk(config, worker, Path(cache), number, consensus, name)
        desk.first_round()
        Saving.of(desk).complete()
        yield desk
