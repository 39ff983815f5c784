# Names of targets: a stage (`teacher`), or a stage of a round (`round_1_teacher`). Stages with one job (`check`,
# `plan`, `calibrate`, `report`, `export`) are rules with these names.


def round_targets(number):
    """Files of each stage of a round."""
    validation = [LAYOUT.validation_summary(number)] if VALIDATION else []
    files = {
        "evaluate": [LAYOUT.evaluation_summary(number), *validation],
        "track": LAYOUT.track(number),
    }
    if JOBS.monitored_cases:
        files["monitor"] = LAYOUT.monitor(number)
    if number in PSEUDO_LABELLED:
        files["teacher"] = [LAYOUT.teacher_table(number, shard) for shard in UNLABELLED]
        if JOBS.ranks_lesions(number):
            files["lesions"] = LAYOUT.lesion_bounds(number)
        files["refine"] = LAYOUT.refine(number)
        files["labels"] = LAYOUT.labels_table(number)
    if number > 0:
        files["student"] = weights(number)
    return files


def targets():
    """The files of each target."""
    files = {
        "preprocess": [LAYOUT.preprocessed_table(shard) for shard in (*LABELLED, *UNLABELLED)],
        "warmup": [LAYOUT.weights(0, member) for member in SCHEDULE.trained(0)],
    }
    of_rounds = {}
    for number in (0, *ROUNDS):
        for stage, stage_files in round_targets(number).items():
            files.setdefault(stage, []).append(stage_files)
            of_rounds[f"round_{number}_{stage}"] = stage_files
    if JOBS.external:
        files["external"] = external_results()
    return files | of_rounds


for _name, _files in targets().items():

    rule:
        name:
            _name
        input:
            _files,
