"""Volumes, their geometry, and operations on them."""
