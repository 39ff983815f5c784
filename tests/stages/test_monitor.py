"""The stage ``monitor`` on a small experiment with networks of random weights."""

from pathlib import Path

import numpy as np
import pytest
from support.shard_files import write_shard
from support.stages import members
from support.teacher_files import PLAN, SHAPE, network_of, save_weights

from hstf.config.experiment import Config
from hstf.config.load import resolve_config
from hstf.experiment.cases import Split, read_cases
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.experiment.scan_tables import PREPROCESSED
from hstf.imaging.arrays import write_array
from hstf.method.tta_summary import PROBABILITIES
from hstf.models.registry import save_network
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_csv
from hstf.scoring.monitoring import LabelledStructure, RoundMonitor
from hstf.stages.monitor import monitor
from hstf.stages.teacher import teacher


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return an experiment with the networks of the warm-up and of round 1."""
    rows = []
    for number in range(5):
        split = "labelled" if number < 2 else "unlabelled"
        label = "withheld.nii.gz"
        rows.append({"case_id": f"case_{number}", "image": "x", "label": label, "split": split})
    write_csv(tmp_path / "cases.csv", rows, list(rows[0]))
    config = resolve_config(
        {
            "output": str(tmp_path / "results"),
            "cases": str(tmp_path / "cases.csv"),
            "device": "cpu",
            "rounds": 1,
            "labels": {"background": 0, "liver": 1, "tumour": 2},
            "warmup": {"folds": 2, "seeds": 2},
            "student": {"members": 1},
            "monitor": {"cases": 2},
        }
    )
    layout = Layout.of(config)
    PLAN.save(layout.plan)
    random = np.random.default_rng(0)
    for number in (0, 1):
        for seed, member in enumerate(members(config, number)):
            save_weights(layout.weights(number, member), member, seed)
    for split in (Split.LABELLED, Split.UNLABELLED):
        for shard, cases in read_cases(config).shards(split, None).items():
            for case in cases:
                folder = layout.preprocessed / case.case_id
                image = random.normal(size=(1, *SHAPE)).astype(np.float16)
                write_array(folder / "image.b2nd", image, 8)
            write_shard(PREPROCESSED, layout.preprocessed_table(shard), [c.case_id for c in cases])
    for number, name in enumerate(("case_0", "case_1")):
        label = np.zeros(SHAPE, np.uint8)
        label[:2] = 1
        label[4, 0, 0] = 2 * number
        write_array(layout.preprocessed / name / "label.b2nd", label, 8)
    return config


def monitor_round(config: Config, number: int) -> RoundMonitor:
    return monitor(StageContext.of(config, "monitor", number))


def test_monitor_writes_what_the_model_finds(config: Config) -> None:
    found = monitor_round(config, 0)
    assert RoundMonitor.load(Layout.of(config).monitor(0)) == found
    assert found.cases == 2
    liver = 2 * SHAPE[1] * SHAPE[2] * 0.002
    assert found.labelled["liver"].mean_ml == pytest.approx(liver)
    assert found.labelled["liver"].every_case
    assert found.labelled["tumour"] == LabelledStructure(every_case=False, mean_ml=0.001)
    assert found.member_dice.keys() == {"liver", "tumour"}
    assert found.teacher_dice == {}


def test_monitor_takes_no_volume_from_scribbles(config: Config) -> None:
    for name in ("case_0", "case_1"):
        label = np.full(SHAPE, 255, np.uint8)
        label[0, 0] = 1
        write_array(Layout.of(config).preprocessed / name / "label.b2nd", label, 8)
    found = monitor_round(config, 0)
    assert found.labelled["liver"] == LabelledStructure(every_case=True, mean_ml=None)
    assert found.labelled["tumour"] == LabelledStructure(every_case=False, mean_ml=None)


def test_monitor_compares_a_student_with_its_teacher_and_earlier_rounds(config: Config) -> None:
    layout = Layout.of(config)
    first = monitor_round(config, 0)
    # The teacher finds only liver, everywhere.
    probabilities = np.zeros((3, *SHAPE), np.uint8)
    probabilities[1] = 255
    for name in ("case_2", "case_3"):
        write_array(layout.teacher(1) / name / PROBABILITIES, probabilities, 8)
    second = monitor_round(config, 1)
    assert second.labelled == first.labelled
    assert second.member_dice == {}, "there is a single member"
    assert 0 <= second.teacher_dice["liver"] <= 1
    assert second.round == 1


def test_monitor_finds_the_collapse_of_a_student(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """The warm-up found the liver in both cases; the student predicts background only."""
    layout = Layout.of(config)
    first = monitor_round(config, 0)
    liver = first.structures["liver"].model_copy(update={"present": 2, "mean_ml": 0.3})
    structures = {**first.structures, "liver": liver}
    first.model_copy(update={"structures": structures}).save(layout.monitor(0))
    save_background_weights(layout.weights(1, "seed_0"))
    found = monitor_round(config, 1)
    assert found.structures["liver"].present == 0
    assert any(text.startswith("liver vanishes") for text in found.collapse)
    assert "round 1 has collapsed: liver vanishes" in capsys.readouterr().out


def save_background_weights(path: Path) -> None:
    """Save a network that predicts background everywhere."""
    network = network_of(0)
    for name, parameter in network.named_parameters():
        if parameter.shape[:1] == (3,):
            parameter.data.zero_()
            if name.endswith("bias"):
                parameter.data[0] = 50.0
    save_network(path, network, {"member": "seed_0"})


def test_teacher_refuses_to_continue_from_a_collapsed_round(config: Config) -> None:
    layout = Layout.of(config)
    first = monitor_round(config, 0)
    first.model_copy(update={"collapse": ["liver vanishes"]}).save(layout.monitor(0))
    with pytest.raises(HstfError, match=r"(?s)round 0 has collapsed.*liver vanishes"):
        teacher(StageContext.of(config, "teacher", 1), "unlabelled_0")


def test_monitor_without_cases_is_refused(config: Config) -> None:
    section = config.monitor.model_copy(update={"cases": 0})
    with pytest.raises(HstfError, match="no unlabelled case to predict"):
        monitor_round(config.model_copy(update={"monitor": section}), 0)
