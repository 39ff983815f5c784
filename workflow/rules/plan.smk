# Spacing, patch, batch and network, from the checked scans.


rule plan:
    input:
        check=LAYOUT.check,  # has the SHA-256 of all scans
        key=key("plan"),
    output:
        fingerprint=LAYOUT.fingerprint,
        plan=report(LAYOUT.plan, category="Data", caption="../report/plan.rst"),
    log:
        LOGS / "plan.log",
    benchmark:
        BENCHMARKS / "plan.tsv"
    threads: side_by_side(1)
    resources:
        mem_mb=memory(8000),
        runtime=240,
    params:
        config=str(LAYOUT.config),
    message:
        "planning"
    shell:
        "hstf plan --config {params.config:q} > {log:q} 2>&1"
