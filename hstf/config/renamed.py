"""Keys and values that were renamed in version 0.2.0.

A renamed key is an error that names the new key. A renamed value is still read, with a message.
"""

RENAMED: dict[str, str] = {
    "warmup.held_gb": "warmup.gpu_cache_gb",
    "student.held_gb": "student.gpu_cache_gb",
    "warmup.mixing.share": "warmup.mixing.fraction",
    "student.mixing.share": "student.mixing.fraction",
    "refine.share": "refine.accepted_fraction",
    "calibrate.smallest_pass": "calibrate.minimum_pass_fraction",
}
"""Old path of a key, with dots between the sections, and its new path."""

REMOVED: dict[str, str] = {
    "warmup.nodes": "training uses the GPUs of one machine; set warmup.gpus",
    "student.nodes": "training uses the GPUs of one machine; set student.gpus",
}
"""Path of a key that no longer exists, and what to do instead."""

RENAMED_VALUES: dict[tuple[str, str], str] = {
    ("student.start", "warmup"): "previous_round",
}
"""Path of a key and its old value, and the new value."""
