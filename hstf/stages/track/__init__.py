"""The stage ``track``: show a round in MLflow."""
