# The model of the last or best round as one folder, for `hstf predict --model`.


rule export:
    input:
        plan=LAYOUT.plan,
        fingerprint=LAYOUT.fingerprint,
        anatomy=LAYOUT.anatomy_rules,
        calibration=LAYOUT.calibration,
        evidence=evidence(),
        models=[weights(number) for number in (0, *ROUNDS)],
        results=[results(number) for number in (0, *ROUNDS)],
        key=key("export"),
    output:
        model=LAYOUT.export / "model.json",
        metadata=LAYOUT.export / "configs" / "metadata.json",
        digests=LAYOUT.export / "SHA256SUMS",
        card=LAYOUT.export / "README.md",
    log:
        LOGS / "export.log",
    benchmark:
        BENCHMARKS / "export.tsv"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=30,
    params:
        config=str(LAYOUT.config),
    message:
        "exporting the model"
    shell:
        "hstf export --config {params.config:q} > {log:q} 2>&1"
