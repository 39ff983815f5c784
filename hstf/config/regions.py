"""``regions:``, overlapping regions made of classes."""

import difflib
from collections.abc import Iterable, Mapping, Sequence

Regions = Mapping[str, Sequence[str]]
"""Names of the classes of each region."""


def region_problems(regions: Regions, classes: Sequence[str]) -> list[str]:
    """What is wrong with ``regions`` of foreground ``classes``, as sentences without a full stop; nothing without regions.

    Every class lies in a region, and no two classes in the same ones: else the regions could not be written as a label map.
    """
    if not regions:
        return []
    faults = [
        fault for name, members in regions.items() for fault in _faults_of(name, members, classes)
    ]
    faults += [
        f"{_listed(names)} hold the same classes; keep one of them"
        for names in _alike(
            {name: frozenset(members) for name, members in regions.items() if members}
        )
    ]
    holders = {
        c: frozenset(name for name, members in regions.items() if c in members) for c in classes
    }
    faults += [
        f"the class {c} is in no region; give it one of its own, {c}: [{c}]"
        for c in classes
        if not holders[c]
    ]
    faults += [
        f"the classes {_listed(names)} are in the same regions ({', '.join(sorted(holders[names[0]]))}), which cannot tell"
        " them apart; add a region that holds one of them without the others"
        for names in _alike({c: held for c, held in holders.items() if held})
    ]
    return faults


def _faults_of(name: str, members: Sequence[str], classes: Sequence[str]) -> Iterable[str]:
    if name in ("background", "ignore"):
        yield f"{name} is no name for a region"
    if not members:
        yield f"{name} holds no class"
    if len(set(members)) < len(members):
        yield f"{name} names a class twice"
    for member in dict.fromkeys(members):
        if member == "background":
            yield f"{name} holds background, which is what no region holds"
        elif member not in classes:
            near = difflib.get_close_matches(member, classes, n=1)
            hint = (
                f". Did you mean {near[0]!r}?"
                if near
                else f"; the classes are {', '.join(classes)}"
            )
            yield f"{name} holds {member!r}, which is no class{hint}"


def _alike(sets: Mapping[str, frozenset[str]]) -> list[list[str]]:
    """Groups of names, two or more each, whose sets are equal."""
    groups: dict[frozenset[str], list[str]] = {}
    for name, members in sets.items():
        groups.setdefault(members, []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
