"""A fabricated experiment whose files agree with each other, and the page of its report."""

import hashlib
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hstf.config.experiment import Config
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.experiment.plan import Normalisation, Plan
from hstf.experiment.round_tables import HISTORY, LABELS, REFINE
from hstf.experiment.scan_tables import CHECK
from hstf.experiment.score_tables import EVALUATION_CASES, PSEUDO_LABEL_SCORES
from hstf.imaging.overlays import draw_overlay, overlay_path
from hstf.method.plr.anatomy import AnatomyRule
from hstf.method.plr.calibration import Calibration
from hstf.method.plr.predicted_dice import DiceInterval
from hstf.runtime.files import write_csv, write_text
from hstf.scoring.absent_classes import presence
from hstf.scoring.averages import describe
from hstf.scoring.documents import (
    EmptyCounts,
    EvaluationSummary,
    MemberSummary,
    PseudoLabelSummary,
    RiskPoint,
    StructureSummary,
    VoxelErrors,
)
from hstf.scoring.lesion_detection import CaseLesions, Lesion
from hstf.scoring.lesion_summary import LesionSummary, summarise
from hstf.scoring.metrics import METRICS
from hstf.scoring.significance import mean_interval
from hstf.stages.report.results import Results
from hstf.stages.report.stage import render
from support.stages import members

CLASSES = ("liver", "spleen", "lesion")
MINIMUM_DICE = 0.58
"""Predicted Dice from which a pseudo-label is accepted."""
DECISIONS: dict[int, dict[str, Any]] = {
    0: {
        "source": "corrected",
        "reviewer": "A. Reader",
        "reason": "spleen redrawn",
        "predicted_dice": None,
    },
    1: {"source": "accepted", "reviewer": "A. Reader", "reason": "small but right"},
    2: {"source": "rejected", "reviewer": "B. Reader", "reason": "motion artefact"},
}
"""Decisions of reviewers by the position of the unlabelled case."""
SHAPE = (48, 44, 30)
BALLS = ((-0.3, 0.0, 0.0, 0.5), (0.5, 0.2, 0.1, 0.28), (-0.2, -0.2, 0.1, 0.14))
"""Centre and radius of each class in an overlay, from -1 to 1 along each axis."""


@dataclass
class Fabricated:
    """An experiment whose files are fabricated, but agree with each other."""

    config: Config
    labelled: int = 8
    unlabelled: int = 24
    test: int = 14
    gain: float = 0.04
    """Dice gained in each round."""

    def __post_init__(self) -> None:
        self.layout = Layout.of(self.config)
        self.generator = np.random.default_rng(1)
        level = self.generator.normal(0.8, 0.07, (self.test, len(CLASSES)))
        self.level = level - np.array([0, 0.02, 0.15])
        self.doubt = self.generator.uniform(0.02, 0.5, self.unlabelled)

    @property
    def context(self) -> StageContext:
        return StageContext.of(self.config, "report")

    @property
    def results(self) -> Results:
        return Results(self.context)

    @property
    def case_ids(self) -> list[str]:
        return [f"case_{i:03d}" for i in range(self.labelled + self.unlabelled + self.test)]

    @property
    def unlabelled_ids(self) -> list[str]:
        return self.case_ids[self.labelled : self.labelled + self.unlabelled]

    def write_all(self) -> None:
        self.write_start()
        for number in range(self.config.rounds + 1):
            self.write_training(number)
            self.write_evaluation(number)
        for number in range(1, self.config.rounds + 1):
            self.write_pseudo_labels(number)
            self.write_overlays(number, 6)

    def write_start(self) -> None:
        """Case sheet, configuration, check, plan, calibration, run times."""
        self._write_case_sheet()
        text = yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False)
        write_text(self.layout.config, text)
        checks = []
        for name in self.case_ids:
            checks.append({"case_id": name, "level": "ok", "file": f"{name}.nii.gz"})
        checks[3] |= {
            "level": "warning",
            "found": "spacing 0.8 x 0.8 x 12 mm",
            "expected": "at most 8 mm",
            "what_to_do": "look at the scan: <b>slices</b> may be missing",
        }
        CHECK.write(self.layout.check, checks)
        plan().save(self.layout.plan)
        self.write_calibration()
        for stage, seconds in (("warmup/fold_0", 812.4), ("warmup/fold_1", 790.1), ("plan", 3.2)):
            text = f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t2150.5\n"
            write_text(self.layout.root / "benchmarks" / f"{stage}.tsv", text)

    def _write_case_sheet(self) -> None:
        splits = ["labelled"] * self.labelled
        splits += ["unlabelled"] * self.unlabelled
        splits += ["test"] * self.test
        rows = []
        for name, split in zip(self.case_ids, splits, strict=True):
            image = f"{name}.nii.gz"
            label = f"{name}_label.nii.gz"
            rows.append({"case_id": name, "image": image, "label": label, "split": split})
        write_csv(Path(self.config.cases), rows, ["case_id", "image", "label", "split"])

    def write_calibration(self) -> None:
        names = ("background", *CLASSES)
        rules = {}
        for k, name in enumerate(CLASSES):
            rules[name] = AnatomyRule(
                maximum_components=k + 1,
                minimum_mm3=420.0,
                has_holes=False,
                may_be_absent=k == 2,
                contact=0.25 * k,
                dice_gain=0.01 - 0.01 * k,
                gain_error=0.004,
            )
        Calibration(
            temperature=1.31,
            thresholds=dict(zip(names, (0.62, 0.71, 0.68, 0.83), strict=True)),
            anatomy_rules=rules,
            lesions={},
            dice_models={},
            class_sd=dict.fromkeys(CLASSES, 0.05),
            mean_sd=0.041,
            interval=DiceInterval(half_width=0.09, method="guess", patients=self.labelled),
            minimum_predicted_dice=MINIMUM_DICE,
            evidence=self._evidence(names),
        ).save(self.layout.calibration)

    def _evidence(self, names: tuple[str, ...]) -> dict[str, Any]:
        after = dict(zip(names, (0.01, 0.03, 0.04, 0.09), strict=True))
        bins = []
        for name in names:
            for k in range(8, 20):
                bins.append({"class": name, "confidence": (k + 0.5) / 20, "accuracy": k / 20})
        cases = {}
        dices = self.generator.uniform(0.6, 0.9, self.labelled).tolist()
        for name, dice in zip(self.case_ids, dices, strict=False):
            cases[name] = {"mean_dice": dice, "predicted_dice": dice + 0.02}
        return {
            "voxels": 100000,
            "negative_log_likelihood": {"before": 0.412, "after": 0.365},
            "calibration_error": {
                "before": dict(zip(names, (0.02, 0.08, 0.11, 0.16), strict=True)),
                "after": {**after, "lesion": None},
            },
            "dice": dict.fromkeys(CLASSES, 0.77),
            "recall": dict.fromkeys(CLASSES, 0.88),
            "reliability": bins,
            "cases": cases,
        }

    def write_training(self, number: int) -> None:
        terms = ("segmentation", "csc_predictions", "csc_features") if number else ("supervised",)
        for shift, member in enumerate(members(self.config, number)):
            rows = []
            for step in range(20, 1001, 20):
                row = {"step": step, "learning_rate": 1e-3, "loss": 0.4 + 1 / step + shift / 50}
                for k, term in enumerate(terms):
                    row[term] = 0.3 / (k + 1) + 5 / step
                rows.append(row)
            HISTORY.write(self.layout.history(number, member), rows)

    def write_evaluation(self, number: int) -> None:
        noise = self.generator.normal(0, 0.015, self.level.shape) if number else 0
        dice = np.clip(self.level + self.gain * number + noise, 0.05, 0.99)
        cases = self.case_ids[-self.test :]
        rows = []
        for i, case in enumerate(cases):
            for k, name in enumerate(CLASSES):
                place = {"case_id": case, "group": case, "site": f"site {i % 2}", "class": name}
                rows.append(place | self._scores(float(dice[i, k])))
        EVALUATION_CASES.write(self.layout.evaluation_cases(number), rows)
        classes = {}
        for name in CLASSES:
            classes[name] = class_summary([row for row in rows if row["class"] == name])
        EvaluationSummary(
            round=number,
            model="student" if number else "warm-up",
            cases=self.test,
            patients=self.test,
            dice=mean_interval(dice.mean(axis=1), cases),
            mean={metric: describe(row[metric] for row in rows) for metric in METRICS},
            classes=classes,
            warnings=[],
            members=MemberSummary(mean=float(dice.mean()) - 0.006, each={}),
            lesions={name: self._lesions(cases) for name in self.config.lesions},
            pseudo_labels=self._pseudo_label_scores(number) if number else None,
        ).save(self.layout.evaluation_summary(number))

    def _lesions(self, cases: list[str]) -> LesionSummary:
        """One lesion of three is missed; a false positive in every case."""
        hit = Lesion(volume_mm3=90.0, matched=True, counted=True, overlap=0.6, score=0.8)
        missed = Lesion(volume_mm3=30.0, matched=False, counted=True, overlap=0.0, score=None)
        wrong = Lesion(volume_mm3=9.0, matched=False, counted=True, overlap=0.0, score=0.5)
        case = CaseLesions(reference=[hit, hit, missed], predicted=[hit, hit, wrong])
        found = [case] * len(cases)
        return summarise(found, cases, self.config.evaluate.detection, 100, 0)

    def _scores(self, dice: float) -> dict[str, Any]:
        return {
            **dict.fromkeys(METRICS, 0.5),
            "dice": dice,
            "empty": "",
            "hd95_mm": 30 * (1 - dice),
            "asd_mm": 5 * (1 - dice),
            "precision": dice + 0.01,
            "recall": dice - 0.01,
            "volume_ml": 900 * dice,
            "reference_ml": 880.0,
        }

    def _predicted(self, number: int) -> np.ndarray:
        return np.clip(1 - self.doubt + 0.03 * (number - 1), 0, 0.99)

    def _pseudo_label_scores(self, number: int) -> PseudoLabelSummary:
        predicted = self._predicted(number)
        true = np.clip(predicted + self.generator.normal(0, 0.04, len(predicted)), 0, 1)
        rows = []
        for i, case in enumerate(self.unlabelled_ids):
            for name in CLASSES:
                rows.append(
                    {
                        "case_id": case,
                        "accepted": predicted[i] >= MINIMUM_DICE,
                        "predicted_dice": predicted[i],
                        "true_dice": true[i],
                        "class": name,
                        "dice": true[i],
                    }
                )
        PSEUDO_LABEL_SCORES.write(self.layout.evaluation_pseudo_labels(number), rows)
        curve = []
        for w in range(17, -1, -1):
            curve.append(RiskPoint(weight=w / 17, coverage=1 - w / 18, error=0.3 - w / 60))
        voxels = VoxelErrors(kept_error=0.021, low_weight_error=0.31, kept_fraction=0.8)
        return PseudoLabelSummary(
            dice=describe(true),
            accepted=describe(true[predicted >= MINIMUM_DICE]),
            rejected=describe(true[predicted < MINIMUM_DICE]),
            classes={},
            spearman=0.91,
            interval_coverage=0.92,
            voxels=voxels,
            foreground_voxels=voxels,
            risk_coverage=curve,
        )

    def write_pseudo_labels(self, number: int) -> None:
        """``refine.csv`` and ``labels.csv``: a reviewer corrects, accepts and rejects a case."""
        refined = []
        labels = []
        dices = self._predicted(number).tolist()
        for i, (case, dice) in enumerate(zip(self.unlabelled_ids, dices, strict=True)):
            row = self._refined_row(number, i, dice)
            files = {"files": [f"pseudo_labels/{case}.nii.gz"], "sha256": [digest_of_name(case)]}
            refined.append({"case_id": case, **row, **files})
            label = {
                "case_id": case,
                "round": number,
                "source": "automatic" if row["accepted"] else "rejected",
                "reviewer": "",
                "reason": row["reason"],
                "predicted_dice": dice,
                "weight_mean": 0.8,
                **NO_FILES,
            }
            labels.append(label | DECISIONS.get(i, {}))
        refined.sort(key=lambda row: row["predicted_dice"])
        REFINE.write(self.layout.refine(number), refined, CLASSES)
        LABELS.write(self.layout.labels_table(number), labels)

    def _refined_row(self, number: int, position: int, dice: float) -> dict[str, Any]:
        accepted = dice >= MINIMUM_DICE
        comparison = "reaches" if accepted else "is below"
        row = {
            "predicted_dice": dice,
            "predicted_dice_low": dice - 0.07,
            "predicted_dice_high": min(1, dice + 0.07),
            "accepted": accepted,
            "reason": f"predicted Dice {dice:.3f} {comparison} {MINIMUM_DICE:.3f}",
            "low_confidence": 900 + position,
            "components": 40 * position,
            "lesions": 0,
            "possible_lesions": 0,
            "holes": position % 3,
            "previous_round": 1200 if number > 1 else 0,
            "lesions_kept": 2,
            "lesions_dropped": 1,
            "previous_round_dice": 0.93 if number > 1 else None,
            "weight_mean": 0.9 - self.doubt[position] / 2,
        }
        for k, name in enumerate(CLASSES):
            row[f"predicted_dice_of_{name}"] = dice
            row[f"volume_ml_of_{name}"] = 100.0 * (k + 1)
        return row

    def write_overlays(self, number: int, maximum: int) -> None:
        """Pictures of the least certain pseudo-labels: a ball of each class, and noise."""
        predicted = self._predicted(number)
        axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
        for i in np.argsort(predicted)[:maximum]:
            label = np.zeros(SHAPE, np.uint8)
            for k, (x, y, z, radius) in enumerate(BALLS):
                distance = (axes[0] - x) ** 2 + (axes[1] - y) ** 2 + (axes[2] - z) ** 2
                label[distance < (radius + 0.01 * i) ** 2] = k + 1
            noise = self.generator.normal(0, 15, SHAPE)
            image = (label * 60 + 100 + noise).astype(np.float32)
            name = self.unlabelled_ids[i]
            draw_overlay(
                overlay_path(self.layout.pseudo_labels(number), name),
                image[None],
                label,
                np.clip(255 - 8 * np.abs(noise), 0, 255).astype(np.uint8),
                (1.5, 1.5, 3.0),
                f"{name}   predicted Dice {predicted[i]:.3f}",
                "fabricated",
            )


def digest_of_name(case_id: str) -> str:
    """Return what stands for the SHA-256 of the pseudo-label of a case."""
    return hashlib.sha256(case_id.encode()).hexdigest()


NO_FILES: dict[str, list[str]] = {"files": [], "sha256": []}


def class_summary(rows: list[dict[str, Any]]) -> StructureSummary:
    """Summarise the rows of a structure in ``cases.csv``."""
    empty = [row["empty"] for row in rows]
    found = presence(rows)
    return StructureSummary(
        **{metric: describe(row[metric] for row in rows) for metric in METRICS},
        empty=EmptyCounts(
            both=empty.count("both"),
            prediction=empty.count("prediction"),
            reference=empty.count("reference"),
        ),
        present=found.present,
        absent=found.absent,
    )


def plan() -> Plan:
    return Plan(
        spacing=(1.5, 1.5, 3.0),
        patch_size=(96, 96, 48),
        batch_size=2,
        channels=(32, 64, 128, 256),
        strides=((1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2)),
        kernels=((3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
        normalisation=(Normalisation(scheme="zscore"),),
        median_shape=(180, 172, 60),
        reasons={
            "spacing": "the median spacing of 46 scans",
            "patch_size": "the maximum that fits into 8 GB",
        },
    )


def fabricated(folder: Path, **changes: Any) -> Fabricated:
    """Return an experiment below ``folder``; ``changes`` are sizes or keys of its configuration."""
    sizes = {}
    for key in ("labelled", "unlabelled", "test", "gain"):
        if key in changes:
            sizes[key] = changes.pop(key)
    values = {
        "experiment": "fabricated",
        "output": str(folder / "results"),
        "overrides": str(folder / "overrides"),
        "cases": str(folder / "cases.csv"),
        "labels": {"background": 0, "liver": 1, "spleen": 2, "lesion": 3},
        "rounds": 2,
        "lesions": ["lesion"],
        "warmup": {"folds": 2, "seeds": 0},
        "evaluate": {"bootstrap": 200},
    }
    return Fabricated(Config.model_validate(values | changes), **sizes)


class Page(HTMLParser):
    """The tags and the text of a page; tags that do not match are refused."""

    VOID = ("meta", "img", "input", "link", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(experiment: Fabricated) -> Page:
    return Page(render(experiment.context, experiment.layout.report.parent))
