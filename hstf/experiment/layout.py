"""Paths of all files of an experiment, for the workflow and for the commands."""

from dataclasses import dataclass
from pathlib import Path

from hstf.config.experiment import Config


@dataclass(frozen=True)
class Layout:
    """Paths below ``<output>/<experiment>/``. ``number`` is a round; round 0 is the warm-up.

    Files that ``reuse:`` takes from other experiments are in the folders of these experiments.
    """

    root: Path
    overrides: Path
    data: Path
    """The experiment that checked, planned and preprocessed the scans: this one, unless their work
    is reused."""
    warmup: Path
    """The experiment that trained and scored the warm-up."""

    @classmethod
    def of(cls, config: Config) -> "Layout":
        """Return the layout of an experiment."""
        root = Path(config.output) / config.experiment
        overrides = Path(config.overrides or f"overrides/{config.experiment}")
        data = Path(config.reuse.data or root)
        warmup = Path(config.reuse.warmup or root)
        return cls(root, overrides, data, warmup)

    @property
    def config(self) -> Path:
        """The resolved configuration, which the commands read."""
        return self.root / "config.yaml"

    @property
    def check(self) -> Path:
        """Problems and properties of every file."""
        return self.data / "check.csv"

    @property
    def fingerprint(self) -> Path:
        """Properties of the scans."""
        return self.data / "fingerprint.json"

    @property
    def plan(self) -> Path:
        """The choices made from the fingerprint, with reasons."""
        return self.data / "plan.json"

    @property
    def preprocessed(self) -> Path:
        """A folder per labelled and unlabelled case, and the tables of the shards."""
        return self.data / "preprocessed"

    def preprocessed_table(self, shard: str) -> Path:
        """Return the table of the preprocessed cases of a shard."""
        return self.preprocessed / f"{shard}.csv"

    @property
    def pretrain(self) -> Path:
        """Folder of the pre-training. It belongs to the experiment that trained the warm-up."""
        return self.warmup / "pretrain"

    @property
    def pretrained_weights(self) -> Path:
        """The EMA weights of the pre-trained network."""
        return self.pretrain / "weights.pt"

    @property
    def pretraining_history(self) -> Path:
        """The losses of the pre-training."""
        return self.pretrain / "history.csv"

    @property
    def pretraining_examples(self) -> Path:
        """Patches before and after the corruption, and what the network restored."""
        return self.pretrain / "examples.png"

    @property
    def pretraining_state(self) -> Path:
        """Folder of the resumable state of the pre-training. It is no output of a rule."""
        return self.pretrain / "state"

    def round(self, number: int) -> Path:
        """Return the folder of a round."""
        # In a rule the number is the wildcard "{round}", which never means round 0.
        experiment = self.warmup if number == 0 else self.root
        return experiment / f"round_{number}"

    def model(self, number: int) -> Path:
        """Return the folder of the ensemble members of a round."""
        return self.round(number) / "model"

    def weights(self, number: int, member: str) -> Path:
        """Return the EMA weights of a member, which load without any other file."""
        return self.model(number) / member / "weights.pt"

    def history(self, number: int, member: str) -> Path:
        """Return the losses of a member, with a row for some steps."""
        return self.model(number) / member / "history.csv"

    def training_state(self, number: int, member: str) -> Path:
        """Return the folder of the resumable state of a training.

        It is no output of a rule: Snakemake deletes the outputs of failed jobs.
        """
        return self.round(number) / "state" / member

    @property
    def out_of_fold(self) -> Path:
        """Predictions of the labelled cases by the member that has not seen them."""
        return self.round(0) / "out_of_fold"

    def out_of_fold_table(self, member: str) -> Path:
        """Return the table of the labelled cases that a member predicts out of fold."""
        return self.out_of_fold / f"{member}.csv"

    def external_table(self, name: str, shard: str, number: int = 0) -> Path:
        """Return the table of the cases of a shard that an external teacher has predicted.

        Args:
            name: the external teacher.
            shard: the shard.
            number: the round, if the teacher gets the segmentation of the ensemble in this round.
        """
        folder = self.round(number) if number else self.root
        return folder / "external" / name / f"{shard}.csv"

    @property
    def external_weights(self) -> Path:
        """The weight of each class of each external teacher, and the reasons."""
        return self.root / "external" / "weights.json"

    @property
    def anatomy_rules(self) -> Path:
        """What the labels and the out-of-fold predictions show about the anatomy."""
        return self.round(0) / "anatomy_rules.json"

    @property
    def calibration(self) -> Path:
        """Result of the calibration.

        It depends on ``refine:`` too, so it is never reused from another experiment.
        """
        return self.root / "round_0" / "calibration.json"

    def round_calibration(self, number: int) -> Path:
        """Return the calibration of a round whose ensemble is mixed with external teachers."""
        return self.round(number) / "calibration.json"

    def monitor(self, number: int) -> Path:
        """Return the label-free evidence about the model of a round."""
        return self.root / f"round_{number}" / "monitor.json"

    def teacher(self, number: int) -> Path:
        """Return the folder of the predictions of the unlabelled cases."""
        return self.round(number) / "teacher"

    def teacher_table(self, number: int, shard: str) -> Path:
        """Return the table of the predicted cases of a shard."""
        return self.teacher(number) / f"{shard}.csv"

    def pseudo_labels(self, number: int) -> Path:
        """Return the folder of pseudo-labels, voxel weights and overlays."""
        return self.round(number) / "pseudo_labels"

    def pseudo_label(self, number: int, case_id: str) -> Path:
        """Return the pseudo-label of a case."""
        return self.pseudo_labels(number) / f"{case_id}.nii.gz"

    def pseudo_labels_table(self, number: int, shard: str) -> Path:
        """Return the table of the pseudo-labels of a shard."""
        return self.pseudo_labels(number) / f"{shard}.csv"

    def refine(self, number: int) -> Path:
        """Return the table of all pseudo-labels of a round."""
        return self.round(number) / "refine.csv"

    def lesions(self, number: int) -> Path:
        """Return the table of all components of the lesion classes in a round."""
        return self.round(number) / "lesions.csv"

    def lesion_bounds(self, number: int) -> Path:
        """Return the probabilities from which lesions are kept in a round."""
        return self.round(number) / "lesion_bounds.json"

    def labels(self, number: int) -> Path:
        """Return the folder of what a student learns from, without labelled cases."""
        return self.round(number) / "labels"

    def labels_shard_table(self, number: int, shard: str) -> Path:
        """Return the table of the labels of a shard."""
        return self.labels(number) / f"{shard}.csv"

    def labels_table(self, number: int) -> Path:
        """Return the table of all labels of a round."""
        return self.round(number) / "labels.csv"

    def evaluation(self, number: int) -> Path:
        """Return the folder of test scores and predictions of a round."""
        return self.round(number) / "evaluation"

    def evaluation_table(self, number: int, shard: str) -> Path:
        """Return the table of the test cases of a shard."""
        return self.evaluation(number) / f"{shard}.csv"

    def evaluation_prediction(self, number: int, case_id: str) -> Path:
        """Return the segmentation of a test case, in the space of its image."""
        return self.evaluation(number) / "predictions" / f"{case_id}.nii.gz"

    def evaluation_scores(self, number: int, case_id: str) -> Path:
        """Return the scores of a test case."""
        return self.evaluation(number) / "scores" / f"{case_id}.json"

    def evaluation_cases(self, number: int) -> Path:
        """Return the table of all metrics by test case and structure."""
        return self.evaluation(number) / "cases.csv"

    def evaluation_members(self, number: int) -> Path:
        """Return the table of the Dice of each member, test case and structure."""
        return self.evaluation(number) / "members.csv"

    def evaluation_lesions(self, number: int) -> Path:
        """Return the table of the lesions of the test cases."""
        return self.evaluation(number) / "lesions.csv"

    def evaluation_pseudo_labels(self, number: int) -> Path:
        """Return the table of pseudo-label scores, for cases with a withheld label."""
        return self.evaluation(number) / "pseudo_labels.csv"

    def evaluation_summary(self, number: int) -> Path:
        """Return means and intervals over the test cases."""
        return self.evaluation(number) / "summary.json"

    def validation_table(self, number: int) -> Path:
        """Return the table of all metrics by validation case and structure."""
        return self.evaluation(number) / "validation_cases.csv"

    def validation_summary(self, number: int) -> Path:
        """Return means and intervals over the validation cases, by which a round is chosen."""
        return self.evaluation(number) / "validation.json"

    def evaluation_scales(self, number: int) -> Path:
        """Return the table of the Dice at other input scales."""
        return self.evaluation(number) / "scales.csv"

    def track(self, number: int) -> Path:
        """Return the record of what was logged to MLflow."""
        return self.root / f"round_{number}" / "track.json"

    def tracked(self, number: int) -> Path:
        """Return the list of the MLflow runs of a round, which no rule writes."""
        return self.root / "tracked" / f"round_{number}.json"

    @property
    def rounds_table(self) -> Path:
        """The table of all rounds."""
        return self.root / "rounds.csv"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.root / "report" / "report.html"

    @property
    def itksnap_labels(self) -> Path:
        """Names and colours of the classes, as ITK-SNAP reads them."""
        return self.report.with_name("labels.txt")

    @property
    def slicer_colours(self) -> Path:
        """Names and colours of the classes, as 3D Slicer reads them."""
        return self.report.with_name("colours.ctbl")

    @property
    def provenance(self) -> Path:
        """Data, configuration, code, packages, machines, seed, and SHA-256 of all files."""
        return self.root / "provenance.json"

    @property
    def manifest(self) -> Path:
        """What the experiment has, for programs."""
        return self.root / "manifest.json"

    @property
    def compare(self) -> Path:
        """Folder of the comparison of methods and of its experiments."""
        return self.root / "compare"

    @property
    def export(self) -> Path:
        """The exported model, a folder for ``hstf predict --model``."""
        return self.root / "export"

    def exported_member(self, member: str) -> Path:
        """Return the folder of one ensemble member that ``hstf export --member`` wrote."""
        return self.root / f"export_{member}"

    def override(self, number: int, case_id: str) -> Path:
        """Return the corrected label of a case from a round on."""
        return self.overrides / f"round_{number}" / f"{case_id}.nii.gz"

    @property
    def decisions(self) -> Path:
        """The table of decisions of reviewers."""
        return self.overrides / "decisions.csv"

    @property
    def decisions_seen(self) -> Path:
        """The versions of pseudo-labels that decisions without a SHA-256 were made for."""
        return self.overrides / "decisions_seen.csv"
