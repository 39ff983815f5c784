"""Synthetic data sets with known labels."""
