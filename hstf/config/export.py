"""``export:``, the files of the exported model."""

from typing import Literal

from pydantic import field_validator

from hstf.config.section import Section

Program = Literal["torchscript", "checkpoint", "torch_export"]
"""A form of the networks that is used without hstf."""


class ExportConfig(Section):
    """Files of the exported model for programs other than hstf."""

    programs: tuple[Program, ...] = ("torchscript",)
    """The networks for programs other than hstf: ``torchscript`` (``models/model.ts``), with which
    the folder is a MONAI bundle that runs; ``checkpoint`` (``models/model.pt``), the weights of
    this program for ``monai.bundle ckpt_export`` and for training; ``torch_export``
    (``models/model.pt2``). Each file contains the weights of all members once more. Empty: the
    model is for ``hstf predict`` only."""

    @field_validator("programs")
    @classmethod
    def _check_programs(cls, programs: tuple[Program, ...]) -> tuple[Program, ...]:
        if "checkpoint" in programs and "torchscript" not in programs:
            raise ValueError("checkpoint has the weights of torchscript: add torchscript")
        return programs
