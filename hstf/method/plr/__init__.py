"""Pseudo-label refinement (PLR): from the views of the ensemble to label, weights and verdict."""
