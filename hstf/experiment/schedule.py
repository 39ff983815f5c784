"""The rounds of an experiment: the members of their models and what they learn from."""

from dataclasses import dataclass

from hstf.config.experiment import Config
from hstf.runtime.errors import HstfError


@dataclass(frozen=True)
class RoundSchedule:
    """One round. Round 0 is the warm-up."""

    members: tuple[str, ...]
    """Names of the ensemble members: ``fold_k`` trains without fold k, ``seed_k`` on all cases."""
    learns_from: str
    """What the model learns from in addition to the labelled cases, see ``student.learns_from``."""
    is_cross_fitted: bool
    """Whether each member leaves out its own part of the pseudo-labelled patients."""

    @property
    def has_pseudo_labels(self) -> bool:
        """Whether the stages teacher, refine and labels run in this round."""
        return self.learns_from == "pseudo_labels"


@dataclass(frozen=True)
class Schedule:
    """All rounds of an experiment, the warm-up first."""

    rounds: tuple[RoundSchedule, ...]

    @classmethod
    def of(cls, config: Config) -> "Schedule":
        """Return the schedule of a configuration."""
        warmup = RoundSchedule(tuple(warmup_members(config)), "labels", is_cross_fitted=False)
        return cls((warmup, *(_student_round(config, n) for n in range(1, config.rounds + 1))))

    @property
    def last(self) -> int:
        """Number of the last round."""
        return len(self.rounds) - 1

    @property
    def folds(self) -> list[str]:
        """Members of the warm-up that have not seen all labelled cases."""
        return [member for member in self.members(0) if is_fold(member)]

    def members(self, number: int) -> list[str]:
        """Return the names of the ensemble members of a round."""
        return list(self.rounds[number].members)

    def has_pseudo_labels(self, number: int) -> bool:
        """Return whether a round learns from pseudo-labels; rounds below 1 have none."""
        return number > 0 and self.rounds[number].has_pseudo_labels

    def learns_from(self, number: int) -> str:
        """Return what a round learns from in addition to the labelled cases."""
        return self.rounds[number].learns_from

    def check(self, number: int) -> None:
        """Refuse a round that has no pseudo-labels.

        Raises:
            HstfError: if there is no such round of self-training.
        """
        if not 1 <= number <= self.last:
            raise HstfError(f"--round {number}: pseudo-labels belong to rounds 1 to {self.last}.")


def _student_round(config: Config, number: int) -> RoundSchedule:
    student = config.for_round(number).student
    names = tuple(f"seed_{k}" for k in range(student.members))
    is_cross_fitted = (
        student.members > 1 and student.cross_fit and student.learns_from == "pseudo_labels"
    )
    return RoundSchedule(names, student.learns_from, is_cross_fitted)


def is_fold(member: str) -> bool:
    """Return whether a warm-up member leaves out a fold of the labelled patients."""
    return member.startswith("fold_")


def warmup_members(config: Config) -> list[str]:
    """Return the members of the warm-up: one per fold, then one per further seed."""
    folds = [f"fold_{k}" for k in range(config.warmup.folds)]
    seeds = [f"seed_{k}" for k in range(config.warmup.seeds)]
    return folds + seeds
