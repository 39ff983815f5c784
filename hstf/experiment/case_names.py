"""Case ids in names that are spelled wrongly."""

from collections.abc import Iterable
from functools import cached_property

UNKNOWN_CASE = "is not an unlabelled case of the case sheet"


class CaseNames:
    """The ids of cases. What finds misspelled ids is made when it is first needed."""

    def __init__(self, case_ids: Iterable[str]) -> None:
        """Keep the ids."""
        self._ids = frozenset(case_ids)

    def __contains__(self, case_id: str) -> bool:
        return case_id in self._ids

    def in_other_letter_case(self, name: str) -> str | None:
        """Return the id that differs from ``name`` in its letter case only."""
        return self._folded.get(name.casefold())

    def at_start_of(self, name: str) -> str | None:
        """Return the longest id that ``name`` begins with, in any letter case.

        The id must be followed by something that is no part of a word: ``case_1`` is not at the
        start of ``case_12.nii``.
        """
        folded = name.casefold()
        for end in range(len(folded), 0, -1):
            is_whole = end == len(folded) or not folded[end].isalnum()
            if is_whole and folded[:end] in self._folded:
                return self._folded[folded[:end]]
        return None

    @cached_property
    def _folded(self) -> dict[str, str]:
        return {case_id.casefold(): case_id for case_id in self._ids}
