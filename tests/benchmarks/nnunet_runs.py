"""Commands of nnU-Net v2, which is installed in an environment of its own."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class NnUnet:
    """An installation of nnU-Net and its folders."""

    python: Path
    """Python of its environment."""
    folder: Path
    """Folder of the raw data sets, the preprocessed ones and the trained networks."""

    @property
    def raw(self) -> Path:
        """Raw data sets."""
        return self.folder / "raw"

    @property
    def preprocessed(self) -> Path:
        """Preprocessed data sets."""
        return self.folder / "preprocessed"

    @property
    def trained(self) -> Path:
        """Trained networks."""
        return self.folder / "trained"

    def run(self, *words: str, processes: int = 1) -> None:
        """Run a command of nnU-Net, or Python in its environment.

        Args:
            words: the command.
            processes: processes that augment patches; 0: the training does it itself.
        """
        environment = os.environ | {
            "nnUNet_raw": str(self.raw),
            "nnUNet_preprocessed": str(self.preprocessed),
            "nnUNet_results": str(self.trained),
            "nnUNet_compile": "false",
            "nnUNet_n_proc_DA": str(processes),
        }
        environment.pop("PYTHONPATH", None)
        print("$", *words[:6], flush=True)
        command = [str(self.python.parent / words[0]), *words[1:]]
        subprocess.run(command, env=environment, check=True)
