"""A real browser that uses a real audit desk: Debian's Chromium, driven by Playwright."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

from support.workspace import ROOT

MODE = os.environ.get("HSTF_BROWSER", "")
"""``ci``: install what is missing, if this is Debian and the user may."""
NAMES = ("chromium", "chromium-browser", "google-chrome")
SOFTWARE_GL = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
WAIT_SECONDS = 60


def browser_path() -> str:
    """Return the path of Chromium; skip the test if there is none."""
    if find_spec("playwright") is None:
        pytest.skip("needs the Python package playwright (pip install -e '.[dev]')")
    _install_in_ci("chromium", *NAMES)
    for name in NAMES:
        path = shutil.which(name)
        if path is not None:
            return path
    pytest.skip("needs Chromium (Debian: apt-get install chromium)")


def node_path() -> str:
    """Return the path of Node.js; skip the test if there is none."""
    _install_in_ci("nodejs", "node")
    path = shutil.which("node")
    if path is None:
        pytest.skip("needs Node.js (Debian: apt-get install nodejs)")
    return path


def npm_path() -> str:
    """Return the path of npm; skip the test if there is none."""
    _install_in_ci("npm", "npm")
    path = shutil.which("npm")
    if path is None:
        pytest.skip("needs npm (Debian: apt-get install npm)")
    return path


def _install_in_ci(package: str, *names: str) -> None:
    """Install a Debian package in continuous integration unless one of its programs is there."""
    is_there = any(shutil.which(name) for name in names)
    if is_there or MODE != "ci" or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    # A list of packages that is too old is the usual reason of a failure.
    for arguments in (["update", "-qq"], ["install", "--yes", "--no-install-recommends", package]):
        subprocess.run(["apt-get", *arguments], capture_output=True, timeout=600, check=False)


@contextmanager
def chromium() -> Iterator["Browser"]:
    """Start a browser without a window that draws WebGL without a graphics card."""
    path = browser_path()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = [*SOFTWARE_GL, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


@dataclass
class Server:
    """The command ``hstf audit`` in a folder."""

    folder: Path
    experiment: str = "abdomen"
    options: list[str] = field(default_factory=list)
    port: int = 0
    url: str = ""
    process: "subprocess.Popen[str] | None" = None

    def start(self) -> None:
        """Start it; a second time, on the same port."""
        command = [sys.executable, "-m", "hstf", "audit", f"results/{self.experiment}"]
        command += ["--no-browser", "--port", str(self.port), *self.options]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            command, cwd=self.folder, env=environment, text=True, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            found = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=\S+", line)
            if found is not None:
                self.url = found[0]
                self.port = int(found[1])
                return
        raise AssertionError("hstf audit did not start")

    def kill(self) -> None:
        """End it without any notice."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(WAIT_SECONDS)
            self.process = None


def open_desk(page: "Page", url: str, reviewer: str) -> None:
    """Open the address of a desk and wait for its first case."""
    page.goto(url)
    page.fill("#reviewer-name", reviewer)
    page.keyboard.press("Enter")
    page.wait_for_selector("#stage:not([aria-busy]) ~ .status #cursor:not(:empty)")


def wait_until(condition: "object", seconds: float = 15) -> None:
    """Wait until a function returns a true value."""
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
