"""Files of an exported model, and changes of its description."""

import json
from pathlib import Path

from hstf.method.exported_model import write_digests
from hstf.runtime.files import read_json


def files_of(folder: Path) -> set[str]:
    """Return all files of a folder, relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def edit(folder: Path, is_signed: bool = True, **values: object) -> None:
    """Change values of ``model.json``, with a new digest or without one."""
    path = folder / "model.json"
    path.write_text(json.dumps(read_json(path) | values))
    if is_signed:
        write_digests(folder)
