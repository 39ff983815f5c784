"""Tables of shards for tests: the files of each case with their SHA-256."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from hstf.runtime.files import sha256_file
from hstf.runtime.tables import Table


def write_shard(
    table: Table, path: Path, case_ids: Iterable[str], names: Sequence[str] = ()
) -> None:
    """Write the table of a shard.

    Args:
        table: description of the table.
        path: the table.
        case_ids: the cases; the files of a case are in a folder of its name beside the table.
        names: names of the files; all files of the folder if there are none.
    """
    rows = []
    for case_id in case_ids:
        folder = path.parent / case_id
        files = [folder / name for name in names] or sorted(folder.iterdir())
        rows.append(
            {
                "case_id": case_id,
                "files": [f"{case_id}/{file.name}" for file in files],
                "sha256": [sha256_file(file) for file in files],
            }
        )
    table.write(path, rows)
