"""``export:``, the files of the exported model."""

from typing import Literal

from hstf.config.section import Section

Program = Literal["torchscript", "torch_export"]
"""A form of the networks that runs without hstf."""


class ExportConfig(Section):
    """Files of the exported model for programs other than hstf."""

    programs: tuple[Program, ...] = ("torchscript",)
    """The networks as programs that run without hstf: ``torchscript`` (``models/model.ts``), with
    which the folder is a MONAI bundle that runs, and ``torch_export`` (``models/model.pt2``). Each
    contains the weights of all members once more. Empty: the model is for ``hstf predict`` only."""
