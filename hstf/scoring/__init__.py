"""Metrics, lesion detection, confidence intervals and tests, and documents of scores."""
