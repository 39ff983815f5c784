"""Record which stage opens a withheld file.

Python imports this module at its start if this folder is on ``PYTHONPATH``. ``HSTF_WITHHELD`` is
the path of a list of files, relative to the folder of the list. Three files are written next to it:

- ``stages.txt`` gets a line for each ``hstf`` command that starts.
- ``opened.txt`` gets a line for each file of the list that such a command, or one of its processes,
  opens.
- ``scores.txt`` gets a line for each file in a folder ``evaluation`` that they open, because these
  scores were computed from withheld labels.
"""

import os
import sys
from pathlib import Path


def _guard(listing: Path) -> None:
    folder = listing.parent.resolve()
    stage = os.environ["HSTF_STAGE"]
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
