"""Synthetic data sets in the layouts of public ones."""
