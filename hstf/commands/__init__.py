"""Subcommands: each reads its arguments and calls the stage of the same name."""
