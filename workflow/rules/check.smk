# All problems of all scans and labels in one go, before any compute is spent. All training waits for it, so
# it depends on what training reads. A test case or withheld label that changes later concerns `evaluate` only.


rule check:
    input:
        images=[image for case in TRAINING for image in case.images],
        labels=[case.training_label for case in SHEET.of(Split.LABELLED)],
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
        cases={case.case_id: [case.split, case.group] for case in TRAINING},
        parameters=parameters("check"),
    message:
        "checking all scans"
    shell:
        "hstf check --config {params.config:q} > {log:q} 2>&1"
