"""Commands that are no stage of the workflow."""
