"""A valid data set whose files the tests damage."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hstf.config.experiment import Config
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_csv
from support.stages import check

SHAPE = (9, 8, 7)


AFFINE = np.array(
    [[-1.5, 0.1, 0, 40], [0.1, 1.5, 0, -30], [0, 0, 3, 12], [0, 0, 0, 1]], dtype=float
)


class Data:
    """A valid data set: two labelled, two unlabelled and two test cases of different patients."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        splits = ("labelled", "labelled", "unlabelled", "unlabelled", "test", "test")
        self.rows = [
            {
                "case_id": f"p{i}",
                "image": f"p{i}.nii.gz",
                "label": f"p{i}_label.nii.gz",
                "split": split,
                "group": "",
            }
            for i, split in enumerate(splits)
        ]
        for number in range(len(splits)):
            self.image(f"p{number}.nii.gz", self.scan(number))
            self.image(f"p{number}_label.nii.gz", self.mask(number))

    @staticmethod
    def scan(seed: int) -> np.ndarray:
        return np.random.default_rng(seed).normal(100, 30, SHAPE).astype(np.int16)

    @staticmethod
    def mask(number: int) -> np.ndarray:
        mask = np.zeros(SHAPE, np.uint8)
        mask[2:5, 2:6, number : number + 1] = 1
        return mask

    def image(
        self, name: str, data: np.ndarray, affine: np.ndarray = AFFINE, code: int = 1
    ) -> Path:
        image = nib.Nifti1Image(data, affine)
        image.set_sform(affine, code)
        image.header.set_xyzt_units("mm")
        nib.save(image, self.folder / name)
        return self.folder / name

    def config(self, **values: object) -> Config:
        columns = list(self.rows[0])
        write_csv(self.folder / "cases.csv", self.rows, columns)
        plain = {"cases": str(self.folder / "cases.csv"), "output": str(self.folder / "results")}
        return Config.model_validate(plain | {"check": {"workers": 1}} | values)

    def errors(self, **values: object) -> str:
        """Run the stage, which must fail, and return its message."""
        with pytest.raises(HstfError) as caught:
            check(self.config(**values))
        return str(caught.value)

    def warnings(self, capsys: pytest.CaptureFixture[str]) -> str:
        """Run the stage and return what it prints."""
        check(self.config())
        return capsys.readouterr().out
