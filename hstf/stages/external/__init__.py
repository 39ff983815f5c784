"""The stage ``external``."""
