"""``compare:``, the comparison of methods."""

from typing import Annotated

from pydantic import Field

from hstf.config.methods import Method
from hstf.config.section import Section


class CompareConfig(Section):
    """Methods to compare on the data of the experiment.

    ``snakemake compare`` runs each method with each seed.
    """

    methods: tuple[Method, ...] = ("supervised", "noisy_student", "hstf")
    """Values of ``method``. Each method is tested against ``supervised`` and ``noisy_student``.
    ``full`` needs a label of every unlabelled case, as in a benchmark. If the warm-up and ``full``
    are there, the fraction of the gap between them that a method closes is computed."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0, 1, 2)
    """Values of ``seed``. A seed decides the folds of the warm-up, the first weights, and the order
    of the patches."""
    scales: tuple[Annotated[float, Field(gt=0)], ...] = (0.6, 0.8, 1.0, 1.2, 1.4, 1.6)
    """Input scales at which the models of the last round are scored; none: this figure is left
    out."""
    scale_cases: int = Field(10, ge=0)
    """Number of test cases that are scored at each scale, evenly spaced in the case sheet; 0:
    all."""
