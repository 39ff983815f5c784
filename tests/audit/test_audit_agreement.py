"""Cohen's kappa, and whose decision is in force."""

import pytest

from hstf.audit.agreement import cohens_kappa
from hstf.audit.consensus import do_agree, is_disputed, is_put_in_force
from hstf.audit.history import Action


def test_cohens_kappa_of_the_example_of_the_literature() -> None:
    """20 times both yes, 15 times both no, 5 and 10 times different: 0.4 (Cohen 1960)."""
    pairs = [("yes", "yes")] * 20 + [("no", "no")] * 15
    pairs += [("yes", "no")] * 5 + [("no", "yes")] * 10
    assert cohens_kappa(pairs) == pytest.approx(0.4)


def test_cohens_kappa_is_not_known_if_chance_always_agrees() -> None:
    assert cohens_kappa([("accept", "accept")] * 5) is None


def verdict(action: str, reviewer: str, label: str = "x", **more: object) -> Action:
    return Action(action, 1, "a", reviewer, "", sha256=label, **more)  # type: ignore[arg-type]


def test_readers_agree_on_the_same_label_or_on_similar_ones() -> None:
    first = verdict("accept", "AB")
    assert do_agree(first, verdict("accept", "CD"))
    assert not do_agree(first, verdict("reject", "CD"))
    assert do_agree(verdict("reject", "AB"), verdict("reject", "CD", "y"))
    for dice, agree in ((0.95, True), (0.7, False), (None, False)):
        agreement = {first.id: {"liver": dice}}
        other = verdict("replace", "CD", "y", agreement=agreement)
        assert do_agree(first, other) == do_agree(other, first) == agree


def test_third_word_needs_a_third_reader() -> None:
    first = verdict("accept", "AB")
    second = verdict("reject", "CD")
    third = verdict("reject", "EF")
    assert is_put_in_force("third", {}, first)
    assert not is_put_in_force("third", {"AB": first}, second)
    both = {"AB": first, "CD": second}
    assert is_disputed("third", both) and not is_disputed("last", both)
    assert is_put_in_force("third", both, third)
    assert is_put_in_force("third", both, verdict("accept", "CD"))
    settled = both | {"EF": third}
    assert not is_disputed("third", settled)
    assert not is_put_in_force("third", settled, verdict("accept", "AB"))
    assert is_put_in_force("third", settled, verdict("accept", "EF"))
    assert is_put_in_force("last", settled, verdict("accept", "AB"))
