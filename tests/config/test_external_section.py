"""The section ``teacher.external``: what is refused, and what an edit reruns."""

from typing import Any

import pytest

from hstf.config.experiment import Config
from hstf.config.load import resolve_config
from hstf.experiment.dependencies import stage_parameters
from hstf.runtime.errors import HstfError

LABELS = {"liver": 1, "tumour": 2, "spleen": 3}


def config_with(sections: dict[str, Any] | None = None, **keys: Any) -> Config:
    teacher = {"command": "segment {image} {output}", "labels": {"liver": 5}} | keys
    teacher = {name: value for name, value in teacher.items() if value is not None}
    content = {"labels": LABELS, "teacher": {"external": {"other": teacher}}}
    return resolve_config(content | (sections or {}))


def test_single_value_and_command_with_quotes() -> None:
    teacher = config_with(command="'/my programs/segment' {image} -o={output}").teacher.external
    assert teacher["other"].labels == {"liver": (5,)}
    assert teacher["other"].words == ["/my programs/segment", "{image}", "-o={output}"]


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [([], [], True), ([], [2], True), ([1], [], True), ([1, 2], [2], True), ([1], [2, 3], False)],
)
def test_is_used_with_means_all_rounds_if_none_is_named(
    first: list[int], second: list[int], shared: bool
) -> None:
    teachers = [config_with(rounds=rounds).teacher.external["other"] for rounds in (first, second)]
    assert teachers[0].is_used_with(teachers[1]) == shared


MR = {"modalities": {"t1": "mr", "t2": "mr"}}
REGIONS = {"regions": {"organ": ["liver", "tumour"], "tumour": ["tumour"], "spleen": ["spleen"]}}
WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"command": None}, "expected one of command, function and files, found none of them"),
    ({}, {"files": "a/{case}.nii.gz"}, "found command and files"),
    ({}, {"command": "segment {image} 'x"}, "cannot be split into arguments"),
    (
        {},
        {"command": "segment {image}"},
        "the command needs {image} (or {images}) and {output} (or",
    ),
    ({}, {"command": "segment {scan} {output}"}, "the command has {scan}, expected {image}"),
    ({}, {"command": "segment {image} {output} {label}"}, "belong together"),
    ({}, {"prompt": "label"}, "belong together"),
    ({}, {"command": None, "function": "segment"}, "expected package.module:function"),
    ({}, {"command": None, "files": "a.nii.gz"}, "expected a name with {case} once"),
    ({}, {"command": None, "files": "{case}.npz"}, "set probabilities: true"),
    (
        {},
        {"command": None, "files": "{case}.nii.gz", "prompt": "label"},
        "needs a command or a function",
    ),
    ({}, {"labels": {}}, "labels is empty, expected the values of at least one class"),
    ({}, {"labels": {"livre": 5}}, "labels has 'livre', expected some of liver, tumour, spleen"),
    ({}, {"labels": {"liver": []}}, "liver has no value of the output"),
    ({}, {"labels": {"liver": True}}, "liver is true or false"),
    ({}, {"labels": {"liver": -1}}, "labels has a negative value"),
    ({}, {"labels": {"liver": 5, "spleen": [5, 6]}}, "labels has 5 for more than one class"),
    ({}, {"labels": {"liver": "liver"}}, "give the file of the names, label_map"),
    ({}, {"rounds": [0]}, "pseudo-labels belong to rounds from 1"),
    ({}, {"timeout": 0}, "greater than 0"),
    (MR, {}, "there are 2 modalities: name each, such as {image:t1}"),
    (MR, {"command": "segment {image:flair} {output}"}, "expected one of t1, t2"),
    (
        REGIONS,
        {"labels": {"organ": 1, "tumour": 2}},
        "has the class tumour in organ and in tumour: name classes or regions that do not overlap",
    ),
]


@pytest.mark.parametrize(("sections", "keys", "message"), WRONG)
def test_wrong_teacher_is_refused(
    sections: dict[str, Any], keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(HstfError) as error:
        config_with(sections, **keys)
    assert message in str(error.value)


def test_name_of_a_teacher_is_a_folder() -> None:
    teacher = {"command": "segment {image} {output}", "labels": {"liver": 5}}
    with pytest.raises(HstfError, match="is the name of a folder"):
        resolve_config({"labels": LABELS, "teacher": {"external": {"a/b": teacher}}})


def test_regions_and_modalities_are_accepted() -> None:
    config_with(REGIONS, labels={"organ": [1, 2], "spleen": 7})
    config_with(MR, command="segment {image:t1} {image:t2} {output}")


def test_teachers_cannot_differ_by_round() -> None:
    other = {"teacher": {"external": {"other": {"timeout": 3}}}}
    with pytest.raises(HstfError, match=r"teacher\.external cannot differ by round"):
        config_with({"rounds_overrides": {2: other}})


@pytest.mark.parametrize("stage", ["teacher", "out_of_fold", "calibrate", "refine"])
def test_external_teachers_are_no_parameters_of_other_stages(stage: str) -> None:
    """What they predict is among the files of these stages."""
    assert stage_parameters(config_with(), stage, 1) == stage_parameters(
        resolve_config({"labels": LABELS}), stage, 1
    )


def test_time_limit_and_gpu_are_no_parameters_and_the_order_is() -> None:
    plain = stage_parameters(config_with(), "external")
    assert stage_parameters(config_with(timeout=3, gpu=False), "external") == plain
    assert stage_parameters(config_with(rounds=[1]), "external") != plain
    teacher = {"command": "segment {image} {output}", "labels": {"liver": 5}}
    both = [
        resolve_config({"labels": LABELS, "teacher": {"external": dict.fromkeys(names, teacher)}})
        for names in ("ab", "ba")
    ]
    assert stage_parameters(both[0], "external") != stage_parameters(both[1], "external")
