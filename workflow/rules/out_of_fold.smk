# Each labelled case is predicted by the warm-up member that has not seen it. What the labels and these predictions
# show about the anatomy is all that round 0's evaluation needs, so an edit of `refine:` does not run it again.


rule out_of_fold:
    input:
        plan=LAYOUT.plan,
        cases=[LAYOUT.preprocessed_table(shard) for shard in LABELLED],
        models=[LAYOUT.weights(0, member) for member in SCHEDULE.folds],
        key=key("out_of_fold"),
    output:
        tables=[LAYOUT.out_of_fold_table(fold) for fold in SCHEDULE.held_out],
        anatomy=LAYOUT.anatomy_rules,
    log:
        LOGS / "out_of_fold.log",
    benchmark:
        BENCHMARKS / "out_of_fold.tsv"
    threads: side_by_side(1)
    resources:
        mem_mb=memory(16000),
        runtime=720,
        gpu=GPU,
    params:
        config=str(LAYOUT.config),
    message:
        "predicting the labelled cases out of fold"
    shell:
        "hstf out_of_fold --config {params.config:q} > {log:q} 2>&1"
