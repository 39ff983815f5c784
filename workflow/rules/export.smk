# The last round's model as one folder, for `hstf predict --model`.


rule export:
    input:
        plan=LAYOUT.plan,
        fingerprint=LAYOUT.fingerprint,
        anatomy=LAYOUT.anatomy_rules,
        models=weights(CONFIG.rounds),
        results=results(CONFIG.rounds),
        key=key("export"),
    output:
        model=LAYOUT.export / "model.json",
        metadata=LAYOUT.export / "configs" / "metadata.json",
        digests=LAYOUT.export / "SHA256SUMS",
        card=LAYOUT.export / "README.md",
        members=[
            LAYOUT.export / "members" / f"{member}.pt"
            for member in SCHEDULE.members(CONFIG.rounds)
        ],
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
        "exporting the model of the last round"
    shell:
        "hstf export --config {params.config:q} > {log:q} 2>&1"
