# All problems of all scans and labels at once, before any training. Every training waits for this rule, so it
# depends only on what a training reads. If a test case or a withheld label changes later, only `evaluate` runs
# again.


rule check:
    input:
        images=[image for case in TRAINING for image in case.images],
        labels=[case.training_label for case in SHEET.of(Split.LABELLED)],
        key=key("check"),
    output:
        report(LAYOUT.check, category="Data", caption="../report/check.rst"),
    log:
        LOGS / "check.log",
    benchmark:
        BENCHMARKS / "check.tsv"
    threads: side_by_side(1)
    resources:
        mem_mb=memory(8000),
        runtime=240,
    params:
        config=str(LAYOUT.config),
    message:
        "checking all scans"
    shell:
        "hstf check --config {params.config:q} > {log:q} 2>&1"
