"""Locales that are not UTF-8."""

import os
import subprocess
import sys

import pytest

from hstf.runtime.encoding import escape_bytes, is_utf8, refuse_unreadable_names
from hstf.runtime.errors import HstfError


def test_refuse_unreadable_names_accepts_any_name_in_utf8() -> None:
    refuse_unreadable_names("cases.csv", ["Müller_日本.nii.gz"])


def test_escape_bytes_changes_names_that_are_not_utf8_only() -> None:
    latin = os.fsdecode(b"M\xfcller.nii")
    assert escape_bytes(latin) == r"M\xfcller.nii"
    assert escape_bytes("Müller_日本.nii") == "Müller_日本.nii"
    assert is_utf8("Müller_日本.nii")
    assert not is_utf8(latin)


def test_refuse_unreadable_names_refuses_names_that_the_locale_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
    refuse_unreadable_names("cases.csv", ["a.nii.gz"])
    with pytest.raises(HstfError) as raised:
        refuse_unreadable_names("Fälle.csv", ["a.nii.gz", "Müller_日本.nii.gz"])
    message = str(raised.value)
    assert message.isascii(), "the locale can show the message"
    assert r"F\xe4lle.csv: the file name 'M\xfcller_\u65e5\u672c.nii.gz'" in message
    assert "export PYTHONUTF8=1" in message


@pytest.mark.parametrize("encoding", ["ascii", "iso8859-1", "utf-8"])
def test_print_any_character_escapes_what_the_locale_cannot_show(encoding: str) -> None:
    code = (
        "import sys\n"
        "from hstf.runtime.encoding import print_any_character\n"
        "print_any_character()\n"
        "for stream in (sys.stdout, sys.stderr):\n"
        "    print('Müller 日本 \\udcfc', file=stream)\n"
    )
    command = [sys.executable, "-c", code]
    environment = {"PYTHONIOENCODING": f"{encoding}:strict", "PYTHONUTF8": "1"}
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    for printed in (done.stdout, done.stderr):
        assert printed.strip().endswith(b"\\udcfc")
