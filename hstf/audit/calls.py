"""Requests and answers: what a function behind an address is given, and how it refuses."""

import asyncio
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hstf.audit.desk import Desk
from hstf.runtime.errors import HstfError

SESSION_COOKIE = "hstf_audit_session"
JSON_BYTES = 64 << 10
"""Maximum length of a request in JSON."""
OUT_OF_MEMORY = (
    "The process that reads volumes has ended, most likely because the memory was too small. Close"
    " other programs, and try again."
)


class Refusal(Exception):
    """A request that is refused: status, sentence, and further keys of the answer."""

    def __init__(self, status: int, text: str, **more: object) -> None:
        super().__init__(text)
        self.status = status
        self.more = more


@dataclass(frozen=True)
class Call:
    """A request of a browser."""

    desk: Desk
    session: str
    path: Mapping[str, Any] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    """The content of a request in JSON."""
    file: Path | None = None
    """The content of another request."""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def reviewer(self) -> str:
        """The reviewer; empty if the browser has not named one."""
        return self.desk.reviewers.get(self.session, self.desk.reviewer)

    def named_reviewer(self) -> str:
        """Return the reviewer.

        Raises:
            Refusal: if the browser has not named one, or if the page shows another one.
        """
        if not self.reviewer:
            raise Refusal(400, "Enter your name first: each decision names its reviewer.")
        if self.given("reviewer") not in (None, self.reviewer):
            raise Refusal(
                409,
                f"The reviewer of this browser is now {self.reviewer}, changed in another tab."
                " Nothing was saved. Change the reviewer back, or load the page again.",
            )
        return self.reviewer

    def case_id(self) -> str:
        """Return the case of the address.

        Raises:
            Refusal: if there is no such case.
        """
        case_id = str(self.path["case_id"])
        if case_id not in self.desk.cases:
            raise Refusal(404, "There is no such unlabelled case.")
        return case_id

    def round(self) -> int:
        """Return the round; the one that is shown first if none is given.

        Raises:
            Refusal: if it has no pseudo-labels.
        """
        value = self.given("round")
        if value is None:
            return self.desk.first_round()
        text = str(value)
        rounds = self.desk.rounds()
        if not (text.isascii() and text.isdecimal() and len(text) < 5 and int(text) in rounds):
            raise Refusal(404, "This round has no pseudo-labels.")
        return int(text)

    def given(self, name: str) -> Any:
        """Return a value of the body or of the address; None if there is none."""
        value = self.body.get(name)
        return self.query.get(name) if value is None else value

    def text(self, name: str, maximum: int = 500) -> str:
        """Return a text on one line, without control characters; empty if it is not given.

        Raises:
            Refusal: if it is no text or too long.
        """
        value = self.given(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise Refusal(400, f"{name}: is not a text.")
        return one_line(value, name, maximum)

    def seconds(self) -> float | None:
        """Return how long the reviewer needed; None if it is not known."""
        try:
            seconds = float(self.given("seconds"))
        except (TypeError, ValueError):
            return None
        return round(seconds, 1) if 0 <= seconds < 1e6 else None


def one_line(text: str, name: str, maximum: int) -> str:
    """Return a text of a person without line breaks and control characters.

    Raises:
        Refusal: if it is too long or no valid text.
    """
    printable = "".join(character if character.isprintable() else " " for character in text)
    words = " ".join(printable.split())
    if len(words) > maximum:
        raise Refusal(400, f"{name}: has {len(words)} characters, at most {maximum} are possible.")
    return words


Answer = Callable[[Call], Any]
"""Returns what is sent as JSON, or a response."""
Receiver = Callable[[Request, Desk], Path]


def get(path: str, answer: Answer) -> Route:
    """Return the route of a request that changes nothing."""

    async def endpoint(request: Request) -> Response:
        return await _answered(answer, _call(request))

    return Route(path, endpoint, methods=["GET"])


def post(path: str, answer: Answer) -> Route:
    """Return the route of a request in JSON that changes something."""

    async def endpoint(request: Request) -> Response:
        try:
            body = await _read_json(request)
        except Refusal as refusal:
            return refused(refusal)
        return await _answered(answer, _call(request, body=body))

    return Route(path, endpoint, methods=["POST"])


def upload(
    path: str, answer: Answer, place: Callable[[Call], Path], limit: Callable[[Call], int]
) -> Route:
    """Return the route of a request that brings a file.

    Args:
        path: the address.
        answer: is given the file; it is removed afterwards.
        place: returns where the file is written; it may refuse the request.
        limit: returns the maximum number of bytes.
    """

    async def endpoint(request: Request) -> Response:
        file = None
        try:
            call = _call(request)
            file = await run_in_threadpool(place, call)
            maximum = await run_in_threadpool(limit, call)
            await _receive(request, file, maximum)
            return await _answered(answer, _call(request, file=file))
        except Refusal as refusal:
            return refused(refusal)
        except HstfError as error:
            return refused(Refusal(400, str(error)))
        except ClientDisconnect:
            return refused(Refusal(400, "The connection was lost before the file was complete."))
        finally:
            if file is not None:
                file.unlink(missing_ok=True)

    return Route(path, endpoint, methods=["POST"])


async def _receive(request: Request, file: Path, maximum: int) -> None:
    """Write the content of a request to a file.

    Raises:
        Refusal: if it is too large.
    """
    received = 0
    with file.open("xb") as stream:
        async for block in request.stream():
            received += len(block)
            if received > maximum:
                raise Refusal(413, f"The file is too large: at most {maximum} bytes are possible.")
            await asyncio.to_thread(stream.write, block)


async def _read_json(request: Request) -> dict[str, Any]:
    """Return the content of a request in JSON.

    Raises:
        Refusal: if it is too large or no object in JSON.
    """
    content = b""
    async for block in request.stream():
        content += block
        if len(content) > JSON_BYTES:
            raise Refusal(413, "The request is too large.")
    try:
        body = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        raise Refusal(400, "The request is not JSON.") from None
    if not isinstance(body, dict):
        raise Refusal(400, "The request is not an object in JSON.")
    return body


def _call(request: Request, **content: Any) -> Call:
    return Call(
        desk=request.app.state.desk,
        session=request.cookies.get(SESSION_COOKIE, ""),
        path=request.path_params,
        query=dict(request.query_params),
        headers=request.headers,
        **content,
    )


def _with_last_run(answer: Answer, call: Call) -> Any:
    call.desk.renew()
    return answer(call)


async def _answered(answer: Answer, call: Call) -> Response:
    try:
        result = await run_in_threadpool(_with_last_run, answer, call)
    except Refusal as refusal:
        return refused(refusal)
    except HstfError as error:
        return refused(Refusal(400, str(error)))
    except BrokenProcessPool:
        return refused(Refusal(500, OUT_OF_MEMORY))
    except Exception as error:  # the desk stays open, and the terminal shows the error
        traceback.print_exc(file=sys.stderr)
        return refused(Refusal(500, f"The server failed ({type(error).__name__}), see its output."))
    return result if isinstance(result, Response) else JSONResponse(result)


def refused(refusal: Refusal) -> Response:
    """Return the answer to a request that is refused."""
    return JSONResponse({"error": str(refusal), **refusal.more}, status_code=refusal.status)
