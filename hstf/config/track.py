"""``track:``, MLflow. CSV and JSON files are the truth; tracking shows them and never fails a run."""

import re

from pydantic import Field, field_validator

from hstf.config.section import Section

CREDENTIALS = re.compile(
    r"(?<=://)[^\s/]*@|(?<=[?&])(?:[\w-]*(?:password|token|secret|key))=[^\s&\"']*", re.IGNORECASE
)


class TrackConfig(Section):
    """Where runs are shown."""

    enabled: bool = True
    """Log parameters, metrics and artefacts to MLflow."""
    uri: str = "sqlite:///mlflow.db"
    """A sqlite file, or the address of a server; a password belongs in MLFLOW_TRACKING_PASSWORD, not here."""
    timeout_seconds: int = Field(10, ge=1)
    """Seconds to wait for each answer of a tracking server."""

    @field_validator("uri")
    @classmethod
    def _is_address(cls, uri: str) -> str:
        if "://" not in uri:
            raise ValueError(f"{uri!r} is no address: write sqlite:///mlflow.db or https://server")
        return uri


def without_credentials(text: str) -> str:
    """``text`` with every user, password and token of an address replaced by ``***``."""
    return CREDENTIALS.sub(lambda match: "***@" if match[0].endswith("@") else "***", text)
