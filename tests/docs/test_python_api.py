"""Run the examples of docs/reference/python-api.md on a tiny finished experiment."""

import re
from pathlib import Path

import pytest
from support.workspace import ROOT, Workspace

PAGE = ROOT / "docs" / "reference" / "python-api.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
NAMES_OF_THE_DEMO = {
    "results/demo": "results/tiny",
    "demo/images/": "images/",
    "demo/labels/": "labels/",
    "case_006": "case_004",  # a test case
    "case_020": "case_006",  # an unlabelled case
}
"""Names in the examples, and what they are called in the tiny experiment."""


@pytest.mark.workflow
@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_python_api_example_runs(
    number: int, finished: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every example runs as it is printed, apart from the names of the demo."""
    code = EXAMPLES[number]
    for name, replacement in NAMES_OF_THE_DEMO.items():
        code = code.replace(name, replacement)
    finished.copy_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f"{PAGE}, example {number}", "exec"), {"__name__": "example"})
