"""The keys ``amp``: names of precisions, and the truth values that YAML reads."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from hstf.config.experiment import Config
from hstf.config.yaml_files import read_yaml


@pytest.mark.parametrize(("value", "expected"), [(True, "auto"), (False, "off"), ("bf16", "bf16")])
@pytest.mark.parametrize("section", ["warmup", "student", "teacher", "predict"])
def test_amp_reads_names_and_truth_values(section: str, value: object, expected: str) -> None:
    config = Config.model_validate({section: {"amp": value}})
    assert getattr(config, section).amp == expected


def test_amp_reads_an_unquoted_off_of_yaml(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("student: {amp: off}\n")
    assert Config.model_validate(read_yaml(path)).student.amp == "off"


def test_amp_refuses_other_values() -> None:
    with pytest.raises(ValidationError, match="'auto', 'bf16' or 'off'"):
        Config.model_validate({"student": {"amp": "fp16"}})
