"""``hstf audit``: how it starts, what it prints, and a server that is killed while it saves."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path

import pytest
from support.audit_desk import Browser, copied, desk_of, label, nifti, rows

from hstf.audit.desk import open_experiment
from hstf.audit.server import opened_desk
from hstf.audit.worker import Worker
from hstf.cli import main
from hstf.commands import audit
from hstf.experiment.layout import Layout
from hstf.runtime import optional_packages
from hstf.runtime.errors import HstfError

SERVER = """
import os, signal, sys
from hstf.audit.saving import Saving
from hstf.cli import main

put_file = Saving._put_file

def killed(self, path, state):
    put_file(self, path, state)
    os.kill(os.getpid(), signal.SIGKILL)

Saving._put_file = killed
main(["audit", "results/demo", "--no-browser", "--port", "0", "--reviewer", "AB"])
"""
"""A server that is killed after it has put a corrected label in its place, before its row."""


class Client:
    """A browser without scripts."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.cookies = CookieJar()
        handlers = (
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPCookieProcessor(self.cookies),
        )
        self.opener = urllib.request.build_opener(*handlers)

    def get(self, path: str) -> str:
        with self.opener.open(self.address + path) as answer:
            return str(answer.read().decode())

    def lose_connection(self, path: str, content: bytes) -> None:
        """Send half of a request, and close the connection."""
        host, port = self.address.removeprefix("http://").split(":")
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.cookies)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nCookie: {cookies}\r\nX-HSTF: 1\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + content[: len(content) // 2])

    def post(self, path: str, content: bytes) -> None:
        request = urllib.request.Request(self.address + path, content, {"X-HSTF": "1"})
        self.opener.open(request).close()


@contextmanager
def started(folder: Path) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """Start the server and open its address."""
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            address = re.search(r"(http://127\.0\.0\.1:\d+)(/\?token=\S+)", line)
            assert address is not None
            client = Client(address[1])
            with pytest.raises(urllib.error.HTTPError, match="403"):
                client.get("/api/queue")
            client.get(address[2])
            yield server, client
        finally:
            server.kill()


def test_server_that_is_killed_while_it_saves(template: Path, tmp_path: Path) -> None:
    copied(template, tmp_path)
    with started(tmp_path) as (server, client):
        digest = re.search(r'"bad".*?"sha256":"(\w+)"', client.get("/api/queue"))
        assert digest is not None
        path = f"/api/cases/bad/correction?round=1&sha256={digest[1]}"
        client.lose_connection(path, nifti(label()))
        assert '"corrected":0' in client.get("/api/queue")
        with pytest.raises(OSError, match=r"closed|reset"):
            client.post(path, nifti(label()))
        assert server.wait(20) == -signal.SIGKILL
    overrides = tmp_path / "overrides"
    assert (overrides / "round_1" / "bad.nii.gz").exists()
    assert not (overrides / "decisions.csv").exists()
    code = f"""
from pathlib import Path
from hstf.audit.saving import Saving
from hstf.audit.desk import open_experiment
from hstf.experiment.layout import Layout
saving = Saving(Layout.of(open_experiment(Path({str(tmp_path / "results" / "demo")!r}))))
saving.complete()
print([row["action"] for row in saving.table.rows(1, "bad")], len(saving.history.actions()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['replace'] 1\n"


def test_worker_that_ended_is_replaced() -> None:
    with Worker() as worker:
        with pytest.raises(BrokenProcessPool):
            worker.submit(os._exit, 1).result()
        assert worker.submit(abs, -1).result() == 1


def test_opened_desk_completes_what_was_begun(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = copied(template, tmp_path)
    monkeypatch.chdir(tmp_path)
    browser = Browser(desk_of(config, tmp_path / "cache"), "AB")
    browser.correct("bad", nifti(label()))
    history = tmp_path / "overrides" / ".history"
    (action,) = (history / "actions" / "bad").iterdir()
    action.rename(history / "pending.json")
    (tmp_path / "overrides" / "decisions.csv").unlink()
    with opened_desk(tmp_path / "results" / "demo", None, "third", "CD") as desk:
        assert (desk.consensus, desk.reviewer, desk.first_round()) == ("third", "CD", 1)
        assert rows(desk)[0]["action"] == "replace"
        cache = desk.cache
    assert not cache.exists()


def test_experiment_is_opened_from_another_folder(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    copied(template, folder)
    monkeypatch.chdir(tmp_path)
    config = open_experiment(Path("project/results/demo"))
    assert Path.cwd().samefile(folder)
    assert Layout.of(config).refine(1).is_file()


def test_other_folders_are_refused(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HstfError, match=r"has no config\.yaml"):
        open_experiment(tmp_path)
    copied(template, tmp_path)
    moved = (tmp_path / "results" / "demo").rename(tmp_path / "moved")
    with pytest.raises(HstfError, match="names the folder results/demo"):
        open_experiment(moved)


def test_experiment_without_pseudo_labels_is_refused(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = desk_of(copied(template, tmp_path), tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    desk.start_round = 2
    with pytest.raises(HstfError, match="--round 2: this round has no pseudo-labels"):
        desk.first_round()
    desk.layout.refine(1).unlink()
    with pytest.raises(HstfError, match="no round has pseudo-labels"):
        desk.first_round()


def test_missing_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(optional_packages, "find_spec", lambda name: None)
    assert main(["audit", "results/demo"]) == 1
    message = capsys.readouterr().err
    assert "starlette and uvicorn" in message and "pip install 'hstf[audit]'" in message


def test_port_that_is_taken() -> None:
    with audit.bound_socket(0) as taken:
        port = taken.getsockname()[1]
        assert taken.getsockname()[0] == "127.0.0.1"
        with pytest.raises(HstfError, match=f"--port {port}: cannot be used"):
            audit.bound_socket(port)


def test_another_port_is_used_if_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with audit.bound_socket(0) as taken:
        monkeypatch.setattr(audit, "PORT", taken.getsockname()[1])
        with audit.bound_socket(None) as other:
            assert other.getsockname()[1] != taken.getsockname()[1]


def test_user_name_of_a_container_without_users(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 54321")

    monkeypatch.setattr(audit.getpass, "getuser", unknown)
    assert audit.user_name() == "you"


def test_greeting_explains_the_tunnel_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSH_CONNECTION", "x")
    lines = audit.greeting("demo", "http://127.0.0.1:8765/?token=x", 8765)
    assert "http://127.0.0.1:8765/?token=x" in lines[0]
    assert re.search(r"ssh -N -L 8765:127\.0\.0\.1:8765 \S+@\S+", lines[-1])
    monkeypatch.setenv("DISPLAY", ":0")
    assert audit.has_display() == (sys.platform != "darwin")
