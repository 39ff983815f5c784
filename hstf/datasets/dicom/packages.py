"""The optional packages for DICOM, and a way to use them that prints nothing of the patients."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

NEEDED = ("pydicom", "highdicom")


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
