"""The command line of a module that measures calls: ``REPEATS FILE``."""

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from against.processes import Cost

Measured = Callable[[str, int], tuple[str, dict[str, Cost]]]
"""Returns a work and its cost by who did it, for a name and a number of repeats."""


def write_costs(measured: Measured, names: Iterable[str]) -> None:
    """Measure all works and write their costs."""
    repeats, path = int(sys.argv[1]), Path(sys.argv[2])
    works = {}
    for name in names:
        work, costs = measured(name, repeats)
        works[work] = {by: asdict(cost) for by, cost in costs.items()}
    path.write_text(json.dumps(works))
