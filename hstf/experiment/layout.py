"""Where every file of an experiment lies. The workflow and the commands both ask here, so they cannot disagree."""

from dataclasses import dataclass
from pathlib import Path

from hstf.config.experiment import Config


@dataclass(frozen=True)
class Layout:
    """Paths below ``<output>/<experiment>/``. ``number`` is a round; round 0 is the warm-up.

    What ``reuse:`` takes from other experiments lies in their folders.
    """

    root: Path
    overrides: Path
    data: Path
    """The experiment that checked, planned and preprocessed the scans: this one, unless their work is reused."""
    warmup: Path
    """The experiment that trained and scored the warm-up."""

    @classmethod
    def of(cls, config: Config) -> "Layout":
        """The layout of an experiment."""
        root, reuse = Path(config.output) / config.experiment, config.reuse
        overrides = Path(config.overrides or f"overrides/{config.experiment}")
        return cls(root, overrides, Path(reuse.data or root), Path(reuse.warmup or root))

    @property
    def config(self) -> Path:
        """The resolved configuration that the commands read."""
        return self.root / "config.yaml"

    @property
    def check(self) -> Path:
        """Faults, warnings and facts of every file."""
        return self.data / "check.csv"

    @property
    def fingerprint(self) -> Path:
        """What the scans are like."""
        return self.data / "fingerprint.json"

    @property
    def plan(self) -> Path:
        """What was decided from the fingerprint, and why."""
        return self.data / "plan.json"

    @property
    def preprocessed(self) -> Path:
        """One folder per labelled and unlabelled case, and the tables of the shards."""
        return self.data / "preprocessed"

    def preprocessed_table(self, shard: str) -> Path:
        """Table of a shard's cases on the planned grid."""
        return self.preprocessed / f"{shard}.csv"

    def round(self, number: int) -> Path:
        """Folder of a round."""
        return (self.root if number else self.warmup) / f"round_{number}"

    def model(self, number: int) -> Path:
        """Folder of a round's members, each a folder with ``weights.pt`` and ``history.csv``."""
        return self.round(number) / "model"

    def weights(self, number: int, member: str) -> Path:
        """A member's EMA weights, which load without any other file."""
        return self.model(number) / member / "weights.pt"

    def history(self, number: int, member: str) -> Path:
        """A member's losses, a row every few steps."""
        return self.model(number) / member / "history.csv"

    def training_state(self, number: int, member: str) -> Path:
        """Folder of the resumable state of a training; no output of any rule, so that it survives a failed job."""
        return self.round(number) / "state" / member

    @property
    def out_of_fold(self) -> Path:
        """Predictions of the labelled cases by the warm-up member that has not seen them."""
        return self.round(0) / "out_of_fold"

    def out_of_fold_table(self, member: str) -> Path:
        """Table of the labelled cases that a member predicted unseen."""
        return self.out_of_fold / f"{member}.csv"

    @property
    def calibration(self) -> Path:
        """What the out-of-fold predictions teach; depends on ``refine:`` too, so it is never another experiment's."""
        return self.root / "round_0" / "calibration.json"

    def teacher(self, number: int) -> Path:
        """Folder of the teacher's views of the unlabelled cases."""
        return self.round(number) / "teacher"

    def teacher_table(self, number: int, shard: str) -> Path:
        """Table of the teacher's cases of a shard."""
        return self.teacher(number) / f"{shard}.csv"

    def pseudo_labels(self, number: int) -> Path:
        """Folder of pseudo-labels, their weights and overlays."""
        return self.round(number) / "pseudo_labels"

    def pseudo_labels_table(self, number: int, shard: str) -> Path:
        """Table of a shard's pseudo-labels."""
        return self.pseudo_labels(number) / f"{shard}.csv"

    def refine(self, number: int) -> Path:
        """All pseudo-labels of a round: what each step changed, predicted Dice, verdict and reason."""
        return self.round(number) / "refine.csv"

    def lesions(self, number: int) -> Path:
        """Every component of the lesion classes in a round's pseudo-labels: its probability, kept or dropped."""
        return self.round(number) / "lesions.csv"

    def labels(self, number: int) -> Path:
        """What the student of a round learns from, beside the labelled cases."""
        return self.round(number) / "labels"

    def labels_shard_table(self, number: int, shard: str) -> Path:
        """Table of a shard's labels: automatic or human."""
        return self.labels(number) / f"{shard}.csv"

    def labels_table(self, number: int) -> Path:
        """Table of all labels of a round."""
        return self.round(number) / "labels.csv"

    def evaluation(self, number: int) -> Path:
        """Folder of a round's test scores and predictions."""
        return self.round(number) / "evaluation"

    def evaluation_table(self, number: int, shard: str) -> Path:
        """Table of a shard's test cases."""
        return self.evaluation(number) / f"{shard}.csv"

    def evaluation_prediction(self, number: int, case_id: str) -> Path:
        """A round's segmentation of a test case, in the space and label values of its files."""
        return self.evaluation(number) / "predictions" / f"{case_id}.nii.gz"

    def evaluation_scores(self, number: int, case_id: str) -> Path:
        """Scores of one test case."""
        return self.evaluation(number) / "scores" / f"{case_id}.json"

    def evaluation_cases(self, number: int) -> Path:
        """Every metric by test case and class."""
        return self.evaluation(number) / "cases.csv"

    def evaluation_members(self, number: int) -> Path:
        """Dice of each member alone, beside the team's in :meth:`evaluation_cases`."""
        return self.evaluation(number) / "members.csv"

    def evaluation_lesions(self, number: int) -> Path:
        """Every lesion of the test cases: found, missed or invented."""
        return self.evaluation(number) / "lesions.csv"

    def evaluation_pseudo_labels(self, number: int) -> Path:
        """A round's pseudo-labels against the withheld labels, where there are any."""
        return self.evaluation(number) / "pseudo_labels.csv"

    def evaluation_summary(self, number: int) -> Path:
        """Means and intervals over the test cases."""
        return self.evaluation(number) / "summary.json"

    def evaluation_scales(self, number: int) -> Path:
        """Dice of test cases shown to the network at other scales."""
        return self.evaluation(number) / "scales.csv"

    def track(self, number: int) -> Path:
        """What became of logging the round."""
        return self.root / f"round_{number}" / "track.json"

    @property
    def rounds_table(self) -> Path:
        """The rounds side by side."""
        return self.root / "rounds.csv"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.root / "report" / "report.html"

    @property
    def provenance(self) -> Path:
        """What made the experiment: data, configuration, code, packages, machines, seed and SHA-256 of all files."""
        return self.root / "provenance.json"

    @property
    def compare(self) -> Path:
        """Folder of the comparison of methods: its tables, figures and page, and a folder for each of its experiments."""
        return self.root / "compare"

    @property
    def export(self) -> Path:
        """The exported model: a folder that ``hstf predict --model`` takes."""
        return self.root / "export"

    def override(self, number: int, case_id: str) -> Path:
        """A person's label of a case, from a round on."""
        return self.overrides / f"round_{number}" / f"{case_id}.nii.gz"

    @property
    def decisions(self) -> Path:
        """Table of persons' decisions."""
        return self.overrides / "decisions.csv"
