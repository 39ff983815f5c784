"""``compare:``."""

from typing import Annotated

from pydantic import Field

from hstf.config.methods import Method
from hstf.config.section import Section


class CompareConfig(Section):
    """Methods compared on the data of the experiment: ``snakemake compare`` runs each with each seed."""

    methods: tuple[Method, ...] = ("supervised", "noisy_student", "hstf", "full")
    """Values of ``method``. Each is tested against ``supervised`` and ``noisy_student``, and its share of the gap between
    the warm-up and ``full`` is told, where these are among them."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0, 1, 2)
    """Values of ``seed``: folds of the warm-up, first weights, patches and their order."""
    scales: tuple[Annotated[float, Field(gt=0)], ...] = (0.6, 0.8, 1.0, 1.2, 1.4, 1.6)
    """Input scales at which the last round's models are scored; none: that figure is left out."""
    scale_cases: int = Field(10, ge=0)
    """Test cases, spread evenly over the sheet, that are scored at each scale; 0: all."""
