"""``hstf export``: copy the model of a round into a folder that needs nothing else.

It is the round with the best Dice on validation cases or, without them, the last round whose model
has not collapsed (:mod:`hstf.scoring.round_choice`).

The folder can be moved to another machine and used with ``hstf predict``, which runs no code from
it. It names no case:

- ``model.json``: what prediction needs, see :class:`hstf.method.exported_model.ExportedModel`;
- ``members/<member>.pt``: the weights;
- ``configs``, ``models`` and ``docs``: the same model as a MONAI bundle, see
  :mod:`hstf.method.bundle.folder`;
- ``SHA256SUMS``: the SHA-256 of these files, for ``hstf predict`` and ``sha256sum --check``;
- ``README.md``: the model card;
- ``.exported.sha256``: the SHA-256 of all files that the export wrote. The next export keeps other
  files and edited texts, see :mod:`hstf.method.bundle.owner_files`.
"""

import argparse
import html
import importlib.metadata
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from hstf import __version__
from hstf.config.experiment import Config
from hstf.config.load import load_config
from hstf.experiment.cases import Split, names_of
from hstf.experiment.context import StageContext
from hstf.experiment.plan import Plan
from hstf.experiment.round_tables import LABELS
from hstf.experiment.score_tables import EVALUATION_MEMBERS
from hstf.imaging.intensity_ranges import IntensityRange
from hstf.method.bundle.folder import write_bundle, write_bundle_texts
from hstf.method.bundle.metadata import INTENDED_USE
from hstf.method.bundle.owner_files import (
    CARD,
    OwnerFiles,
    find_owner_files,
    keep_owner_files,
    write_record,
)
from hstf.method.exported_model import (
    FORMAT,
    MODEL_FILE,
    ExportedModel,
    ModelMember,
    ModelProvenance,
    ModelScores,
    weights_path,
    write_digests,
)
from hstf.method.plr.calibration import Calibration, prediction_rules
from hstf.method.plr.scan_quality import QualityModel
from hstf.models.base import SegmentationNetwork
from hstf.models.registry import load_network, save_network
from hstf.runtime.errors import HstfError, few, join_problems
from hstf.runtime.files import complete_folder, recover_folder, sha256_file, write_text
from hstf.runtime.shards import read_shard
from hstf.scoring.averages import describe
from hstf.scoring.documents import EvaluationSummary
from hstf.scoring.round_choice import RoundChoice, choose_round
from hstf.scoring.round_comparison import is_scored_on_other_cases
from hstf.scoring.significance import balanced_interval
from hstf.stages.plan.fingerprint import Fingerprint

PACKAGES = ("torch", "monai", "numpy", "nibabel", "scipy")
PSEUDO_LABELS = "pseudo-labels"
REJECTED = f"{PSEUDO_LABELS} rejected"
PRIVATE = {"trained_on", "held_out"}
"""Facts in the files of weights that name cases. They do not leave the site."""


def run(args: argparse.Namespace) -> int:
    """Export the model of the last or best round."""
    folder, choice = export(load_config(*args.config), args.member)
    print(f"export: round {choice.round}. {choice.reason}")
    model = shlex.quote(str(folder))
    command = f"hstf predict --model {model} --input SCANS --output SEGMENTATIONS"
    print(f"exported to {folder}; segment with: {command}")
    return 0


def export(config: Config, member: str | None = None) -> tuple[Path, RoundChoice]:
    """Choose a round and write its model. The folder appears complete or not at all.

    Files that people added to the last export, and an edited licence or guide, are kept.

    Args:
        config: the whole configuration.
        member: name of the only ensemble member to export, into a folder of its own; None for the
            whole ensemble.

    Returns:
        The folder, and which round was chosen.

    Raises:
        HstfError: if weights are missing or damaged; the message names all that are missing. Also
            if there is no such member, if ``labels.csv`` lacks cases, if somebody has changed
            other files of the last export, or if the folder cannot be written.
    """
    choice = choose_round(StageContext.of(config, "export"))
    context = StageContext.of(config, "export", choice.round)
    layout = context.layout
    target = layout.export if member is None else layout.exported_member(member)
    recover_folder(target)
    of_owner = find_owner_files(target)
    _refuse_changed(target, of_owner)
    weights = {}
    for name in _exported_members(context, member):
        weights[name] = layout.weights(context.round, name)
    missing = [str(path) for path in weights.values() if not path.is_file()]
    if missing:
        raise join_problems(
            f"Round {choice.round} has no model yet. Run the workflow first.", missing
        )
    with complete_folder(target) as folder:
        members, networks = _copy_weights(weights, folder)
        model = _exported_model(context, members, choice)
        model.save(folder / MODEL_FILE)
        write_bundle(folder, model, networks, context.config.export.programs)
        write_digests(folder)
        write_text(folder / CARD, model_card(model))
        write_bundle_texts(folder, model)
        write_record(folder)
        edited = keep_owner_files(target, folder, of_owner)
    _print_kept(target, of_owner.added, edited)
    return target, choice


def _exported_members(context: StageContext, member: str | None) -> list[str]:
    """Return the ensemble members to export.

    Raises:
        HstfError: if the round has no such member.
    """
    members = context.schedule.members(context.round)
    if member is None:
        return members
    if member not in members:
        raise HstfError(
            f"--member {member}: round {context.round}, which is exported, has no such member."
            f" There are {', '.join(members)}."
        )
    return [member]


def _refuse_changed(folder: Path, of_owner: OwnerFiles) -> None:
    """Refuse to replace files of an exported model that somebody has changed.

    Raises:
        HstfError: if there are such files.
    """
    problems = [f"{folder / name} was changed after it was exported" for name in of_owner.changed]
    for name in of_owner.unknown:
        problems.append(f"{folder / name} may have been edited: its SHA-256 was not recorded")
    if problems:
        raise join_problems(
            f"{folder}: has changed since it was exported. Move the folder away to keep the"
            f" changes, or delete these files, and export again. Text of your own in {CARD} can be"
            " moved to a file with another name, which is kept.",
            problems,
        )


def _print_kept(folder: Path, added: Sequence[str], edited: Sequence[str]) -> None:
    """Print which files of the last export were kept."""
    if added:
        print(f"export: kept files that were added to {folder}: {few(added)}", flush=True)
    for name in edited:
        print(
            f"export: kept {folder / name}, which was edited. Delete it and export again to have it"
            " written anew.",
            flush=True,
        )


def _copy_weights(
    weights: Mapping[str, Path], folder: Path
) -> tuple[list[ModelMember], list[SegmentationNetwork]]:
    """Save the weights of each member without the names of cases, and return the networks."""
    members = []
    networks = []
    for name, path in weights.items():
        network, facts = load_network(path)
        public = {key: value for key, value in facts.items() if key not in PRIVATE}
        target = weights_path(folder, name)
        save_network(target, network, public)
        members.append(
            ModelMember(
                name=name,
                sha256=sha256_file(target),
                trained_as=sha256_file(path),
            )
        )
        networks.append(network)
    return members, networks


def _exported_model(
    context: StageContext, members: list[ModelMember], choice: RoundChoice
) -> ExportedModel:
    config = context.config
    training = config.student if context.round else config.warmup
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return ExportedModel(
        format=FORMAT,
        experiment=context.experiment,
        members=members,
        labels=dict(
            zip(
                config.class_names,
                config.class_values,
                strict=True,
            )
        ),
        modalities=dict(config.modalities),
        predict=config.predict,
        preprocess=config.preprocess,
        plan=Plan.load(context.layout.plan),
        intensities=_intensities(context),
        structure=prediction_rules(config, context.layout),
        quality=QualityModel.of(
            Calibration.load(context.layout.calibration),
            config.structures,
            context.config_of_round(0).teacher.tta,
        ),
        provenance=ModelProvenance(
            hstf=__version__,
            round=context.round,
            steps=training.steps,
            cases=_case_counts(context),
            packages=packages,
            scores=_scores(context, [member.name for member in members]),
            choice=choice,
            method=context.config.method,
            learns_from=context.schedule.learns_from(context.round),
        ),
    )


def _intensities(context: StageContext) -> dict[str, IntensityRange]:
    """Return the intensities of the training scans by modality, which name no case."""
    scans = []
    for scan in Fingerprint.load(context.layout.fingerprint).read:
        if scan.intensities is not None:
            scans.append(scan.intensities)
    if not scans:
        return {}
    channels = zip(*scans, strict=True)
    return {
        name: IntensityRange.of(percentiles)
        for name, percentiles in zip(context.config.modalities, channels, strict=True)
    }


def _case_counts(context: StageContext) -> dict[str, int]:
    """Count the cases of each split, and the pseudo-labels of the round by source."""
    counts = {str(split): len(context.cases(split)) for split in Split}
    if not counts[Split.VALIDATION]:
        del counts[Split.VALIDATION]
    if not context.schedule.has_pseudo_labels(context.round):
        return counts
    table = context.layout.labels_table(context.round)
    unlabelled = names_of(context.cases(Split.UNLABELLED))
    rows = read_shard(LABELS, table, unlabelled, verify=False)
    for source, count in Counter(row["source"] for row in rows.values()).items():
        counts[f"{PSEUDO_LABELS} {source}"] = count
    return counts


def _scores(context: StageContext, members: Sequence[str]) -> ModelScores | None:
    """Return the test Dice of the exported members.

    None if they are not evaluated, or if a warm-up of another experiment was scored on its cases.
    """
    path = context.layout.evaluation_summary(context.round)
    if not path.is_file() or (not context.round and is_scored_on_other_cases(context)):
        return None
    if list(members) != context.schedule.members(context.round):
        return _scores_of_member(context, members[0])
    summary = EvaluationSummary.load(path)
    classes = {name: scores.dice for name, scores in summary.classes.items()}
    return ModelScores(
        cases=summary.cases,
        dice=summary.dice,
        classes=classes,
    )


def _scores_of_member(context: StageContext, member: str) -> ModelScores:
    """Return the test Dice of one ensemble member."""
    frame = EVALUATION_MEMBERS.read(context.layout.evaluation_members(context.round))
    rows = frame[frame["member"] == member]
    table = rows.pivot(index="case_id", columns="class", values="dice")
    patients = {case.case_id: case.group for case in context.cases(Split.TEST)}
    names = list(rows["class"].unique())
    return ModelScores(
        cases=len(table),
        dice=balanced_interval(
            table[names].to_numpy(dtype=float),
            [patients[case_id] for case_id in table.index],
        ),
        classes={name: describe(table[name].dropna()) for name in names},
    )


CARD_TEXT = """# {experiment}

Segments {classes} in 3D scans ({modalities}).

    hstf predict --model THIS_FOLDER --input scan.nii.gz --output segmentations/

| | |
|---|---|
| method | {method}; {members} |
| training cases | {trained_on} |
| other cases | {others} |
| grid | {spacing} mm, patch {patch} voxels |
| label values | {labels} |
| made with | hstf {hstf}, torch {torch} |

## Why this round

{reason}

## Accuracy on the test cases

{scores}

## Intended use

{use}
The model was trained on the scans of this experiment. Other scanners, protocols, fields of view and
patients are untested.
"""


def model_card(model: ExportedModel) -> str:
    """Return ``README.md`` of an exported model."""
    provenance = model.provenance
    modalities = [f"{name}: {kind.upper()}" for name, kind in model.modalities.items()]
    trained_on, others = _case_texts(provenance)
    labels = [f"{value} {name}" for name, value in model.labels.items()]
    return CARD_TEXT.format(
        experiment=as_markdown(model.experiment),
        classes=as_markdown(", ".join(list(model.labels)[1:])),
        modalities=as_markdown(", ".join(modalities)),
        method=_method_text(provenance),
        members=_members_text([member.name for member in model.members]),
        trained_on=", ".join(trained_on),
        others=", ".join(others) or "none",
        spacing=" x ".join(f"{mm:g}" for mm in model.plan.spacing),
        patch=" x ".join(str(voxels) for voxels in model.plan.patch_size),
        labels=as_markdown(", ".join(labels)),
        hstf=provenance.hstf,
        torch=provenance.packages["torch"],
        reason=provenance.choice.reason if provenance.choice else "",
        scores=_score_lines(provenance.scores, provenance.cases.get(Split.TEST, 0)),
        use=INTENDED_USE,
    )


def as_markdown(text: str) -> str:
    r"""Return a text that is shown as it is, also in a cell of a Markdown table.

    Example:
        >>> print(as_markdown("left | right"))
        left \| right
    """
    return html.escape(text, quote=False).replace("|", "\\|")


def _method_text(provenance: ModelProvenance) -> str:
    if not provenance.round:
        return "initial supervised training (warm-up)"
    return f"{provenance.method or 'self-training'}, round {provenance.round}"


def _case_texts(provenance: ModelProvenance) -> tuple[list[str], list[str]]:
    """Return the numbers of the cases that the model has learned from, and of all others."""
    trained_on = []
    others = []
    counts = provenance.cases
    has_pseudo_labels = any(kind.startswith(PSEUDO_LABELS) for kind in counts)
    for kind, count in counts.items():
        text = f"{count} {kind}"
        if kind == Split.UNLABELLED and has_pseudo_labels:
            continue  # counted by the source of their pseudo-labels
        if kind == Split.UNLABELLED and provenance.learns_from == "images":
            trained_on.append(f"{text} (images only)")
        elif kind == Split.LABELLED or (kind.startswith(PSEUDO_LABELS) and kind != REJECTED):
            trained_on.append(text)
        else:
            others.append(text)
    return trained_on, others


def _members_text(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"one network ({names[0]})"
    return f"an ensemble of {len(names)} members ({', '.join(names)})"


def _score_lines(scores: ModelScores | None, test_cases: int) -> str:
    """Return a Markdown table of the scores.

    Args:
        scores: the scores; None if the round was not evaluated on these test cases.
        test_cases: number of test cases in the case sheet.
    """
    if scores is None and test_cases:
        return (
            "Not measured on the test cases of this experiment: the model was exported before they"
            " were scored, or it is the warm-up of an experiment with other test cases."
        )
    if scores is None or not scores.cases:
        return "Not measured: there were no test cases."
    lines = ["| class | mean Dice | standard deviation | cases |", "|---|---|---|---|"]
    for name, dice in scores.classes.items():
        cells = [as_markdown(name), _number(dice.mean), _number(dice.sd), str(dice.cases)]
        lines.append(f"| {' | '.join(cells)} |")
    mean = scores.dice
    interval = f"{_number(mean.low)} to {_number(mean.high)}"
    lines.append("")
    lines.append(
        f"Mean over classes: {_number(mean.mean)} (95% interval {interval}),"
        f" {mean.patients} patients."
    )
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
