# Names to ask for: a stage (`teacher`), or a stage of a round (`round_1_teacher`). `check`, `plan`, `calibrate`,
# `report` and `export` are rules themselves.

for _name, _files in targets().items():

    rule:
        name:
            _name
        input:
            _files,
