"""``hstf audit``: look at pseudo-labels in the browser, and accept, reject or correct them."""

import argparse
import getpass
import os
import platform
import signal
import socket
import sys
import threading
import webbrowser
from importlib import import_module
from types import FrameType

from hstf.runtime.errors import HstfError
from hstf.runtime.optional_packages import refuse_missing_packages

PORT = 8765
"""The first port that is tried if none is given."""
HOST = "127.0.0.1"
NEEDED = ("starlette", "uvicorn")


def run(args: argparse.Namespace) -> int:
    """Serve the audit desk of an experiment until Ctrl-C."""
    refuse_missing_packages("the audit desk", NEEDED, "audit")
    server = import_module("hstf.audit.server")
    with server.opened_desk(args.results, args.round, args.consensus, args.reviewer) as desk:
        app = server.create_app(desk)
        with bound_socket(args.port) as listener:
            port = listener.getsockname()[1]
            address = f"http://{HOST}:{port}/?token={desk.token}"
            for line in greeting(desk.config.experiment, address, port):
                print(line, flush=True)
            if not args.no_browser and has_display():
                threading.Timer(1.0, webbrowser.open, [address]).start()
            serve(app, listener)
    return 0


def bound_socket(port: int | None) -> socket.socket:
    """Return a socket that listens on this machine only.

    Args:
        port: the port; None: :data:`PORT`, or another one if it is taken.

    Raises:
        HstfError: if the port is taken.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, PORT if port is None else port))
    except OSError as error:
        if port is not None:
            listener.close()
            raise HstfError(
                f"--port {port}: cannot be used ({error.strerror}). Give another port, or none."
            ) from error
        listener.bind((HOST, 0))
    listener.listen()  # whoever opens the address at once waits until the server is ready
    return listener


def greeting(experiment: str, address: str, port: int) -> list[str]:
    """Return what the terminal shows at the start."""
    lines = [f"audit desk of {experiment}: {address}", "Stop it with Ctrl-C."]
    if not has_display():
        lines += [
            "To open it on another machine, start this there, and then open the address above:",
            f"  ssh -N -L {port}:{HOST}:{port} {user_name()}@{platform.node()}",
        ]
    return lines


def user_name() -> str:
    """Return the name of the user; in a container the user may have none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "you"


def has_display() -> bool:
    """Return whether a browser can be opened here: not in an SSH session without a display."""
    if sys.platform == "darwin":
        return "SSH_CONNECTION" not in os.environ
    return "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ


def serve(app: object, listener: socket.socket) -> None:
    """Serve the application until Ctrl-C."""
    uvicorn = import_module("uvicorn")
    signal.signal(signal.SIGTERM, end)  # uvicorn ends first, and then passes the signal on
    # The address of a request may have the token, so requests are not logged.
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=3)
    uvicorn.Server(config).run(sockets=[listener])


def end(number: int, _: FrameType | None) -> None:
    """End after a signal, so that temporary files are removed.

    Raises:
        SystemExit: with the exit code of the signal.
    """
    sys.exit(128 + number)
