# Every fault of every scan and label, before any compute is spent.


rule check:
    input:
        sheet=CONFIG.cases,
        images=[image for case in SHEET.cases for image in case.images],
        labels=references(SHEET.cases),
    output:
        report(LAYOUT.check, category="Data", caption="../report/check.rst"),
    log:
        LOGS / "check.log",
    benchmark:
        BENCHMARKS / "check.tsv"
    threads: 8
    resources:
        mem_mb=memory(8000),
        runtime=240,
    params:
        config=str(LAYOUT.config),
        parameters=parameters("check"),
    message:
        "checking all scans"
    shell:
        "hstf check --config {params.config:q} > {log:q} 2>&1"
