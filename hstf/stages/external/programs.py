"""How an external teacher is started: its arguments, its environment, its version."""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hstf.config.external import IMAGE, PLACEHOLDER, ExternalTeacher
from hstf.experiment.job_inputs import program_files
from hstf.runtime.errors import HstfError
from hstf.runtime.files import sha256_file, sha256_json
from hstf.runtime.gpu_lease import gpu_of_this_process, visible_devices
from hstf.runtime.programs import run_program

CALLER = "hstf.runtime.entry_point"
"""Module that calls a Python function in a process of its own."""
VERSION_SECONDS = 300.0
"""Time limit of ``version_command``; a model may be loaded from a slow disk."""
MAXIMUM_VERSION = 200
"""Characters of a version that are kept."""


def images_folder(output: Path) -> Path:
    """Return the folder of the images of a case, beside that of its output."""
    return output.parent.with_name("images")


@dataclass(frozen=True)
class Program:
    """The program of an external teacher."""

    name: str
    teacher: ExternalTeacher
    device: str
    """``auto``, ``cpu`` or ``cuda``: the device of the experiment."""
    scratch: Path
    """Folder for what it prints."""

    @property
    def seconds(self) -> float:
        """Time limit of a case."""
        return 60 * self.teacher.timeout

    def words(self, images: Mapping[str, Path], output: Path, label: Path | None) -> list[str]:
        """Return program and arguments for a case.

        Args:
            images: image of each modality.
            output: where it must write.
            label: the present segmentation, if it gets one.
        """
        if self.teacher.function:
            paths = {name: str(path) for name, path in images.items()}
            given = json.dumps([paths, str(output), str(label) if label else None])
            return [sys.executable, "-m", CALLER, self.teacher.function, given]
        values = {f"{IMAGE}:{name}": str(path) for name, path in images.items()}
        values[IMAGE] = str(next(iter(images.values())))
        values["images"] = str(images_folder(output))
        values["output"] = str(output)
        values["folder"] = str(output.parent)
        values["label"] = str(label)
        values["case"] = output.name.removesuffix(".nii.gz")
        return [
            PLACEHOLDER.sub(lambda found: values[found[1]], word) for word in self.teacher.words
        ]

    @cached_property
    def environment(self) -> dict[str, str]:
        """The environment of the program: this one, with a GPU or with none."""
        environment = dict(os.environ)
        gpu = self._gpu() if self.teacher.gpu and self.device != "cpu" else ""
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        return environment

    def _gpu(self) -> str | None:
        """Return the name of the GPU that this process has leased; None if there is no choice."""
        import torch

        count = torch.cuda.device_count()
        index = gpu_of_this_process(count)
        return None if index is None else visible_devices(count, os.environ)[index]

    @cached_property
    def path(self) -> str:
        """The file of the program, or of the module of the function.

        Raises:
            HstfError: if there is none.
        """
        if self.teacher.files:
            return self.teacher.files
        if self.teacher.function:
            return self._module_file()
        word = self.teacher.words[0]
        found = shutil.which(word)
        if found is None:
            raise HstfError(
                f"teacher.external {self.name}: there is no program {word!r} on this machine."
                " Install it, or give its path, such as /envs/totalseg/bin/TotalSegmentator."
            )
        return found

    def _module_file(self) -> str:
        output = self.scratch / "module.txt"
        words = [sys.executable, "-m", CALLER, self.teacher.function]
        done = run_program(words, output, VERSION_SECONDS, self.environment)
        if done.code != 0:
            raise HstfError(
                f"teacher.external {self.name}: function {self.teacher.function} cannot be"
                f" imported ({done.problem(VERSION_SECONDS)})."
            )
        return done.tail.strip().rpartition("\n")[2]

    @cached_property
    def version(self) -> str:
        """What ``version_command`` prints; empty without one or if it fails."""
        words = shlex.split(self.teacher.version_command)
        if not words:
            return ""
        try:
            output = self.scratch / "version.txt"
            done = run_program(words, output, VERSION_SECONDS, self.environment)
        except HstfError as error:
            return f"not known: {error}"[:MAXIMUM_VERSION]
        if done.code != 0:
            return f"not known: {done.problem(VERSION_SECONDS)}"[:MAXIMUM_VERSION]
        return " ".join(done.tail.split())[:MAXIMUM_VERSION]

    @cached_property
    def file_digests(self) -> dict[str, str]:
        """SHA-256 of the files on which all cases depend.

        Raises:
            HstfError: if one of them is missing.
        """
        digests = {}
        for path in program_files(self.teacher):
            if not path.is_file():
                raise HstfError(
                    f"teacher.external {self.name}: {path} is missing or is no file (depends_on,"
                    " label_map)."
                )
            digests[str(path)] = sha256_file(path)
        return digests

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the program and of the files that its command names."""
        digests = dict(self.file_digests)
        if not self.teacher.files:
            digests["program"] = sha256_file(Path(self.path))
        return sha256_json(digests) if digests else ""
