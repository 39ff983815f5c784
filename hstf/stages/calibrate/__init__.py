"""The stage ``calibrate``: learn from out-of-fold predictions how reliable predictions are."""
