# The last round's model as one folder, which `hstf predict --model` takes.


rule export:
    input:
        plan=LAYOUT.plan,
        models=weights(CONFIG.rounds),
    output:
        EXPORTED,
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
        parameters=parameters("export"),
    message:
        "exporting the model of the last round"
    shell:
        "hstf export --config {params.config:q} > {log:q} 2>&1"
