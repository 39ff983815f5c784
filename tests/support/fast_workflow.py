"""Run the real workflow many times in one test: the same programs, started by forking.

Starting Python and importing PyTorch takes most of the time of a tiny workflow. A server imports
everything once and forks a child for each command; ``hstf`` is a small client of it. Snakemake, the
rules and the stages are the real ones.
"""

import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

CLIENT = """#!{python} -IS
import json, os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
request = dict(arguments=sys.argv[1:], folder=os.getcwd(), kind="hstf", group=os.getpgid(0))
fds = [1, 2]
socket.send_fds(connection, [json.dumps(request).encode()], fds)
answer = connection.recv(64)
sys.exit(int(answer) if answer else 137)
"""


class FastWorkflow:
    """A server that runs ``snakemake`` and ``hstf`` in forked children."""

    def __init__(self, folder: Path) -> None:
        """Start the server; its socket and its ``hstf`` are in ``folder``."""
        self.address = str(folder / "server")
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        client = self.bin / "hstf"
        client.write_text(CLIENT.format(python=sys.executable, address=self.address))
        client.chmod(0o755)
        command = [sys.executable, __file__, self.address, str(self.bin)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert self.server.stdout is not None
        assert self.server.stdout.readline() == "ready\n"

    def snakemake(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Snakemake in ``folder``; return its exit code and its output.

        Args:
            folder: the working directory.
            arguments: all arguments of ``snakemake``.
        """
        with self.start(folder, *arguments) as run:
            return run.wait()

    def hstf(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of ``hstf`` in ``folder``."""
        command = [str(self.bin / "hstf"), *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        return subprocess.CompletedProcess(
            command, done.returncode, done.stdout + done.stderr, done.stderr
        )

    def start(self, folder: Path, *arguments: str) -> "Run":
        """Start Snakemake in ``folder``."""
        return Run(self.address, folder, arguments)

    def stop(self) -> None:
        """Stop the server."""
        self.server.terminate()
        self.server.wait()
        shutil.rmtree(self.bin.parent, ignore_errors=True)


@cache
def shared_server() -> FastWorkflow:
    """Return the server of this test session."""
    server = FastWorkflow(Path(tempfile.mkdtemp(prefix="hstf_server_")))
    atexit.register(server.stop)
    return server


class Run:
    """A run of Snakemake."""

    def __init__(self, address: str, folder: Path, arguments: Sequence[str]) -> None:
        """Ask the server for a run."""
        self.arguments = arguments
        self.log = Path(tempfile.mkstemp(prefix="hstf_output_")[1])
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(address)
        request = {"arguments": list(arguments), "folder": str(folder), "kind": "snakemake"}
        with self.log.open("wb") as log:
            fds = [log.fileno(), log.fileno()]
            socket.send_fds(self.connection, [json.dumps(request).encode()], fds)
        self.pid = int(self.connection.recv(64))

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.close()

    def wait(self, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
        """Wait for the end.

        Raises:
            TimeoutError: if it runs longer.
        """
        self.connection.settimeout(seconds)
        answer = self.connection.recv(64)
        code = int(answer) if answer else 137
        output = self.log.read_text(errors="replace")
        self.log.unlink()
        return subprocess.CompletedProcess(list(self.arguments), code, output, "")

    def kill(self) -> None:
        """Kill Snakemake and its jobs, as a power failure does."""
        os.killpg(self.pid, signal.SIGKILL)


# --- the server
# --------------------------------------------------------------------------


def serve(address: str, bin_folder: str) -> None:
    """Run commands until this process is terminated."""
    import mlflow
    import pandas
    import scipy.ndimage
    import scipy.spatial
    import scipy.stats
    import snakemake.api
    import snakemake.cli
    import torch

    import hstf.cli
    import hstf.stages.calibrate.stage
    import hstf.stages.check.stage
    import hstf.stages.evaluate.cases
    import hstf.stages.export
    import hstf.stages.labels
    import hstf.stages.refine
    import hstf.stages.report.stage
    import hstf.stages.student
    import hstf.stages.teacher
    import hstf.stages.warmup

    del mlflow, pandas, scipy, snakemake, torch, hstf
    sys.executable = str(Path(bin_folder) / "python")  # Snakefile: hstf is beside Python
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _answer(connection)
            os._exit(0)
        connection.close()


def _answer(connection: socket.socket) -> None:
    """Run the command of a connection in a child, so that a killed one is noticed."""
    message, fds, _, _ = socket.recv_fds(connection, 65536, 2)
    request = json.loads(message)
    child = os.fork()
    if child == 0:
        connection.close()
        _run(request, fds)
    for fd in fds:
        os.close(fd)
    if request["kind"] == "snakemake":
        os.setpgid(child, child)
        connection.send(f"{child}".encode())
    else:
        # A job belongs to the process group of its Snakemake: both are killed together.
        os.setpgid(child, request["group"])
    _, status = os.waitpid(child, 0)
    with suppress(BrokenPipeError):  # the one who asked was killed
        connection.send(f"{os.waitstatus_to_exitcode(status) % 256}".encode())


def _run(request: dict, fds: list[int]) -> None:
    os.dup2(fds[0], 1)
    os.dup2(fds[1], 2)
    # The old ones may believe that they can seek, which a pipe cannot.
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", closefd=False)
    os.chdir(request["folder"])
    code = 1
    try:
        code = _call(request)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


def _call(request: dict) -> int:
    import snakemake.cli

    import hstf.cli

    if request["kind"] == "hstf":
        sys.argv = ["hstf", *request["arguments"]]
        return hstf.cli.main(request["arguments"])
    sys.argv = ["snakemake", *request["arguments"]]
    return snakemake.cli.main(request["arguments"]) or 0


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
