"""The rounds of an experiment: the members of their models and what they learn from."""

from dataclasses import dataclass

from hstf.config.experiment import Config
from hstf.config.training import WarmupConfig
from hstf.runtime.errors import HstfError


@dataclass(frozen=True)
class RoundSchedule:
    """One round. Round 0 is the warm-up."""

    members: tuple[str, ...]
    """Names of the ensemble members, which are the model of the round."""
    learns_from: str
    """What the model learns from in addition to the labelled cases, see ``student.learns_from``."""
    is_cross_fitted: bool
    """Whether each member leaves out its own part of the pseudo-labelled patients."""
    calibrating: tuple[str, ...] = ()
    """Names of networks that are trained for the calibration only. They leave out labelled
    patients, so that they are no part of the model."""

    @property
    def trained(self) -> tuple[str, ...]:
        """All networks of the round, those of the calibration first."""
        return self.calibrating + self.members

    @property
    def has_pseudo_labels(self) -> bool:
        """Whether the stages teacher, refine and labels run in this round."""
        return self.learns_from == "pseudo_labels"


@dataclass(frozen=True)
class Schedule:
    """All rounds of an experiment, the warm-up first."""

    rounds: tuple[RoundSchedule, ...]
    fold_count: int
    """Number of folds of the labelled patients."""

    @classmethod
    def of(cls, config: Config) -> "Schedule":
        """Return the schedule of a configuration."""
        students = [_student_round(config, number) for number in range(1, config.rounds + 1)]
        return cls((_warmup_round(config), *students), config.warmup.folds)

    @property
    def last(self) -> int:
        """Number of the last round."""
        return len(self.rounds) - 1

    @property
    def folds(self) -> list[str]:
        """Networks of the warm-up that have not seen all labelled cases."""
        return [member for member in self.trained(0) if is_fold(member)]

    @property
    def held_out(self) -> dict[str, list[str]]:
        """Networks that have not seen each fold, by the name of the first of them.

        Example:
            >>> Schedule.of(Config(warmup={"folds": 2, "fold_members": 2})).held_out
            {'fold_0': ['fold_0', 'fold_2'], 'fold_1': ['fold_1', 'fold_3']}
        """
        groups: dict[str, list[str]] = {}
        for member in self.folds:
            first = f"fold_{fold_of(member, self.fold_count)}"
            groups.setdefault(first, []).append(member)
        return groups

    def members(self, number: int) -> list[str]:
        """Return the names of the ensemble members of a round: its model."""
        return list(self.rounds[number].members)

    def trained(self, number: int) -> list[str]:
        """Return the names of all networks that are trained in a round."""
        return list(self.rounds[number].trained)

    def single(self, number: int) -> str:
        """Return the member that is the model of a round where one network must do: the first.

        Which one it is never depends on a score.
        """
        return self.rounds[number].members[0]

    def has_pseudo_labels(self, number: int) -> bool:
        """Return whether a round learns from pseudo-labels; rounds below 1 have none."""
        return number > 0 and self.rounds[number].has_pseudo_labels

    def external(self, config: Config, number: int) -> list[str]:
        """Return the names of the external teachers of a round.

        Args:
            config: configuration with ``teacher.external``.
            number: the round; rounds without pseudo-labels have no teachers.
        """
        if not self.has_pseudo_labels(number):
            return []
        teachers = config.teacher.external
        return [name for name, teacher in teachers.items() if teacher.is_used_in(number)]

    def learns_from(self, number: int) -> str:
        """Return what a round learns from in addition to the labelled cases."""
        return self.rounds[number].learns_from

    @property
    def uses_unlabelled(self) -> bool:
        """Whether any round learns from unlabelled cases."""
        return any(plan.learns_from != "labels" for plan in self.rounds)

    def check_exists(self, number: int) -> None:
        """Refuse a round that the experiment does not have.

        Raises:
            HstfError: if there is no such round.
        """
        if not 0 <= number <= self.last:
            raise HstfError(f"--round {number}: there are rounds 0 to {self.last}.")

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


def _warmup_round(config: Config) -> RoundSchedule:
    """Return round 0: ``fold_k`` trains without fold k of the labelled cases, ``seed_k`` on all."""
    count = config.warmup.folds * config.warmup.fold_members
    folds = tuple(f"fold_{k}" for k in range(count))
    seeds = tuple(f"seed_{k}" for k in range(config.warmup.seeds))
    if not seeds:
        return RoundSchedule(folds, "labels", is_cross_fitted=False)
    return RoundSchedule(seeds, "labels", is_cross_fitted=False, calibrating=folds)


def is_fold(member: str) -> bool:
    """Return whether a network of the warm-up leaves out a fold of the labelled patients."""
    return member.startswith("fold_")


def fold_of(member: str, folds: int) -> int:
    """Return the number of the fold that a network ``fold_k`` leaves out.

    Args:
        member: its name. Those of the second networks of the folds follow those of the first.
        folds: number of folds.

    Example:
        >>> fold_of("fold_4", folds=3)
        1
    """
    return int(member.removeprefix("fold_")) % folds


def start_of_seed(config: WarmupConfig, member: str) -> str | None:
    """Return the network of the warm-up that another one starts from; None for random weights.

    Example:
        >>> start_of_seed(WarmupConfig(folds=2, seeds=3), "seed_2")
        'fold_0'
    """
    if is_fold(member) or config.seed_start == "scratch":
        return None
    return f"fold_{int(member.removeprefix('seed_')) % config.folds}"
