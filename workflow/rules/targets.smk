# Names to ask for: a stage (`teacher`), or a stage of a round (`round_1_teacher`). The stages that are one job (`check`,
# `plan`, `calibrate`, `report`, `export`) are rules by their name.


def round_targets(number):
    """Files of each stage of a round."""
    files = {
        "evaluate": LAYOUT.evaluation_summary(number),
        "track": LAYOUT.track(number),
    }
    if number in PSEUDO_LABELLED:
        files["teacher"] = [LAYOUT.teacher_table(number, shard) for shard in UNLABELLED]
        files["refine"] = LAYOUT.refine(number)
        files["labels"] = LAYOUT.labels_table(number)
    if number > 0:
        files["student"] = weights(number)
    return files


def targets():
    """Files by the name to ask for."""
    rounds = {number: round_targets(number) for number in (0, *ROUNDS)}
    names = dict.fromkeys(stage for files in rounds.values() for stage in files)
    stages = {stage: [files[stage] for files in rounds.values() if stage in files] for stage in names}
    return {
        "preprocess": [LAYOUT.preprocessed_table(shard) for shard in (*LABELLED, *UNLABELLED)],
        "warmup": weights(0),
        **stages,
        **{f"round_{number}_{stage}": f for number, files in rounds.items() for stage, f in files.items()},
    }


for _name, _files in targets().items():

    rule:
        name:
            _name
        input:
            _files,
