"""Processes that tests start, stop and kill."""

import os
import subprocess
import sys
import time
from pathlib import Path


def in_another_process(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run ``code`` and go on when it has printed its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys, time\nfrom pathlib import Path\nfrom hstf.runtime.locks import *\n{code}",
         *map(str, arguments)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.first = process.stdout.readline().strip()  # type: ignore[attr-defined]
    return process


def slow(item: Path) -> None:
    item.write_text(str(os.getpid()))
    time.sleep(60)
