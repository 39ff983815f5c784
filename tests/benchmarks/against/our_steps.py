"""Train with hstf in turns: ``python -m against.our_steps --config FILE --patch X Y Z ...``."""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from training_speed import make_plan, read_config

from against.turns import Turn
from hstf.config.experiment import Config
from hstf.config.training import CscConfig
from hstf.stages.plan.timed_training import Training, objective_of
from hstf.training.batch import Batch
from hstf.training.state import TrainingState

ENDLESS = 10_000
"""Steps of the training, of which only the first are done."""
NO_CONSISTENCY = {"prediction_weight": 0.0, "feature_weight": 0.0, "pyramid_weight": 0.0}
CONSISTENCY = {
    "default": {},
    "views": NO_CONSISTENCY,
    "none": NO_CONSISTENCY | {"segmentation_weight": 0.0},
}
"""Weights of cross-scale consistency: those of the defaults, without consistency at other scales,
and without other scales."""


def with_consistency(config: Config, name: str) -> Config:
    """Return the configuration with one of :data:`CONSISTENCY`."""
    csc = CscConfig().model_copy(update=CONSISTENCY[name])
    student = config.student.model_copy(update={"csc": csc})
    return config.model_copy(update={"student": student})


def main() -> None:
    """Train until nobody asks for another turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, nargs="+", required=True)
    parser.add_argument("--stage", choices=["warmup", "student"], required=True)
    parser.add_argument("--patch", type=int, nargs=3, required=True)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--csc", choices=sorted(CONSISTENCY), help="replaces student.csc")
    args = parser.parse_args()
    config = read_config(args)
    if args.csc:
        config = with_consistency(config, args.csc)
    # A turn has as many consistency steps as any other turn.
    turn = Turn(max(2, config.student.csc.every))
    objective = objective_of(config, args.stage)

    def in_turns(state: TrainingState, batch: Batch) -> Mapping[str, Tensor]:
        turn.step()
        return objective(state, batch)

    with tempfile.TemporaryDirectory() as folder:
        Training.of(config, make_plan(config), args.stage, Path(folder)).run(ENDLESS, in_turns)


if __name__ == "__main__":
    main()
