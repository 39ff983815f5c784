"""``reuse:``."""

from typing import Self

from pydantic import model_validator

from hstf.config.section import Section


class ReuseConfig(Section):
    """Start from what another experiment has computed. Its files are read where they lie and never written: the stages that
    made them are no part of this experiment, and their sections here have no effect."""

    data: str | None = None
    """Folder of the experiment (``results/hippocampus``) whose check, plan and preprocessed scans are used. It has the same
    cases, labels and modalities."""
    warmup: str | None = None
    """Folder of the experiment whose warm-up models, with their test scores, are used. It was made on the same ``data``."""

    @model_validator(mode="after")
    def _warmup_was_made_on_the_data(self) -> Self:
        if self.warmup is not None and self.data is None:
            raise ValueError(
                "reuse.warmup needs reuse.data: the experiment whose plan the warm-up was trained with"
            )
        return self
