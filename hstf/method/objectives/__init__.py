"""Training objectives: what a network learns from a batch."""
