"""Warn of lesions that no pseudo-label has, although the teacher predicted some.

The probability of a component comes from out-of-fold predictions. If the members of the folds find
hardly any lesion, the components of a better teacher are dropped as well, in every case. Students
then learn lesions from the labelled cases only, and can become worse than without pseudo-labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

MINIMUM_COMPONENTS = 5
"""Fewer components of all cases together may all be wrong by chance."""


def dropped_lesions(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Return a sentence for each class of lesions of which all components were dropped.

    Args:
        rows: rows of ``lesions.csv`` of a round.
        names: classes or regions that consist of lesions.

    Example:
        >>> rows = [{"class": "lesion", "kept": False}] * 6
        >>> dropped_lesions(rows, ["lesion"])[0].split(",")[0]
        'all 6 components of lesion are dropped (lesions.csv)'
    """
    sentences = []
    for name in names:
        kept = [row["kept"] for row in rows if row["class"] == name]
        if len(kept) >= MINIMUM_COMPONENTS and not any(kept):
            sentences.append(
                f"all {len(kept)} components of {name} are dropped (lesions.csv), so students learn"
                f" no {name} from unlabelled cases. The warm-up finds too few in the cases that it"
                " has not seen: train it for more steps, label more cases, or lower"
                " refine.lesion_probability"
            )
    return sentences
