"""The stage ``teacher`` on a small experiment: what it writes, skips and computes again."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from support.shard_files import write_shard
from support.stages import members, predict_out_of_fold, teacher, teachers_by_case
from support.teacher_files import PLAN, SHAPE, save_weights

from hstf.cli import main
from hstf.config.experiment import Config
from hstf.config.load import resolve_config
from hstf.experiment.cases import Split, read_cases
from hstf.experiment.layout import Layout
from hstf.experiment.scan_tables import PREPROCESSED
from hstf.imaging.arrays import read_array, write_array
from hstf.method import ensemble
from hstf.models.base import NetworkSpec
from hstf.models.registry import build, save_network
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_csv, read_json, write_csv, write_json


@dataclass(frozen=True)
class Experiment:
    config: Config
    layout: Layout

    def unlabelled(self) -> list[str]:
        return [case.case_id for case in read_cases(self.config).of(Split.UNLABELLED)]


def write_preprocessed(layout: Layout, shard: str, cases: list[str], seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    for case in cases:
        path = layout.preprocessed / case / "image.b2nd"
        write_array(path, random.normal(size=(1, *SHAPE)).astype(np.float16), 8)
    write_shard(PREPROCESSED, layout.preprocessed_table(shard), cases)


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    """Write two labelled and three unlabelled cases, preprocessed, and two warm-up members.

    No image and no label file exists.
    """
    rows = [
        {
            "case_id": f"case_{i}",
            "image": f"case_{i}.nii.gz",
            "label": f"withheld_{i}.nii.gz",
            "split": "labelled" if i < 2 else "unlabelled",
        }
        for i in range(5)
    ]
    write_csv(tmp_path / "cases.csv", rows, ["case_id", "image", "label", "split"])
    config = resolve_config(
        {
            "output": str(tmp_path / "results"),
            "cases": str(tmp_path / "cases.csv"),
            "shard_size": 2,
            "device": "cpu",
            "labels": {"background": 0, "liver": 1, "tumour": 2},
            "warmup": {"folds": 2, "seeds": 0},
            "student": {"members": 1},
            "teacher": {"scales": [0.75, 1.0], "flip_axes": [0], "amp": "off"},
            "preprocess": {"chunk": 8},
        }
    )
    layout = Layout.of(config)
    PLAN.save(layout.plan)
    for seed, member in enumerate(members(config, 0)):
        save_weights(layout.weights(0, member), member, seed)
    for split in (Split.LABELLED, Split.UNLABELLED):
        for shard, cases in read_cases(config).shards(split, 2).items():
            write_preprocessed(layout, shard, [case.case_id for case in cases])
    return Experiment(config, layout)


def test_teacher_writes_arrays_agreement_and_a_row(
    experiment: Experiment,
) -> None:
    assert teacher(experiment.config, 1, "unlabelled_0") == 2
    folder = experiment.layout.teacher(1) / "case_2"
    probabilities = read_array(folder / "probabilities.b2nd")
    uncertainty = read_array(folder / "uncertainty.b2nd")
    assert (probabilities.dtype, probabilities.shape) == (np.uint8, (3, *SHAPE))
    assert (uncertainty.dtype, uncertainty.shape) == (np.uint8, (3, *SHAPE))
    assert np.abs(probabilities.sum(axis=0, dtype=int) - 255).max() <= 2
    agreement = read_json(folder / "agreement.json")
    assert {kind: list(agreement[kind]) for kind in ("scales", "members", "flips")} == {
        "scales": ["0.75", "1.0"],
        "members": ["fold_0", "fold_1"],
        "flips": ["none", "0"],
    }
    voxels = np.bincount(probabilities.argmax(axis=0).ravel(), minlength=3)
    assert agreement["volumes_ml"] == {"liver": voxels[1] * 0.002, "tumour": voxels[2] * 0.002}
    assert experiment.layout.teacher_table(1, "unlabelled_0").is_file()
    assert not (experiment.layout.teacher(1) / "case_4").exists()  # another shard's case


def test_teacher_loads_no_network_for_finished_cases(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher(experiment.config, 1, "unlabelled_0")
    before = experiment.layout.teacher_table(1, "unlabelled_0").read_bytes()

    def never(*_: object) -> None:
        raise AssertionError("a network was loaded")

    monkeypatch.setattr(ensemble, "load_network", never)
    assert teacher(experiment.config, 1, "unlabelled_0") == 0
    assert experiment.layout.teacher_table(1, "unlabelled_0").read_bytes() == before


def test_teacher_repeats_only_a_missing_prediction(experiment: Experiment) -> None:
    teacher(experiment.config, 1, "unlabelled_0")
    shutil.rmtree(experiment.layout.teacher(1) / "case_3")
    assert teacher(experiment.config, 1, "unlabelled_0") == 1


def test_teacher_repeats_cases_with_other_inputs(experiment: Experiment) -> None:
    teacher(experiment.config, 1, "unlabelled_0")
    save_weights(experiment.layout.weights(0, "fold_1"), "fold_1", 99)
    assert teacher(experiment.config, 1, "unlabelled_0") == 2
    scaled = experiment.config.model_copy(
        update={"teacher": experiment.config.teacher.model_copy(update={"overlap": 0.25})}
    )
    assert teacher(scaled, 1, "unlabelled_0") == 2
    faster = scaled.model_copy(
        update={"teacher": scaled.teacher.model_copy(update={"window_batch": 7})}
    )
    assert teacher(faster, 1, "unlabelled_0") == 0
    write_preprocessed(experiment.layout, "unlabelled_0", ["case_2", "case_3"], seed=5)
    assert teacher(faster, 1, "unlabelled_0") == 2


def test_teacher_compares_snapshots_with_the_ensemble(experiment: Experiment) -> None:
    """The first snapshot is another network, the second is the network itself."""
    config = experiment.config.model_copy(
        update={
            "teacher": experiment.config.teacher.model_copy(
                update={"scales": (1.0,), "flip_axes": ()}
            )
        }
    )
    teacher(config, 1, "unlabelled_0")
    folder = experiment.layout.teacher(1) / "case_2"
    plain = read_json(folder / "agreement.json")
    probabilities = read_array(folder / "probabilities.b2nd")
    for seed, member in enumerate(members(config, 0)):
        save_weights(experiment.layout.weights(0, member), member, seed, (seed + 7, seed))
    assert teacher(config, 1, "unlabelled_0") == 2
    agreement = read_json(folder / "agreement.json")
    first, second = agreement.pop("snapshots").values()
    assert agreement == plain and "snapshots" not in plain
    np.testing.assert_array_equal(read_array(folder / "probabilities.b2nd"), probabilities)
    assert min(second.values()) > 0.98, "but for the rounding of stored probabilities"
    assert min(first.values()) < 0.9


def test_teacher_uses_the_students_of_the_previous_round(experiment: Experiment) -> None:
    with pytest.raises(
        HstfError, match=r"round_1/model/seed_0/weights.pt: the weights are missing"
    ):
        teacher(experiment.config, 2, "unlabelled_0")
    save_weights(experiment.layout.weights(1, "seed_0"), "seed_0", 0)
    assert teacher(experiment.config, 2, "unlabelled_0") == 2
    assert list(
        read_json(experiment.layout.teacher(2) / "case_2" / "agreement.json")["members"]
    ) == ["seed_0"]


def test_teacher_uses_students_that_have_not_seen_the_case(experiment: Experiment) -> None:
    config = experiment.config.model_copy(
        update={
            "student": experiment.config.student.model_copy(
                update={"members": 2, "cross_fit": True}
            )
        }
    )
    for seed in (0, 1):
        save_weights(experiment.layout.weights(1, f"seed_{seed}"), f"seed_{seed}", seed)
    assert teacher(config, 2, "unlabelled_0") == 2
    expected = teachers_by_case(config, 2, ["case_2", "case_3"])
    rows = {
        row["case_id"]: row for row in read_csv(experiment.layout.teacher_table(2, "unlabelled_0"))
    }
    for case_id, names in expected.items():
        assert rows[case_id]["members"] == ";".join(names) and len(names) == 1
        assert (
            list(read_json(experiment.layout.teacher(2) / case_id / "agreement.json")["members"])
            == names
        )
    save_weights(experiment.layout.weights(1, "seed_0"), "seed_0", 7)
    assert teacher(config, 2, "unlabelled_0") == list(expected.values()).count(["seed_0"])


def test_teacher_names_all_edited_and_missing_images(experiment: Experiment) -> None:
    folder = experiment.layout.preprocessed
    (folder / "case_2" / "image.b2nd").unlink()
    (folder / "case_3" / "image.b2nd").write_bytes(b"edited")
    with pytest.raises(HstfError) as caught:
        teacher(experiment.config, 1, "unlabelled_0")
    assert "case_2" in str(caught.value) and "case_3" in str(caught.value)


@pytest.mark.parametrize(
    ("number", "shard", "words"),
    [
        (0, "unlabelled_0", "round 0"),
        (1, "labelled_0", "only unlabelled cases have pseudo-labels"),
        (1, "unlabelled_9", "there is no such shard"),
    ],
)
def test_teacher_refuses_unknown_rounds_and_shards(
    experiment: Experiment, number: int, shard: str, words: str
) -> None:
    with pytest.raises(HstfError, match=words):
        teacher(experiment.config, number, shard)


def test_teacher_names_cases_that_are_not_preprocessed(experiment: Experiment) -> None:
    write_preprocessed(experiment.layout, "unlabelled_0", ["case_2"])
    with pytest.raises(HstfError, match=r"preprocessed/unlabelled_0\.csv(?s:.*)case_3: is missing"):
        teacher(experiment.config, 1, "unlabelled_0")


def test_predict_out_of_fold_uses_the_member_that_has_not_seen_the_case(
    experiment: Experiment,
) -> None:
    labelled = read_cases(experiment.config).of(Split.LABELLED)
    for index, member in enumerate(("fold_0", "fold_1")):
        predict_out_of_fold(
            experiment.config,
            member,
            labelled[index : index + 1],
            experiment.layout.weights(0, member),
        )
    folder = experiment.layout.out_of_fold
    assert list(read_json(folder / "case_1" / "agreement.json")["members"]) == ["fold_1"]
    assert sorted(path.name for path in folder.glob("*.csv")) == ["fold_0.csv", "fold_1.csv"]
    uncertainty = read_array(folder / "case_0" / "uncertainty.b2nd")
    assert uncertainty[2].any()  # one member: the disagreement is that of its mirrored views


def test_predict_out_of_fold_compares_the_networks_of_a_pair(experiment: Experiment) -> None:
    spec = NetworkSpec(
        "pair",
        1,
        3,
        PLAN.channels,
        PLAN.strides,
        PLAN.kernels,
        PLAN.spacing,
        1,
        2,
        pair=("hybrid", "cnn"),
    )
    pair = build(spec)
    path = experiment.layout.weights(0, "fold_0")
    save_network(path, pair, {"member": "fold_0"})
    labelled = read_cases(experiment.config).of(Split.LABELLED)[:1]
    predict_out_of_fold(experiment.config, "fold_0", labelled, path)
    folder = experiment.layout.out_of_fold / labelled[0].case_id
    agreement = read_json(folder / "agreement.json")
    assert list(agreement["members"]) == ["fold_0.first", "fold_0.second"]
    apart = [np.prod(list(dices.values())) for dices in agreement["members"].values()]
    assert min(apart) < 1, "each differs from their mean somewhere"


def test_main_runs_the_teacher_and_reports_errors(
    experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.json"  # JSON is YAML
    write_json(config, experiment.config.model_dump(mode="json"))
    arguments = ["teacher", "--config", str(config), "--shard", "unlabelled_1", "--round"]
    assert main([*arguments, "1"]) == 0
    assert (experiment.layout.teacher(1) / "case_4" / "agreement.json").is_file()
    assert main([*arguments, "0"]) == 1
    assert "--round 0: pseudo-labels belong to rounds 1 to 2" in capsys.readouterr().err


def test_teacher_names_the_case_of_an_error(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise HstfError("no room")

    monkeypatch.setattr(ensemble, "predict_with_tta", no_room)
    with pytest.raises(HstfError, match="case_2: no room"):
        teacher(experiment.config, 1, "unlabelled_0")
