"""Who may use the desk: only a browser on this machine that was given the token.

- The server listens on 127.0.0.1. The name in the request must be that of this machine, so that no
  other site can reach the server by a name that it controls (DNS rebinding).
- The token in the printed address becomes a cookie that scripts cannot read and that other sites
  do not send.
- A request that changes something needs a header that other sites cannot add, and the origin of the
  desk.
- The content security policy allows only files of the desk: no script in a name can run.
"""

import hashlib
import hmac
import re
import secrets

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hstf.audit.calls import SESSION_COOKIE, Refusal, refused

LOCAL_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?")
"""An SSH tunnel may use another port."""
CHANGES = ("POST", "PUT", "PATCH", "DELETE")
CHANGE_HEADER = "x-hstf"
SESSION = re.compile(r"[A-Za-z0-9_-]{16,64}")
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline';"
    " script-src 'self'; worker-src 'self' blob:; connect-src 'self' blob: data:;"
    " object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
"""The content security policy. NiiVue needs blobs and inline styles."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
ENTRANCE = (
    "<!doctype html><meta charset=utf-8><title>Audit desk</title>"
    '<meta http-equiv=refresh content="0; url=/"><a href="/">Open the audit desk</a>'
)
"""The answer to the token, which opens the desk by itself. After a redirect from another site, such
as a terminal in the browser, the cookie would not be sent."""
COOKIE = "Path=/; HttpOnly; SameSite=Strict"


class Guard:
    """Refuses requests that do not come from the desk, and adds the headers of all answers."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app = app
        self.token = token
        # The browser sends the cookies of all ports of a machine: each desk needs its own name.
        self.cookie = f"hstf_audit_{hashlib.sha256(token.encode()).hexdigest()[:12]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        session = cookies_of(headers).get(SESSION_COOKIE, "")
        new_cookies: list[str] = []
        if not SESSION.fullmatch(session):
            session = secrets.token_urlsafe(18)
            new_cookies.append(f"{SESSION_COOKIE}={session}; {COOKIE}")

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    answer[name] = value
                answer.setdefault("cache-control", "no-store")
                for cookie in new_cookies:
                    answer.append("set-cookie", cookie)
            await send(message)

        response = self._refusal(scope, headers)
        if response is None and self._is_entrance(scope):
            response = HTMLResponse(ENTRANCE)
            new_cookies.append(f"{self.cookie}={self.token}; {COOKIE}")
        elif response is None and not self._is_known(headers):
            response = refused(
                Refusal(403, "Open the address with the token that 'hstf audit' has printed.")
            )
        await (response or self.app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        if not LOCAL_HOST.fullmatch(host):
            return refused(Refusal(403, "The desk is only available as 127.0.0.1 or localhost."))
        if scope["method"] in CHANGES:
            origin = headers.get("origin")
            is_own = origin is None or origin == f"http://{host}"
            if headers.get(CHANGE_HEADER) != "1" or not is_own:
                return refused(Refusal(403, "Only a page of the desk may change something."))
        return None

    def _is_entrance(self, scope: Scope) -> bool:
        """Return whether a request has the token in its address."""
        if scope["path"] != "/" or scope["method"] != "GET":
            return False
        given = QueryParams(scope["query_string"]).get("token", "")
        return _is_equal(given, self.token)

    def _is_known(self, headers: Headers) -> bool:
        return _is_equal(cookies_of(headers).get(self.cookie, ""), self.token)


def cookies_of(headers: Headers) -> dict[str, str]:
    """Return the cookies of a request."""
    return cookie_parser(headers.get("cookie", ""))


def _is_equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())
