"""``regions:``, overlapping regions made of classes."""

import difflib
from collections.abc import Iterator, Mapping, Sequence

Regions = Mapping[str, Sequence[str]]
"""Names of the classes of each region."""

RESERVED_NAMES = ("background", "ignore")


def region_problems(regions: Regions, classes: Sequence[str]) -> list[str]:
    """Describe what is wrong with ``regions``.

    Each class must be in a region, and no two classes may be in the same regions: otherwise regions
    could not be stored as a label map.

    Args:
        regions: the regions; none is valid.
        classes: names of the foreground classes.

    Returns:
        Sentences without a full stop.
    """
    if not regions:
        return []
    problems: list[str] = []
    for name, region_classes in regions.items():
        problems += _problems_of(name, region_classes, classes)
    problems += _equal_regions(regions)
    problems += _unclear_classes(regions, classes)
    return problems


def _problems_of(name: str, region_classes: Sequence[str], classes: Sequence[str]) -> Iterator[str]:
    if name in RESERVED_NAMES:
        yield f"{name} cannot be the name of a region"
    if not region_classes:
        yield f"{name} has no class"
    if len(set(region_classes)) < len(region_classes):
        yield f"{name} has a class twice"
    for class_name in dict.fromkeys(region_classes):
        if class_name == "background":
            yield f"{name} has the class background, which no region may have"
        elif class_name not in classes:
            yield f"{name} has {class_name!r}, which is not a class{_hint(class_name, classes)}"


def _hint(name: str, classes: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, classes, n=1)
    return f". Did you mean {near[0]!r}?" if near else f"; the classes are {', '.join(classes)}"


def _equal_regions(regions: Regions) -> Iterator[str]:
    sets = {name: frozenset(names) for name, names in regions.items() if names}
    for equal in _groups_of_equal(sets):
        yield f"{_listed(equal)} have the same classes; keep one of them"


def _unclear_classes(regions: Regions, classes: Sequence[str]) -> Iterator[str]:
    """Describe classes in no region, and classes that the regions cannot distinguish."""
    regions_of_class = {}
    for class_name in classes:
        names = [name for name, region_classes in regions.items() if class_name in region_classes]
        regions_of_class[class_name] = frozenset(names)
    for class_name, found in regions_of_class.items():
        if not found:
            yield (
                f"the class {class_name} is in no region; add a region for it,"
                f" {class_name}: [{class_name}]"
            )
    in_regions = {name: found for name, found in regions_of_class.items() if found}
    for equal in _groups_of_equal(in_regions):
        common = ", ".join(sorted(regions_of_class[equal[0]]))
        yield (
            f"the classes {_listed(equal)} are in the same regions ({common}), which cannot"
            " distinguish them; add a region with one of them and without the others"
        )


def _groups_of_equal(sets: Mapping[str, frozenset[str]]) -> list[list[str]]:
    """Return groups of two or more names whose sets are equal."""
    groups: dict[frozenset[str], list[str]] = {}
    for name, content in sets.items():
        groups.setdefault(content, []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
