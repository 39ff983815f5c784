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
