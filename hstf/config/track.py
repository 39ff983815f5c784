"""``track:``, MLflow. CSV and JSON files are the truth; tracking shows them and never fails a run."""

import re

from pydantic import Field, field_validator

from hstf.config.section import Section

VARIABLE = re.compile(r"\$\{(\w+)\}")
"""An environment variable in an address: ``postgresql://hstf:${PASSWORD}@host/mlflow``."""
CREDENTIALS = re.compile(
    r"(?<=://)[^\s/]*@|(?<=[?&])(?:[\w-]*(?:password|token|secret|key))=[^\s&\"']*", re.IGNORECASE
)

PASSWORD = re.compile(
    r"://[^\s/@]*:[^\s/]+@|[?&][\w-]*(?:password|token|secret|key)=[^\s&]+", re.IGNORECASE
)


class TrackConfig(Section):
    """Where runs are shown."""

    enabled: bool = True
    """Log parameters, metrics and artefacts to MLflow."""
    uri: str = "sqlite:///mlflow.db"
    """A sqlite file, or the address of a server or database. User and password of a server belong in the environment, as
    MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; a database takes them as `postgresql://me:${NAME}@host/mlflow`."""
    timeout_seconds: int = Field(10, ge=1)
    """Seconds to wait for each answer of a tracking server."""

    @field_validator("uri")
    @classmethod
    def _is_address(cls, uri: str) -> str:
        """Nothing secret: the configuration is written into results, logs and reports."""
        if "://" not in uri:
            raise ValueError("is no address: write sqlite:///mlflow.db or https://server")
        plain = VARIABLE.sub("", uri)
        if uri.startswith("http") and without_credentials(plain) != plain:
            raise ValueError(
                "holds a user, password or token, which would be written into results and logs: set them as"
                " MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment"
            )
        if PASSWORD.search(plain):
            raise ValueError(
                "holds a password, which would be written into results and logs: put it into an environment variable"
                " and write ${ITS_NAME} in its place"
            )
        return uri


def without_credentials(text: str) -> str:
    """``text`` with every user, password and token of an address replaced by ``***``."""
    return CREDENTIALS.sub(lambda match: "***@" if match[0].endswith("@") else "***", text)
