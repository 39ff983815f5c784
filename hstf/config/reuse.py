"""``reuse:``, results of other experiments."""

from typing import Self

from pydantic import model_validator

from hstf.config.section import FileName, Section


class ReuseConfig(Section):
    """Start from the results of another experiment.

    Its files are read where they are and never written. The stages that wrote
    them do not run in this experiment, and their sections have no effect here.
    """

    data: FileName | None = None
    """Folder of the experiment (``results/hippocampus``) whose check, plan and preprocessed scans
    are used. It must have the same cases, labels and modalities."""
    warmup: FileName | None = None
    """Folder of the experiment whose warm-up models and their test scores are used. It must use the
    same ``data``."""

    @model_validator(mode="after")
    def _check_warmup(self) -> Self:
        if self.warmup is not None and self.data is None:
            raise ValueError(
                "reuse.warmup needs reuse.data: the experiment with the plan of the warm-up"
            )
        return self
