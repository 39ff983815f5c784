"""Where every file of an experiment lies. The workflow and the commands both ask here, so they cannot disagree."""

from dataclasses import dataclass
from pathlib import Path

from hstf.config import Config


@dataclass(frozen=True)
class Layout:
    """Paths below ``<output>/<experiment>/``. ``number`` is a round; round 0 is the warm-up."""

    root: Path
    overrides: Path

    @classmethod
    def of(cls, config: Config) -> "Layout":
        """The layout of an experiment."""
        return cls(Path(config.output) / config.experiment, Path(config.overrides))

    @property
    def config(self) -> Path:
        """The resolved configuration that the commands read."""
        return self.root / "config.yaml"

    @property
    def check(self) -> Path:
        return self.root / "check.csv"

    @property
    def fingerprint(self) -> Path:
        return self.root / "fingerprint.json"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def preprocessed(self) -> Path:
        """One folder per labelled and unlabelled case, and the tables of the shards."""
        return self.root / "preprocessed"

    def preprocessed_table(self, shard: str) -> Path:
        return self.preprocessed / f"{shard}.csv"

    def round(self, number: int) -> Path:
        return self.root / f"round_{number}"

    def model(self, number: int) -> Path:
        """Folder of a round's members, each a folder with ``weights.pt`` and ``history.csv``."""
        return self.round(number) / "model"

    def weights(self, number: int, member: str) -> Path:
        return self.model(number) / member / "weights.pt"

    def history(self, number: int, member: str) -> Path:
        return self.model(number) / member / "history.csv"

    def training_state(self, number: int, member: str) -> Path:
        """Folder of the resumable state of a training; no output of any rule, so that it survives a failed job."""
        return self.round(number) / "state" / member

    @property
    def out_of_fold(self) -> Path:
        """Predictions of the labelled cases by the warm-up member that has not seen them."""
        return self.round(0) / "out_of_fold"

    def out_of_fold_table(self, member: str) -> Path:
        return self.out_of_fold / f"{member}.csv"

    @property
    def calibration(self) -> Path:
        return self.round(0) / "calibration.json"

    def teacher(self, number: int) -> Path:
        return self.round(number) / "teacher"

    def teacher_table(self, number: int, shard: str) -> Path:
        return self.teacher(number) / f"{shard}.csv"

    def pseudo_labels(self, number: int) -> Path:
        return self.round(number) / "pseudo_labels"

    def pseudo_labels_table(self, number: int, shard: str) -> Path:
        return self.pseudo_labels(number) / f"{shard}.csv"

    def refine(self, number: int) -> Path:
        """All pseudo-labels of a round: what each step changed, predicted Dice, verdict and reason."""
        return self.round(number) / "refine.csv"

    def labels(self, number: int) -> Path:
        """What the student of a round learns from, beside the labelled cases."""
        return self.round(number) / "labels"

    def labels_shard_table(self, number: int, shard: str) -> Path:
        return self.labels(number) / f"{shard}.csv"

    def labels_table(self, number: int) -> Path:
        return self.round(number) / "labels.csv"

    def evaluation(self, number: int) -> Path:
        return self.round(number) / "evaluation"

    def evaluation_table(self, number: int, shard: str) -> Path:
        return self.evaluation(number) / f"{shard}.csv"

    def evaluation_prediction(self, number: int, case_id: str) -> Path:
        """A round's segmentation of a test case, in the space and label values of its files."""
        return self.evaluation(number) / "predictions" / f"{case_id}.nii.gz"

    def evaluation_scores(self, number: int, case_id: str) -> Path:
        return self.evaluation(number) / "scores" / f"{case_id}.json"

    def evaluation_cases(self, number: int) -> Path:
        return self.evaluation(number) / "cases.csv"

    def evaluation_members(self, number: int) -> Path:
        """Dice of each member alone, beside the team's in :meth:`evaluation_cases`."""
        return self.evaluation(number) / "members.csv"

    def evaluation_pseudo_labels(self, number: int) -> Path:
        """A round's pseudo-labels against the withheld labels, where there are any."""
        return self.evaluation(number) / "pseudo_labels.csv"

    def evaluation_summary(self, number: int) -> Path:
        return self.evaluation(number) / "summary.json"

    def track(self, number: int) -> Path:
        return self.round(number) / "track.json"

    @property
    def rounds_table(self) -> Path:
        return self.root / "rounds.csv"

    @property
    def report(self) -> Path:
        return self.root / "report" / "report.html"

    @property
    def export(self) -> Path:
        """The exported model: a folder that ``hstf predict --model`` takes."""
        return self.root / "export"

    def override(self, number: int, case_id: str) -> Path:
        return self.overrides / f"round_{number}" / f"{case_id}.nii.gz"

    @property
    def decisions(self) -> Path:
        return self.overrides / "decisions.csv"


def warmup_members(config: Config) -> list[str]:
    """Names of the warm-up's members: ``fold_k`` trains without fold k, ``seed_k`` on all labelled cases."""
    return [f"fold_{k}" for k in range(config.warmup.folds)] + [
        f"seed_{k}" for k in range(config.warmup.seeds)
    ]


def members(config: Config, number: int) -> list[str]:
    """Names of the members of a round's model."""
    if number == 0:
        return warmup_members(config)
    return [f"seed_{k}" for k in range(config.for_round(number).student.members)]
