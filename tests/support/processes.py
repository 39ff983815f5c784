"""Processes that tests start, stop and kill."""

import os
import subprocess
import sys
import time
from pathlib import Path

HEADER = """
import sys, time
from pathlib import Path
from hstf.runtime.gpu_lease import lease
from hstf.runtime.locks import exclusive, take
from hstf.runtime.run_lock import lock_results, lock_run
"""


def in_another_process(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start ``code`` in another process and wait until it has printed its first line."""
    command = [sys.executable, "-c", HEADER + code, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.first = process.stdout.readline().strip()  # type: ignore[attr-defined]
    return process


def slow(item: Path) -> None:
    """Write the number of this process into a file and sleep."""
    item.write_text(str(os.getpid()))
    time.sleep(60)
