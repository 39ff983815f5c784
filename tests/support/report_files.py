"""An experiment whose files are made up, and the page that its report becomes."""

from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hstf.config.experiment import Config
from hstf.experiment.layout import Layout
from hstf.imaging.overlays import draw_overlay, overlay_path
from hstf.runtime.files import write_csv, write_json, write_text
from hstf.scoring.absent_classes import presence
from hstf.scoring.averages import describe
from hstf.scoring.lesion_detection import CaseLesions, Lesion, summarise
from hstf.scoring.metrics import METRICS
from hstf.scoring.significance import mean_interval
from hstf.stages.evaluate.pseudo_label_scores import COLUMNS as HINDSIGHT_COLUMNS
from hstf.stages.evaluate.summary import CASE_COLUMNS
from hstf.stages.labels import COLUMNS as LABEL_COLUMNS
from hstf.stages.refine import columns as refine_columns
from hstf.stages.report.stage import render
from support.stages import members

CLASSES = ("liver", "spleen", "lesion")


@dataclass
class Fabricated:
    """An experiment whose files are made up, but agree with each other."""

    config: Config
    labelled: int = 8
    unlabelled: int = 24
    test: int = 14
    gain: float = 0.04
    """Dice gained in each round."""

    def __post_init__(self) -> None:
        self.layout = Layout.of(self.config)
        self.generator = np.random.default_rng(1)
        self.level = self.generator.normal(0.8, 0.07, (self.test, len(CLASSES))) - np.array(
            [0, 0.02, 0.15]
        )
        self.doubt = self.generator.uniform(0.02, 0.5, self.unlabelled)

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
        splits = (
            ["labelled"] * self.labelled + ["unlabelled"] * self.unlabelled + ["test"] * self.test
        )
        rows = [
            {
                "case_id": name,
                "image": f"{name}.nii.gz",
                "label": f"{name}_label.nii.gz",
                "split": split,
                "site": f"site {i % 2}",
            }
            for i, (name, split) in enumerate(zip(self.case_ids, splits, strict=True))
        ]
        write_csv(Path(self.config.cases), rows, ["case_id", "image", "label", "split"])
        write_text(
            self.layout.config, yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False)
        )
        checks = [
            {"case_id": name, "level": "ok", "file": f"{name}.nii.gz"} for name in self.case_ids
        ]
        checks[3] |= {
            "level": "warning", "found": "spacing 0.8 x 0.8 x 12 mm", "expected": "at most 8 mm",
            "what_to_do": "look at the scan: <b>slices</b> may be missing",
        }  # fmt: skip
        write_csv(
            self.layout.check,
            checks,
            ["case_id", "level", "file", "found", "expected", "what_to_do"],
        )
        write_json(self.layout.plan, {
            "spacing": [1.5, 1.5, 3.0], "patch_size": [96, 96, 48], "batch_size": 2, "channels": [32, 64, 128, 256],
            "strides": [[1, 1, 1], [2, 2, 1], [2, 2, 2], [2, 2, 2]],
            "normalisation": [{"scheme": "zscore", "lower": 0.0, "upper": 0.0, "mean": 0.0, "std": 1.0}],
            "median_shape": [180, 172, 60],
            "reasons": {"spacing": "the median spacing of 46 scans", "patch_size": "the largest that fits 8 GB"},
        })  # fmt: skip
        self.write_calibration()
        for stage, seconds in (("warmup/fold_0", 812.4), ("warmup/fold_1", 790.1), ("plan", 3.2)):
            text = f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t2150.5\n"
            write_text(self.layout.root / "benchmarks" / f"{stage}.tsv", text)

    @property
    def case_ids(self) -> list[str]:
        return [f"case_{i:03d}" for i in range(self.labelled + self.unlabelled + self.test)]

    def write_calibration(self) -> None:
        names = ("background", *CLASSES)
        dice = self.generator.uniform(0.6, 0.9, self.labelled)
        write_json(self.layout.calibration, {
            "temperature": 1.31,
            "thresholds": dict(zip(names, (0.62, 0.71, 0.68, 0.83), strict=True)),
            "anatomy_rules": {
                name: {
                    "maximum_components": k + 1, "minimum_mm3": 420.0, "has_holes": False, "may_be_absent": k == 2,
                    "contact": 0.25 * k, "dice_gain": 0.01 - 0.01 * k,
                }
                for k, name in enumerate(CLASSES)
            },
            "dice_models": {},
            "class_sd": dict.fromkeys(CLASSES, 0.05),
            "mean_sd": 0.041,
            "minimum_predicted_dice": 0.58,
            "evidence": {
                "voxels": 100000,
                "negative_log_likelihood": {"before": 0.412, "after": 0.365},
                "calibration_error": {
                    "before": dict(zip(names, (0.02, 0.08, 0.11, 0.16), strict=True)),
                    "after": {**dict(zip(names, (0.01, 0.03, 0.04, 0.09), strict=True)), "lesion": None},
                },
                "dice": dict.fromkeys(CLASSES, 0.77),
                "recall": dict.fromkeys(CLASSES, 0.88),
                "reliability": [
                    {"class": name, "confidence": (k + 0.5) / 20, "accuracy": k / 20, "voxels": 100}
                    for name in names
                    for k in range(8, 20)
                ],
                "cases": {
                    name: {"mean_dice": float(d), "predicted_dice": float(d) + 0.02}
                    for name, d in zip(self.case_ids, dice, strict=False)
                },
            },
        })  # fmt: skip

    def write_training(self, number: int) -> None:
        terms = ("segmentation", "csc_predictions", "csc_features") if number else ("supervised",)
        for shift, member in enumerate(members(self.config, number)):
            rows = [
                {"step": step, "learning_rate": 1e-3, "loss": 0.4 + 1 / step + shift / 50}
                | {term: 0.3 / (k + 1) + 5 / step for k, term in enumerate(terms)}
                for step in range(20, 1001, 20)
            ]
            write_csv(
                self.layout.history(number, member), rows, ["step", "learning_rate", "loss", *terms]
            )

    def write_evaluation(self, number: int) -> None:
        noise = self.generator.normal(0, 0.015, self.level.shape) if number else 0
        dice = np.clip(self.level + self.gain * number + noise, 0.05, 0.99)
        cases = self.case_ids[-self.test :]
        rows = [
            {"case_id": case, "group": case, "site": f"site {i % 2}", "class": name}
            | self._scores(float(dice[i, k]))
            for i, case in enumerate(cases)
            for k, name in enumerate(CLASSES)
        ]
        write_csv(self.layout.evaluation_cases(number), rows, CASE_COLUMNS)
        scored = self._hindsight(number) if number else None
        write_json(self.layout.evaluation_summary(number), {
            "round": number,
            "model": "student" if number else "warm-up",
            "cases": self.test,
            "patients": self.test,
            "dice": mean_interval(dice.mean(axis=1), cases).to_json(),
            "mean": {m: describe(row[m] for row in rows) for m in METRICS},
            "classes": {n: self._class_summary([r for r in rows if r["class"] == n]) for n in CLASSES},
            "warnings": [],
            "members": {"mean": float(dice.mean()) - 0.006, "each": {}},
            "lesions": {n: self._lesions(cases) for n in self.config.lesions},
            "pseudo_labels": scored,
        })  # fmt: skip

    def _class_summary(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {"dice": describe(row["dice"] for row in rows), **presence(rows)}

    def _lesions(self, cases: list[str]) -> dict[str, Any]:
        """One lesion of three is missed; a false positive in every case."""
        hit = Lesion(90.0, True, True, 0.6, 0.8)
        missed, wrong = Lesion(30.0, False, True, 0.0, None), Lesion(9.0, False, True, 0.0, 0.5)
        found = [CaseLesions([hit, hit, missed], [hit, hit, wrong]) for _ in cases]
        return summarise(found, cases, self.config.evaluate.detection, 100, 0)

    def _scores(self, dice: float) -> dict[str, Any]:
        distances = {"hd95_mm": 30 * (1 - dice), "asd_mm": 5 * (1 - dice)}
        rest = {
            "precision": dice + 0.01,
            "recall": dice - 0.01,
            "volume_ml": 900 * dice,
            "reference_ml": 880.0,
        }
        return {**dict.fromkeys(METRICS, 0.5), "dice": dice, "empty": "", **distances, **rest}

    def _predicted(self, number: int) -> np.ndarray:
        return np.clip(1 - self.doubt + 0.03 * (number - 1), 0, 0.99)

    def _hindsight(self, number: int) -> dict[str, Any]:
        predicted = self._predicted(number)
        true = np.clip(predicted + self.generator.normal(0, 0.04, len(predicted)), 0, 1)
        rows = [
            {
                "case_id": case, "accepted": int(p >= 0.58), "predicted_dice": p, "true_dice": t, "class": name, "dice": t
            }
            for case, p, t in zip(self.unlabelled_ids, predicted.tolist(), true.tolist(), strict=True)
            for name in CLASSES
        ]  # fmt: skip
        write_csv(self.layout.evaluation_pseudo_labels(number), rows, HINDSIGHT_COLUMNS)
        curve = [
            {"weight": w / 17, "coverage": 1 - w / 18, "error": 0.3 - w / 60}
            for w in range(17, -1, -1)
        ]
        voxels = {"kept_error": 0.021, "low_weight_error": 0.31, "kept_share": 0.8}
        parts = {
            "dice": describe(true),
            "accepted": describe(true[predicted >= 0.58]),
            "rejected": describe(true[predicted < 0.58]),
        }
        return {
            **parts,
            "classes": {},
            "spearman": 0.91,
            "voxels": voxels,
            "foreground_voxels": voxels,
            "risk_coverage": curve,
        }

    @property
    def unlabelled_ids(self) -> list[str]:
        return self.case_ids[self.labelled : self.labelled + self.unlabelled]

    def write_pseudo_labels(self, number: int) -> None:
        """``refine.csv`` and ``labels.csv``: one case corrected, one accepted and one rejected by a person."""
        refine, labels = [], []
        for i, (case, dice) in enumerate(
            zip(self.unlabelled_ids, self._predicted(number).tolist(), strict=True)
        ):
            accepted = dice >= 0.58
            reason = f"predicted Dice {dice:.3f} {'reaches' if accepted else 'is below'} 0.580"
            refine.append({
                "case_id": case, "predicted_dice": dice, "accepted": int(accepted), "reason": reason,
                "predicted_dice_low": dice - 0.07, "predicted_dice_high": min(1, dice + 0.07),
                "low_confidence": 900 + i, "components": 40 * i, "holes": i % 3,
                "previous_round": 1200 if number > 1 else 0, "previous_round_dice": 0.93 if number > 1 else None,
                "weight_mean": 0.9 - self.doubt[i] / 2,
                **{f"predicted_dice_{n}": dice for n in CLASSES},
                **{f"volume_ml_{n}": 100.0 * (k + 1) for k, n in enumerate(CLASSES)},
            })  # fmt: skip
            decision = {
                0: {"source": "human", "reviewer": "A. Reader", "reason": "spleen redrawn", "predicted_dice": None},
                1: {"source": "accepted", "reviewer": "A. Reader", "reason": "small but right"},
                2: {"source": "rejected", "reviewer": "B. Reader", "reason": "motion artefact"},
            }.get(i, {})  # fmt: skip
            automatic = {
                "source": "automatic" if accepted else "rejected",
                "reason": reason,
                "predicted_dice": dice,
            }
            labels.append(
                {"case_id": case, "round": number, "weight_mean": 0.8, **automatic, **decision}
            )
        refine.sort(key=lambda row: row["predicted_dice"])
        write_csv(self.layout.refine(number), refine, ["case_id", *refine_columns(self.config)])
        write_csv(self.layout.labels_table(number), labels, ["case_id", *LABEL_COLUMNS])

    def write_overlays(self, number: int, most: int) -> None:
        ids, predicted = self.unlabelled_ids, self._predicted(number)
        axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in (48, 44, 30)), indexing="ij")
        for i in np.argsort(predicted)[:most]:
            label = np.zeros(axes[0].shape, np.uint8)
            for k, (x, y, z, radius) in enumerate(
                [(-0.3, 0, 0, 0.5), (0.5, 0.2, 0.1, 0.28), (-0.2, -0.2, 0.1, 0.14)]
            ):
                label[
                    (axes[0] - x) ** 2 + (axes[1] - y) ** 2 + (axes[2] - z) ** 2
                    < (radius + 0.01 * i) ** 2
                ] = k + 1
            image = (label * 60 + self.generator.normal(100, 15, label.shape)).astype(np.float32)[
                None
            ]
            weight = np.clip(255 - 8 * np.abs(image[0] - label * 60 - 100), 0, 255).astype(np.uint8)
            path = overlay_path(self.layout.pseudo_labels(number), ids[i])
            draw_overlay(
                path,
                image,
                label,
                weight,
                (1.5, 1.5, 3.0),
                f"{ids[i]}   predicted Dice {predicted[i]:.3f}",
                "made up",
            )


def fabricated(folder: Path, **changes: Any) -> Fabricated:
    """An experiment below ``folder``, which is also the working directory that its paths start at."""
    sizes = {
        key: changes.pop(key)
        for key in ("labelled", "unlabelled", "test", "gain")
        if key in changes
    }
    config = Config.model_validate({
        "experiment": "made_up", "output": str(folder / "results"), "overrides": str(folder / "overrides"),
        "cases": str(folder / "cases.csv"), "labels": {"background": 0} | {n: k + 1 for k, n in enumerate(CLASSES)},
        "rounds": 2, "lesions": ["lesion"], "warmup": {"folds": 2}, "evaluate": {"bootstrap": 200}, **changes,
    })  # fmt: skip
    return Fabricated(config, **sizes)


class Page(HTMLParser):
    """What a page consists of; refuses tags that do not match."""

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
    return Page(render(experiment.config, experiment.layout.report.parent))
