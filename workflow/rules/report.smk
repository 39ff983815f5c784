# One HTML file about the experiment, and the table of its rounds.


rule report:
    input:
        LAYOUT.check,
        LAYOUT.fingerprint,
        LAYOUT.plan,
        LAYOUT.calibration,
        evidence(),
        pretraining(),
        [results(number) for number in (0, *ROUNDS)],
        control(),
        external_results(),
        key=key("report"),
    output:
        html=report(LAYOUT.report, category="Report", caption="../report/report.rst"),
        itksnap_labels=LAYOUT.itksnap_labels,
        slicer_colours=LAYOUT.slicer_colours,
        provenance=LAYOUT.provenance,
        manifest=LAYOUT.manifest,
        rounds=report(LAYOUT.rounds_table, category="Report", caption="../report/rounds.rst"),
    log:
        LOGS / "report.log",
    benchmark:
        BENCHMARKS / "report.tsv"
    threads: 1
    resources:
        mem_mb=memory(8000),
        runtime=120,
    params:
        config=str(LAYOUT.config),
    message:
        "writing the report"
    shell:
        "hstf report --config {params.config:q} > {log:q} 2>&1"
