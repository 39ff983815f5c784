"""Tasks of self-supervised pre-training, and their corruptions as pure functions."""
