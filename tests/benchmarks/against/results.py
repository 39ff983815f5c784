"""What was measured: a JSON file that grows part by part, and a table for readers."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from against.processes import Cost

Costs = Mapping[str, Cost]
"""The cost of the same work by who did it; the first one is this version of hstf."""
Part = dict[str, Any]
"""Facts about how a part was measured, and its ``works``: a name and :data:`Costs` each."""

HEADER = """\
| work | by | seconds | CPU seconds | memory (MB) | hstf / it, seconds | hstf / it, CPU seconds |
|---|---|---:|---:|---:|---:|---:|
"""


def read(path: Path) -> dict[str, Part]:
    """Return the parts that were measured before."""
    return json.loads(path.read_text()) if path.exists() else {}


def add_work(part: Part, work: str, costs: Costs) -> None:
    """Add the costs of a work to a part."""
    part.setdefault("works", {})[work] = {name: asdict(cost) for name, cost in costs.items()}


def table(parts: Mapping[str, Part]) -> str:
    """Return the parts as Markdown tables.

    Example:
        >>> part = {"threads": 1}
        >>> add_work(part, "a step", {"hstf": Cost(1.0, 1.0), "nnU-Net": Cost(2.0, 4.0)})
        >>> print(table({"steps": part}).splitlines()[-1])
        | a step | nnU-Net | 2.00 | 4.00 | | 0.50 | 0.25 |
    """
    texts = []
    for name, part in parts.items():
        facts = ", ".join(f"{key}: {value}" for key, value in part.items() if key != "works")
        rows = [_rows(work, costs) for work, costs in part.get("works", {}).items()]
        texts.append(f"### {name}\n\n{facts}\n\n{HEADER}{''.join(rows)}")
    return "\n".join(texts)


def _rows(work: str, costs: Mapping[str, Mapping[str, float]]) -> str:
    """Return a row for each of who did the work."""
    first = next(iter(costs.values()))
    rows = []
    for name, cost in costs.items():
        cells = [work, name]
        cells += [_number(cost[what]) for what in ("seconds", "cpu_seconds", "megabytes")]
        for clock in ("seconds", "cpu_seconds"):
            has_ratio = cost is not first and cost[clock]
            cells.append(f"{first[clock] / cost[clock]:.2f}" if has_ratio else "")
        rows.append(" ".join(f"| {cell}".rstrip() for cell in cells) + " |\n")
    return "".join(rows)


def _number(value: float) -> str:
    """Return a number with at least two digits, or an empty text for 0: it was not measured."""
    if not value:
        return ""
    decimals = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{decimals}f}"
