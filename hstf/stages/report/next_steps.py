"""Section with the commands of this experiment: correct a label, continue, use the model."""

import shlex
from pathlib import Path

from hstf.experiment.cases import Split
from hstf.experiment.run_arguments import workflow_command
from hstf.stages.report.page import Note, Section
from hstf.stages.report.results import Results
from hstf.stages.report.review import DecisionRows


def next_steps_section(results: Results) -> Section:
    """Return where to save a correction and what to run afterwards."""
    notes = []
    if results.has_pseudo_labels:
        number = results.pseudo_label_rounds[0]
        notes.append(_correct(results, number))
        notes.append(_continue(results, number))
    notes.append(_run_one_stage(results))
    notes.append(_predict(results))
    return Section("act", "What to do next", "", notes)


def _correct(results: Results, number: int) -> Note:
    layout = results.layout
    values = [f"{value} {name}" for name, value in results.config.labels.items()]
    ignored = results.config.ignore_value
    sentences = [
        f"Open round_{number}/pseudo_labels/<case>.nii.gz in a NIfTI editor and correct it. Save it"
        f" as {layout.override(number, '<case>')} with unchanged geometry. The pictures above have"
        f" a command for each case. Names and colours of the classes: {layout.itksnap_labels} for"
        f" ITK-SNAP, {layout.slicer_colours} for 3D Slicer.",
        f"Label values: {', '.join(values)}.",
    ]
    if ignored is not None:
        sentences.append(f"Voxels with the value {ignored} are left out of the training.")
    lines = [
        " ".join(sentences),
        "To accept or reject a pseudo-label without drawing, add a row such as the one below to"
        f" {layout.decisions}.",
        "A decision applies from its round on. Do not edit files in the results folder: the"
        " workflow detects such edits and stops.",
    ]
    command = DecisionRows(layout).lines(number, "<case>", "reject", "")
    return Note(
        lines,
        commands=[command],
        title="Correct or judge a pseudo-label",
    )


def _continue(results: Results, number: int) -> Note:
    run = results.last_run
    arguments = run.arguments if run is not None else None
    lines = [
        "The next run computes only this case, the students that learn from it, and what depends on"
        " them. With -n, Snakemake only lists what it would compute. With a target such as"
        f" round_{number}_labels, it stops after a stage. Targets come before the options: after"
        " --configfile they would be read as files."
    ]
    commands = [
        workflow_command(arguments, is_dry=True),
        workflow_command(arguments),
        workflow_command(arguments, [f"round_{number}_labels"]),
    ]
    return Note(
        lines,
        commands=["\n".join(commands)],
        title="Continue",
    )


def _run_one_stage(results: Results) -> Note:
    config = _quoted(results.layout.config)
    number = min(1, results.last)
    commands = []
    if results.has_pseudo_labels:
        number = results.pseudo_label_rounds[0]
        for stage in ("refine", "labels"):
            commands.append(f"hstf {stage} --config {config} --round {number} --shard unlabelled_0")
    if results.split_counts[Split.TEST] != "0":
        commands.append(f"hstf evaluate --config {config} --round {number} --shard test_0")
    commands.append(f"hstf report --config {config}")
    lines = ["Each stage is a command. It skips the cases that are up to date."]
    return Note(
        lines,
        commands=["\n".join(commands)],
        title="Run one stage",
    )


def _predict(results: Results) -> Note:
    model = _quoted(results.layout.export)
    command = f"hstf predict --model {model} --input SCANS --output SEGMENTATIONS"
    lines = [
        "The exported model does not need the workflow. It is that of the last round that has not"
        " collapsed or, with validation cases, that of the round with the best Dice on them."
    ]
    return Note(
        lines,
        commands=[command],
        title="Use the model",
    )


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
