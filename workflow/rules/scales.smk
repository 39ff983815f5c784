# The last round's model on test cases at other input scales, for a figure of the comparison.


rule evaluate_scales:
    input:
        plan=LAYOUT.plan,
        anatomy=LAYOUT.anatomy_rules,
        models=round_weights,
        images=[image for case in SCALED for image in case.images],
        references=references(SCALED),
        key=key("evaluate_scales"),
    output:
        LAYOUT.evaluation_scales("{round}"),
    log:
        LOGS / "evaluate" / "round_{round}_scales.log",
    benchmark:
        BENCHMARKS / "evaluate" / "round_{round}_scales.tsv"
    threads: side_by_side(1)
    resources:
        mem_mb=memory(16000),
        runtime=720,
        gpu=GPU,
    params:
        config=str(LAYOUT.config),
    message:
        "round {wildcards.round}: scoring at other input scales"
    shell:
        "hstf evaluate --config {params.config:q} --round {wildcards.round} --scales > {log:q} 2>&1"
