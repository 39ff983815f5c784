"""The packages that the GPU machine lacks, as wheels for its Python; versions are those of this environment."""

import subprocess
import sys
import tomllib
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from parcel import ParcelError

PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (39, 35, 34, 31, 28, 27, 24, 17, 12, 5)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
UNUSED = {
    "snakemake", "snakemake-executor-plugin-slurm", "mlflow",  # the steps need no workflow and no tracking
    "simpleitk",  # only reads MetaImage and NRRD
}  # fmt: skip


def project_requirements(pyproject: Path) -> list[str]:
    """The project's own requirements without what no step uses."""
    lines = tomllib.loads(pyproject.read_text())["project"]["dependencies"]
    return [line for line in lines if canonicalize_name(Requirement(line).name) not in UNUSED]


def closure(requirements: Collection[str], assumed: Collection[str]) -> list[str]:
    """``name==version`` of the requirements and all they require, but for what is ``assumed`` to be there."""
    there = {canonicalize_name(name) for name in assumed}
    waiting, found = [Requirement(line) for line in requirements], {}
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if not wanted or name in there or name in found:
            continue
        try:
            found[name] = f"{name}=={version(name)}"
        except PackageNotFoundError:
            raise ParcelError(
                f"{name}: is required but not installed here; install the project first."
            ) from None
        waiting += [Requirement(line) for line in requires(name) or []]
    return sorted(found.values())


def download(pins: Collection[str], python: str, folder: Path) -> list[Path]:
    """Wheels of ``pins`` for x86-64 Linux and ``python`` (3.12, say); those that lie in ``folder`` already stay.

    Raises:
        ParcelError: there is no such wheel, or no network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
    ]
    command += ["--python-version", python, "--implementation", "cp"]
    command += [f"--platform={platform}" for platform in PLATFORMS]
    done = subprocess.run([*command, "--find-links", str(folder), *pins], capture_output=True, text=True)
    if done.returncode:
        raise ParcelError(f"pip could not fetch all wheels for Python {python}:\n{done.stderr.strip()}")
    wanted = {tuple(pin.split("==")) for pin in pins}
    wheels = {wheel: wheel.name.split("-")[:2] for wheel in folder.glob("*.whl")}
    return [wheel for wheel, (name, number) in wheels.items() if (canonicalize_name(name), number) in wanted]
