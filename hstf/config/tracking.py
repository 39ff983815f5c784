"""``tracking:``, MLflow. CSV and JSON files are the truth; tracking shows them and never fails a run."""

from hstf.config.section import Section


class TrackingConfig(Section):
    """Where runs are shown."""

    enabled: bool = True
    """Log parameters, metrics and artefacts to MLflow."""
    uri: str = "sqlite:///mlflow.db"
    """A sqlite file, or the address of a tracking server."""
