"""Files on which the results of a job depend."""

from pathlib import Path

import pytest

from hstf.config.external import ExternalTeacher
from hstf.experiment.job_inputs import program_files


@pytest.mark.parametrize(
    "command",
    [
        "python seg.py --weights w.pt -i {image} -o {output}",
        "python seg.py --weights=w.pt -i {image} -o {output}",
        "env WEIGHTS=w.pt ./seg.py {image} {output}",
        "bash -c 'python seg.py --weights=w.pt {image} {output}'",
    ],
)
def test_program_files_finds_all_files_that_a_command_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("seg.py").touch()
    Path("w.pt").touch()
    teacher = ExternalTeacher(command=command, labels={"liver": (1,)})
    assert set(program_files(teacher)) == {Path("seg.py"), Path("w.pt")}


@pytest.mark.parametrize("script", [f"echo {'x' * 300}; ", 'echo "a b'])
def test_program_files_accepts_any_script(script: str) -> None:
    teacher = ExternalTeacher(
        command=f"bash -c '{script}' {{image}} {{output}}", labels={"liver": (1,)}
    )
    assert program_files(teacher) == []
