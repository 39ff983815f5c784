"""Training: patches, the loop, and the state that lets it go on where it was interrupted."""
