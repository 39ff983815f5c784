"""Notes who opens a withheld file. Python imports this first when the folder is on ``PYTHONPATH``.

``HSTF_WITHHELD`` names a list of files, relative to its own folder. Beside it, ``stages.txt`` gets a line for each ``hstf``
command that starts, and ``opened.txt`` one for each file of the list that such a command, or a process of it, opens.
``scores.txt`` gets the same for each file of that folder in a folder ``evaluation``: what is told there was learned from
withheld labels.
"""

import os
import sys
from pathlib import Path


def _guard(listing: Path) -> None:
    folder, stage = listing.parent.resolve(), os.environ["HSTF_STAGE"]
    withheld = {(folder / line).resolve() for line in listing.read_text().splitlines()}
    names = {path.name for path in withheld}

    def note(name: str, line: str) -> None:
        with (folder / name).open("a") as stream:
            stream.write(line + "\n")

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = Path(os.fsdecode(arguments[0]))
        if path.name in names and path.resolve() in withheld:
            note("opened.txt", f"{stage} {path.resolve().relative_to(folder)}")
        if "evaluation" in path.parts and path.resolve().is_relative_to(folder):
            note("scores.txt", f"{stage} {path}")

    note("stages.txt", stage)
    sys.addaudithook(watch)


_command = [Path(word).name for word in sys.orig_argv[1:3]]
if "HSTF_WITHHELD" in os.environ:
    if _command[:1] == ["hstf"]:
        os.environ["HSTF_STAGE"] = _command[-1]  # for the processes that the command starts
    if "HSTF_STAGE" in os.environ:
        _guard(Path(os.environ["HSTF_WITHHELD"]))
