"""Match labels to images by their names.

Names are compared as words and numbers. Several comparisons are tried, from the whole name to the
name of the folder. The one that assigns most labels is used for all files of a data set.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from hstf.datasets.importers.names import (
    IMAGE_WORDS,
    LABEL_WORDS,
    WEAK_IMAGE_WORDS,
    WEAK_LABEL_WORDS,
    Tokens,
    tokens_of,
    without,
)

ROLE_WORDS = LABEL_WORDS + WEAK_LABEL_WORDS + IMAGE_WORDS + WEAK_IMAGE_WORDS
CHUNK = re.compile(r"[-_. ]+")
"""Separates the parts of a name."""
NO_KEY: Tokens = ()


def composed(name: str) -> str:
    """Return ``name`` with each letter and its accent as one character.

    macOS writes them as two: ``ü`` of its files differs from ``ü`` of others.
    """
    return unicodedata.normalize("NFC", name)


@dataclass(frozen=True)
class File:
    """A volume with what its path shows."""

    path: Path
    role: str
    """``image`` or ``label``."""
    folders: tuple[str, ...]
    """Names of the folders that may identify the case."""
    name: str
    """Name without suffix and modality."""
    parts: tuple[str, ...] = ()
    """Names of all folders below that of the data set."""
    split: str = ""
    """Split that a folder names, or empty."""
    split_folder: str = ""
    """Name of this folder."""
    column: str = ""
    """Modality of an image, or empty."""

    @cached_property
    def tokens(self) -> Tokens:
        """Words and numbers of the name."""
        return tokens_of(self.name)

    @cached_property
    def folder_tokens(self) -> Tokens:
        """Words and numbers of the folders."""
        return tokens_of(" ".join(self.folders))

    @property
    def chunks(self) -> list[str]:
        """Parts of the folders and of the name, as they are written."""
        return CHUNK.split("_".join([*self.folders, self.name]))


@dataclass
class Scan:
    """The images of a case with the labels that belong to them."""

    images: dict[str, File]
    """Image of each modality."""
    labels: list[File] = field(default_factory=list)

    @property
    def first(self) -> File:
        """The image of the first modality."""
        return next(iter(self.images.values()))


Key = Callable[[File], Tokens]


@dataclass(frozen=True)
class Comparison:
    """A way of comparing names."""

    rule: str
    """Description for users."""
    image_key: Key
    label_key: Key
    by_folder: bool = False
    """Whether the names of folders count."""
    is_doubtful: bool = False
    """Whether words that all images have differ from those that all labels have."""
    can_contain: bool = True
    """Whether the name of a label may contain the name of its image and further words."""


@dataclass
class Matching:
    """The result of the best comparison."""

    comparison: Comparison
    unmatched: list[File]
    """Labels without an image."""


def match(
    scans: Sequence[Scan],
    labels: Sequence[File],
    pattern: str = "",
) -> Matching:
    """Assign ``labels`` to ``scans``.

    Args:
        scans: images of each case. Their labels are set.
        labels: all labels.
        pattern: regular expression whose groups name the case; empty: compare names.
    """
    comparisons = _comparisons([scan.first for scan in scans], labels)
    if pattern:
        comparisons = [_by_pattern(pattern)]
    comparison, best = _best_attempt(scans, labels, comparisons)
    matching = Matching(comparison, [])
    for label in labels:
        scan = best.get(label.path)
        if scan is None:
            matching.unmatched.append(label)
        else:
            scan.labels.append(label)
    return matching


def _best_attempt(
    scans: Sequence[Scan],
    labels: Sequence[File],
    comparisons: Sequence[Comparison],
) -> tuple[Comparison, dict[Path, Scan | None]]:
    """Return the comparison that assigns most labels, with the scan of each label.

    Of equal ones, the one with the fewest scans with several labels is preferred, and then the most
    literal one.
    """
    attempts = []
    for number, comparison in enumerate(comparisons):
        for contained in (False, True):
            if contained and not comparison.can_contain:
                continue
            found = _attempt(scans, labels, comparison, contained)
            taken = Counter(id(scan) for scan in found.values() if scan is not None)
            several = sum(count > 1 for count in taken.values())
            score = (sum(taken.values()), -several, not contained, -number)
            if score[:2] == (len(labels), 0):
                return comparison, found
            attempts.append((score, comparison, found))
    _, comparison, best = max(attempts, key=lambda attempt: attempt[0])
    return comparison, best


def _comparisons(images: Sequence[File], labels: Sequence[File]) -> list[Comparison]:
    """Return all comparisons, the most literal first."""
    image_ends = _constant_ends([_plain(file) for file in images])
    label_ends = _constant_ends([_plain(file) for file in labels])

    def whole(file: File) -> Tokens:
        return file.tokens

    def unmarked(file: File) -> Tokens:
        return without(file.tokens, LABEL_WORDS)

    def varying_image(file: File) -> Tokens:
        return _cut(_plain(file), image_ends)

    def varying_label(file: File) -> Tokens:
        return _cut(_plain(file), label_ends)

    def folder_only(file: File) -> Tokens:
        return file.folder_tokens

    pairs = [
        ("the name of the image", whole, unmarked),
        ("the name without words such as img and label", _plain, _plain),
        ("the part of the name that varies", varying_image, varying_label),
    ]
    found = []
    for rule, image, label in pairs:
        literal = image is not varying_image
        doubtful = not literal and _differ(images, image_ends, labels, label_ends)
        found.append(
            Comparison(rule, image, label, is_doubtful=doubtful, can_contain=literal),
        )
    if not any(file.folders for file in labels):
        return found
    for rule, image, label in pairs:
        rule = f"the folder and {rule}"
        literal = image is not varying_image
        found.append(
            Comparison(rule, _with_folder(image), _with_folder(label), True, can_contain=literal),
        )
    found.append(Comparison("the folder of the case", folder_only, folder_only, True))
    return found


def _plain(file: File) -> Tokens:
    """Return the words of a name that are not about images and labels."""
    return without(file.tokens, ROLE_WORDS)


def _with_folder(key: Key) -> Key:
    def with_folder(file: File) -> Tokens:
        return file.folder_tokens + key(file)

    return with_folder


def _by_pattern(pattern: str) -> Comparison:
    def key(file: File) -> Tokens:
        return case_of(pattern, file)

    return Comparison(f"--match {pattern!r}", key, key, can_contain=False)


def case_of(pattern: str, file: File) -> Tokens:
    """Return the groups of ``pattern`` in the path below the data set; empty if there are none.

    The group ``case`` is preferred if there is one.
    """
    path = "/".join([*file.parts, composed(file.path.name)])
    found = re.search(composed(pattern), path, re.IGNORECASE)
    if found is None:
        return NO_KEY
    named = found.groupdict()
    if named.get("case"):
        return (named["case"],)
    return tuple(group for group in found.groups() if group)


def _constant_ends(names: Sequence[Tokens]) -> tuple[int, int]:
    """Return how many words at the start and at the end all names have in common."""
    if len(names) < 2:
        return 0, 0
    shortest = min(len(tokens) for tokens in names)
    first = names[0]
    start = 0
    while start < shortest and all(tokens[start] == first[start] for tokens in names):
        start += 1
    end = 0
    while end < shortest - start and all(
        tokens[-1 - end] == first[len(first) - 1 - end] for tokens in names
    ):
        end += 1
    return start, end


def _differ(
    images: Sequence[File],
    image_ends: tuple[int, int],
    labels: Sequence[File],
    label_ends: tuple[int, int],
) -> bool:
    """Return whether images and labels have different words before or after what varies."""
    if not images or not labels:
        return False
    image, label = _plain(images[0]), _plain(labels[0])
    starts = image[: image_ends[0]], label[: label_ends[0]]
    ends = image[len(image) - image_ends[1] :], label[len(label) - label_ends[1] :]
    return any(first and second and first != second for first, second in (starts, ends))


def _cut(tokens: Tokens, ends: tuple[int, int]) -> Tokens:
    start, end = ends
    return tokens[start : len(tokens) - end]


def _attempt(
    scans: Sequence[Scan],
    labels: Sequence[File],
    comparison: Comparison,
    contained: bool,
) -> dict[Path, Scan | None]:
    """Return the scan of each label by one comparison.

    Args:
        scans: all scans.
        labels: all labels.
        comparison: how names are compared.
        contained: whether the name of a label may contain further words.
    """
    by_key: dict[Tokens, list[Scan]] = defaultdict(list)
    for scan in scans:
        by_key[comparison.image_key(scan.first)].append(scan)
    by_key.pop(NO_KEY, None)
    longest = max(map(len, by_key), default=0)
    found: dict[Path, Scan | None] = {}
    for label in labels:
        if contained:
            words = label.folder_tokens + label.tokens
            candidates = _longest_contained(by_key, words, longest)
        else:
            candidates = by_key.get(comparison.label_key(label), [])
        found[label.path] = _only(candidates, label)
    return found


def _longest_contained(
    by_key: Mapping[Tokens, list[Scan]],
    words: Tokens,
    longest: int,
) -> list[Scan]:
    """Return the scans with the longest key that ``words`` contain."""
    for length in range(min(longest, len(words)), 0, -1):
        candidates: list[Scan] = []
        for start in range(len(words) - length + 1):
            candidates += by_key.get(words[start : start + length], [])
        if candidates:
            return candidates
    return []


def _only(candidates: Sequence[Scan], label: File) -> Scan | None:
    """Return the scan whose split suits ``label``, if there is exactly one."""
    suitable = []
    for scan in candidates:
        splits = {scan.first.split_folder, label.split_folder}
        same = scan.first.split == label.split or "" in splits
        if same:
            suitable.append(scan)
    if len(suitable) > 1 and label.split_folder:
        suitable = [scan for scan in suitable if scan.first.split == label.split]
    if len(suitable) == 1:
        return suitable[0]
    return None


def structure_name(label: File, image: File) -> str:
    """Return the part of a label's name that is neither its case nor a word such as mask."""
    known = {chunk.lower() for chunk in image.chunks}
    known.update(LABEL_WORDS)
    own = _unknown(CHUNK.split(label.name), known)
    if own:
        return own
    return _unknown(CHUNK.split("_".join(label.folders)), known)


def _unknown(chunks: Sequence[str], known: set[str]) -> str:
    return "_".join(chunk for chunk in chunks if chunk and chunk.lower() not in known)
