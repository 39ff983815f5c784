"""What a student learns from a batch: an objective for each method, all in the same training loop."""
