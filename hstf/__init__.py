"""Iterative self-training of 3D medical image segmentation, with every pseudo-label on disk."""

__version__ = "0.2.0"
