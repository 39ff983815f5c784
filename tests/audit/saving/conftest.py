"""The browser of a reviewer at the audit desk."""

import pytest
from support.audit_desk import Browser

from hstf.audit.desk import Desk


@pytest.fixture
def browser(desk: Desk) -> Browser:
    return Browser(desk, "AB")
