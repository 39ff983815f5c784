"""Imports are at the top of a module, except for packages that are slow to import."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.workspace import ROOT

SOURCES = sorted((ROOT / "hstf").rglob("*.py"))

SLOW_PACKAGES = {
    "PIL",
    "SimpleITK",
    "blosc2",
    "cc3d",
    "highdicom",
    "jinja2",
    "matplotlib",
    "mlflow",
    "monai",
    "nibabel",
    "pandas",
    "pydicom",
    "rich",
    "scipy",
    "torch",
}
"""Packages that a function may import, so that a command that does not need them starts fast."""

EXCEPTIONS = {"hstf/commands/predict.py", "hstf/stages/evaluate/stage.py"}
"""Modules whose functions import a module of the package, so that the checks before a prediction
and the table of a round run without PyTorch."""


def imports_in_functions(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and package of each import within a function."""
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for function in functions:
        for node in ast.walk(function):
            if isinstance(node, ast.ImportFrom) and node.module:
                yield node.lineno, node.module.partition(".")[0]
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield node.lineno, alias.name.partition(".")[0]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_import_only_slow_packages(path: Path) -> None:
    allowed = set(SLOW_PACKAGES)
    if str(path.relative_to(ROOT)) in EXCEPTIONS:
        allowed.add("hstf")
    found = [(line, name) for line, name in imports_in_functions(path) if name not in allowed]
    assert found == []


def test_packages_have_no_logic() -> None:
    for path in (ROOT / "hstf").rglob("__init__.py"):
        statements = ast.parse(path.read_text()).body
        allowed = (ast.Expr, ast.Assign) if path.parent == ROOT / "hstf" else (ast.Expr,)
        assert all(isinstance(statement, allowed) for statement in statements), path


def test_the_root_has_few_entries() -> None:
    entries = [path for path in (ROOT / "hstf").iterdir() if not path.name.startswith(("_", "."))]
    modules = [path for path in entries if path.is_dir() or path.suffix == ".py"]
    assert len(modules) <= 13
