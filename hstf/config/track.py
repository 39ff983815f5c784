"""``track:``, MLflow.

CSV and JSON files are the record. Tracking shows them and never fails a run.
"""

import re
from typing import Literal

from pydantic import Field, field_validator

from hstf.config.section import Section
from hstf.runtime.home import expand_home

SQLITE = "sqlite:///"
"""Start of the address of a sqlite file."""
VARIABLE = re.compile(r"\$\{(\w+)\}")
"""An environment variable in an address: ``postgresql://hstf:${HSTF_PASSWORD}@host/mlflow``."""
ALLOWED_VARIABLES = ("HOME", "USER", "MLFLOW_TRACKING_URI")
"""Variables that an address may name, as well as those that begin with :data:`ALLOWED_PREFIX`."""
ALLOWED_PREFIX = "HSTF_"
CREDENTIALS = re.compile(
    r"(?<=://)[^\s/]*@|(?<=[?&])(?:[\w-]*(?:password|token|secret|key))=[^\s&\"']*", re.IGNORECASE
)
"""User, password or token in an address."""
PASSWORD = re.compile(
    r"://[^\s/@]*:[^\s/]+@|[?&][\w-]*(?:password|token|secret|key)=[^\s&]+", re.IGNORECASE
)
"""A password or token in an address; a user name without a password is allowed."""


class TrackConfig(Section):
    """Logging to MLflow."""

    enabled: bool = True
    """Log parameters, metrics and artefacts to MLflow."""
    uri: str = "sqlite:///mlflow.db"
    """A sqlite file, or the address of a server or database. Set user and password of a server in
    the environment, as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. For a database write
    `postgresql://me:${HSTF_PASSWORD}@host/mlflow`. Of the environment, only variables that begin
    with HSTF_ and HOME, USER and MLFLOW_TRACKING_URI are replaced: a configuration cannot send
    other secrets of yours to a server."""
    case_files: Literal["local", "always", "never"] = "local"
    """Log overlays and tables with a row for each case: ``local``: only if `uri` is a sqlite file
    and the files stay on this machine; ``always``: to a server, too; ``never``."""
    timeout_seconds: int = Field(10, ge=1)
    """Seconds to wait for each answer of a tracking server."""

    @field_validator("uri")
    @classmethod
    def _check_uri(cls, uri: str) -> str:
        """Refuse secrets, because the configuration is written into results, logs and reports."""
        refused = [name for name in VARIABLE.findall(uri) if not is_allowed_variable(name)]
        if refused:
            raise ValueError(
                f"names the environment variable {', '.join(refused)}; only"
                f" {', '.join(ALLOWED_VARIABLES)} and names that begin with {ALLOWED_PREFIX} are"
                f" replaced. Set {ALLOWED_PREFIX}{refused[0]} and write it instead"
            )
        if "://" not in uri and uri != "${MLFLOW_TRACKING_URI}":
            raise ValueError("is not an address: write sqlite:///mlflow.db or https://server")
        plain = VARIABLE.sub("", uri)
        if uri.startswith("http") and without_credentials(plain) != plain:
            raise ValueError(
                "has a user, password or token, which would be written into results and logs: set"
                " MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or"
                " MLFLOW_TRACKING_TOKEN, in the environment"
            )
        if PASSWORD.search(plain):
            raise ValueError(
                "has a password, which would be written into results and logs: set it as an"
                " environment variable HSTF_PASSWORD and write ${HSTF_PASSWORD} instead"
            )
        if uri.startswith(f"{SQLITE}~"):
            return SQLITE + expand_home(uri.removeprefix(SQLITE))
        return uri


def is_allowed_variable(name: str) -> bool:
    """Return whether an address may name an environment variable."""
    return name in ALLOWED_VARIABLES or name.startswith(ALLOWED_PREFIX)


def without_credentials(text: str) -> str:
    """Return ``text`` with every user, password and token of an address replaced by ``***``."""
    return CREDENTIALS.sub(_mask, text)


def _mask(match: re.Match[str]) -> str:
    return "***@" if match[0].endswith("@") else "***"
