"""The ideas of the method: ensemble, cross-scale consistency, refinement, training objectives."""
