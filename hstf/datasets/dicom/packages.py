"""The optional packages for DICOM, and a way to use them that prints nothing of the patients."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from hstf.runtime.errors import HstfError

NEEDED = ("pydicom", "highdicom")


def refuse_missing_packages() -> None:
    """Stop if the optional packages are not installed.

    Raises:
        HstfError: with the command that installs them.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise HstfError(
            f"DICOM needs {' and '.join(missing)}. Install the optional packages:"
            " pip install 'hstf[dicom]' (in a copy of the repository: pip install -e '.[dicom]')"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings of the packages, because they quote values such as names of patients.

    Values that break a rule of the standard are read as they are.
    """
    from pydicom import config

    loggers = [logging.getLogger(name) for name in NEEDED]
    levels = [logger.level for logger in loggers]
    mode = config.settings.reading_validation_mode
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    config.settings.reading_validation_mode = config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        config.settings.reading_validation_mode = mode
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
