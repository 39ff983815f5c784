"""The options ``--images`` and ``--labels``: patterns of paths."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hstf.runtime.errors import HstfError

MAXIMUM_EXAMPLES = 5
WILDCARDS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
WILDCARD = re.compile(r"\*\*/|\*\*|\*|\?|\[!?[^]]+\]")


@dataclass(frozen=True)
class Selection:
    """The volumes that a user chose."""

    images: frozenset[Path] | None
    """``None``: images are recognised by their names."""
    labels: frozenset[Path] | None

    def role(self, path: Path) -> str | None:
        """Return the chosen role of a volume; empty: left out; ``None``: by its name."""
        if self.labels is not None and path in self.labels:
            return "label"
        if self.images is not None and path in self.images:
            return "image"
        if self.images is not None and self.labels is not None:
            return ""
        return None


def select(
    folder: Path,
    volumes: Sequence[Path],
    images: Sequence[str],
    labels: Sequence[str],
) -> Selection:
    """Return the volumes that the patterns of each option match.

    Raises:
        HstfError: if a pattern matches no volume.
    """
    chosen_images = _matching(folder, volumes, images, "--images")
    chosen_labels = _matching(folder, volumes, labels, "--labels")
    if chosen_images and chosen_labels and chosen_images <= chosen_labels:
        raise HstfError(
            f"--images {' '.join(images)} and --labels {' '.join(labels)} match the same files."
        )
    return Selection(chosen_images, chosen_labels)


def _matching(
    folder: Path,
    volumes: Sequence[Path],
    patterns: Sequence[str],
    option: str,
) -> frozenset[Path] | None:
    if not patterns:
        return None
    chosen: set[Path] = set()
    for pattern in patterns:
        found = [path for path in volumes if _is_match(pattern, path, folder)]
        if not found:
            raise HstfError(
                f"{option} {pattern}: matches none of {len(volumes)} volumes in {folder}, such as"
                f" {_examples(folder, volumes)}. The pattern is relative to the folder; * stands"
                " for a part of a name, ** for any folders. Put it in quotes."
            )
        chosen.update(found)
    return frozenset(chosen)


def _is_match(pattern: str, path: Path, folder: Path) -> bool:
    """Return whether ``pattern`` names a volume, or a folder that contains it.

    A pattern without a slash matches names of files in all folders. A pattern may also start at
    the working directory, as one does that the shell has expanded.
    """
    relative = path.relative_to(folder).as_posix()
    texts = [relative, path.as_posix(), str(path.absolute())]
    pattern = pattern.removeprefix("./").rstrip("/")
    if "/" not in pattern:
        texts.append(path.name)
    expression = re.compile(f"(?:{_expression(pattern)})(?:/.*)?")
    return any(expression.fullmatch(text) for text in texts)


def _expression(pattern: str) -> str:
    """Return ``pattern`` as a regular expression."""
    parts = []
    position = 0
    for found in WILDCARD.finditer(pattern):
        parts.append(re.escape(pattern[position : found.start()]))
        wildcard = found[0]
        parts.append(WILDCARDS.get(wildcard, wildcard.replace("[!", "[^")))
        position = found.end()
    parts.append(re.escape(pattern[position:]))
    return "".join(parts)


def _examples(folder: Path, volumes: Sequence[Path]) -> str:
    names = [str(path.relative_to(folder)) for path in volumes[:MAXIMUM_EXAMPLES]]
    return ", ".join(names)
