"""An exported model as a MONAI bundle: programs, configuration and description."""
