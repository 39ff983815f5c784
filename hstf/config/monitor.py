"""``monitor:``, what is watched in each round without any label, and when a run stops."""

from typing import Literal

from pydantic import Field

from hstf.config.section import Section


class MonitorConfig(Section):
    """Guards: a class vanishes or shrinks, members disagree, or weights are near zero.

    The model of each round predicts some unlabelled cases. No label of them is read.
    """

    cases: int = Field(20, ge=0)
    """Number of unlabelled cases that the model of each round predicts, evenly spaced in the case
    sheet; 0 turns the stage off."""
    on_collapse: Literal["stop", "continue"] = "stop"
    """After a collapse, do not start the next round (``stop``), or go on (``continue``). A
    collapsed round is never exported if an earlier round is sound."""
    minimum_volume: float = Field(0.5, ge=0, le=1)
    """A class that every labelled case has has collapsed if its volume is below this fraction of
    that of an earlier round and below this fraction of that of the labelled cases. Scribbles show
    no volume: if all labels are scribbles, only the earlier round counts."""
    minimum_presence: float = Field(0.5, ge=0, le=1)
    """Such a class has also collapsed if it is found in fewer cases than this fraction of those of
    an earlier round. Any other class has collapsed if it is found in no case, and an earlier round
    found it in a quarter of them; 0 turns both off."""
    minimum_agreement: float = Field(0.2, ge=0, le=1)
    """An ensemble has collapsed if the mean pairwise Dice of its members is lower."""
    minimum_weight: float = Field(0.05, ge=0, le=1)
    """The pseudo-labels of a round are useless if their mean voxel weight is lower."""
