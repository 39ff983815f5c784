# Calibration of confidence and predicted Dice on the out-of-fold predictions of the labelled cases.


rule calibrate:
    input:
        plan=LAYOUT.plan,
        cases=[LAYOUT.preprocessed_table(shard) for shard in LABELLED],
        out_of_fold=[LAYOUT.out_of_fold_table(fold) for fold in SCHEDULE.held_out],
        anatomy=LAYOUT.anatomy_rules,
        key=key("calibrate"),
    output:
        LAYOUT.calibration,
    log:
        LOGS / "calibrate.log",
    benchmark:
        BENCHMARKS / "calibrate.tsv"
    threads: side_by_side(1)
    resources:
        mem_mb=memory(8000),
        runtime=120,
    params:
        config=str(LAYOUT.config),
    message:
        "calibrating on the out-of-fold predictions"
    shell:
        "hstf calibrate --config {params.config:q} > {log:q} 2>&1"


if JOBS.external:

    rule calibrate_round:
        input:
            plan=LAYOUT.plan,
            cases=[LAYOUT.preprocessed_table(shard) for shard in LABELLED],
            out_of_fold=[LAYOUT.out_of_fold_table(fold) for fold in SCHEDULE.held_out],
            anatomy=LAYOUT.anatomy_rules,
            external=[
                LAYOUT.external_table(name, shard) for name in JOBS.external for shard in LABELLED
            ],
            weights=LAYOUT.external_weights,
            key=key("calibrate_round"),
        output:
            LAYOUT.round_calibration("{round}"),
        log:
            LOGS / "calibrate" / "round_{round}.log",
        benchmark:
            BENCHMARKS / "calibrate" / "round_{round}.tsv"
        threads: side_by_side(1)
        resources:
            mem_mb=memory(8000),
            runtime=120,
        params:
            config=str(LAYOUT.config),
        message:
            "round {wildcards.round}: calibrating the mixture with the external teachers"
        shell:
            "hstf calibrate --config {params.config:q} --round {wildcards.round} > {log:q} 2>&1"
