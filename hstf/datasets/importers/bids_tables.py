"""Tables of a BIDS data set: the classes of labels, and the sites of subjects."""

from collections.abc import Callable, Sequence
from pathlib import Path

from hstf.datasets.importers.bids_files import File
from hstf.datasets.importers.dataset import Labels, numbered_classes, plain_names
from hstf.datasets.importers.options import Options
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_sheet

UNKNOWN_CELL = "n/a"
"""What BIDS writes into a cell whose value is not known."""


def classes_of(
    folder: Path,
    options: Options,
    labels: Sequence[File],
) -> Labels | Callable[[set[int]], Labels]:
    """Return the classes of the options, or else those of the tables of ``labels``.

    Raises:
        HstfError: if two tables give a value different names, or a name different values.
    """
    if options.labels:
        return Labels({"background": 0} | options.labels)
    tables = sorted(folder.rglob("*dseg.tsv"))
    used = {table for label in labels if (table := _table_of(label, tables))}
    values: dict[str, int] = {}
    names: dict[int, str] = {}
    for table in sorted(used):
        for name, value in _read_classes(table).items():
            other = names.setdefault(value, name), values.setdefault(name, value)
            if value and other != (name, value):
                raise HstfError(
                    f"{table}: {name} is {value}, but another table of the labels has"
                    f" {other[0]} = {value} and {name} = {other[1]}. Number the values in labels"
                    " and tables equally, or state those of all labels with --labels NAME=VALUE."
                )
    named = {name: value for name, value in values.items() if value}
    return Labels({"background": 0} | named) if named else numbered_classes


def _table_of(label: File, tables: Sequence[Path]) -> Path | None:
    """Return the most specific table of a label.

    By the inheritance principle of BIDS, a table is in the folder of its files or above, and its
    name has no other entities.
    """
    entities = {"-".join(pair) for pair in label.entities.items()}
    suitable = []
    for table in tables:
        own = {part for part in table.stem.split("_") if "-" in part}
        if label.path.is_relative_to(table.parent) and own <= entities:
            suitable.append((len(table.parts), len(own), table))
    return max(suitable)[-1] if suitable else None


def _read_classes(table: Path) -> dict[str, int]:
    """Return the value of each class in a table of segmentation labels."""
    names = {}
    _, rows = read_sheet(table)
    for _, row in rows:
        index, name = row.get("index", ""), row.get("name", "")
        if name and index.isdigit():
            names[name] = int(index)
    plain = plain_names(names, table)
    return {plain[name]: value for name, value in names.items()}


def read_sites(path: Path) -> dict[str, str]:
    """Return the site of each subject in ``participants.tsv``; empty if it is not known."""
    sites: dict[str, str] = {}
    if not path.is_file():
        return sites
    _, rows = read_sheet(path)
    for _, row in rows:
        subject = row.get("participant_id", "")
        site = row.get("site", "")
        sites[subject] = "" if site == UNKNOWN_CELL else site
    return sites
