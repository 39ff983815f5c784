"""Who may use the audit desk, and what hostile names and requests cannot do."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient
from support.audit_desk import ADDRESS, Browser, label, nifti, rows

from hstf.audit.desk import Desk
from hstf.audit.security import HEADERS
from hstf.audit.server import create_app


@pytest.fixture
def stranger(desk: Desk) -> TestClient:
    return TestClient(create_app(desk), base_url=ADDRESS, follow_redirects=False)


@pytest.mark.parametrize("path", ["/", "/api/session", "/desk.css", "/api/cases/bad", "/?token=x"])
def test_nothing_is_sent_without_the_token(stranger: TestClient, path: str) -> None:
    answer = stranger.get(path)
    assert answer.status_code == 403
    assert "token" in answer.json()["error"]


def test_token_becomes_a_cookie_that_scripts_cannot_read(desk: Desk, stranger: TestClient) -> None:
    answer = stranger.get("/", params={"token": desk.token})
    assert answer.status_code == 200 and "url=/" in answer.text
    assert desk.token not in answer.text
    cookies = answer.headers.get_list("set-cookie")
    assert len(cookies) == 2
    assert all("HttpOnly" in cookie and "SameSite=Strict" in cookie for cookie in cookies)
    assert stranger.get("/api/session").status_code == 200


def test_two_desks_in_one_browser_keep_their_own_token(desk: Desk) -> None:
    """Browsers send the cookies of a machine to all its ports."""
    other = Desk(desk.config, desk.worker, desk.cache)
    jar = Browser(desk)
    second = Browser(other)
    second.client.cookies.update(jar.client.cookies)
    assert second.get("/api/session").status_code == 200


def test_all_answers_have_the_security_headers(desk: Desk, stranger: TestClient) -> None:
    browser = Browser(desk)
    for answer in (
        stranger.get("/api/session"),
        browser.get("/api/session"),
        browser.get("/api/cases/bad/layers/label.nii.gz"),
        browser.get("/nothing"),
    ):
        for name, value in HEADERS.items():
            assert answer.headers[name] == value
    assert browser.get("/api/session").headers["cache-control"] == "no-store"
    policy = HEADERS["content-security-policy"]
    assert "script-src 'self';" in policy and "frame-ancestors 'none'" in policy


@pytest.mark.parametrize(
    "host", ["evil.example:8765", "127.0.0.1.evil.example", "localhost:8765@evil.example", ""]
)
def test_other_names_of_the_machine_are_refused(desk: Desk, host: str) -> None:
    """A site whose name is changed to this machine (DNS rebinding) gets nothing."""
    answer = Browser(desk).get("/api/session", headers={"Host": host})
    assert answer.status_code == 403


@pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1:1234", "[::1]:8765"])
def test_a_tunnel_may_use_another_port(desk: Desk, host: str) -> None:
    assert Browser(desk).get("/api/session", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"X-HSTF": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
    ],
)
def test_other_sites_cannot_post(desk: Desk, headers: dict[str, str]) -> None:
    browser = Browser(desk, "AB")
    answer = browser.post("/api/undo", headers=headers)
    assert answer.status_code == 403
    assert "page of the desk" in answer.json()["error"]
    assert browser.post("/api/undo", headers={"Origin": ADDRESS}).status_code == 200


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"{", 400), (b"[]", 400), (b"\xff", 400), (b"[" * 60000, 400), (b" " * 70000, 413)],
)
def test_requests_that_are_no_small_json_are_refused(
    desk: Desk, content: bytes, status: int
) -> None:
    browser = Browser(desk)
    answer = browser.client.post("/api/reviewer", content=content, headers={"X-HSTF": "1"})
    assert answer.status_code == status and answer.json()["error"]


def test_correction_that_is_too_large_is_refused(desk: Desk) -> None:
    answer = Browser(desk, "AB").correct("bad", bytes(3 << 20))
    assert answer.status_code == 413
    assert not list((desk.cache / ".incoming").iterdir())
    assert not desk.layout.override(1, "bad").exists()


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        "../../../etc/passwd",
        '=HYPERLINK("http://evil.example")',
        'a";b,c\nd',
        "\u202egnp.exe",
        "…",
    ],
)
def test_hostile_names_stay_text(desk: Desk, name: str, tmp_path: Path) -> None:
    browser = Browser(desk, name)
    before = set(tmp_path.rglob("*"))
    assert browser.correct("bad", nifti(label()), reason=name).status_code == 200
    shown = browser.get("/api/session").json()["reviewer"]
    (row,) = rows(desk)
    assert row["reviewer"] == shown and row["reason"] == shown
    assert "\n" not in shown and "\u202e" not in shown
    for path in set(tmp_path.rglob("*")) - before:
        assert path.is_relative_to(tmp_path / "overrides") or path.is_relative_to(desk.cache)
    text = desk.layout.decisions.read_text()
    assert "\n=" not in text and ",=" not in text and ',"=' not in text


def test_surrogates_in_a_name_are_refused_or_removed(desk: Desk) -> None:
    browser = Browser(desk)
    answer = browser.client.post(
        "/api/reviewer", content=b'{"name": "a\\ud800b"}', headers={"X-HSTF": "1"}
    )
    assert answer.status_code == 200 and answer.json()["reviewer"] == "a b"


def test_links_out_of_the_overrides_folder_are_not_followed(desk: Desk, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    desk.layout.overrides.mkdir()
    (desk.layout.overrides / "round_1").symlink_to(outside)
    answer = Browser(desk, "AB").correct("bad", nifti(label()))
    assert answer.status_code == 400
    assert "link to a place outside" in answer.json()["error"]
    assert not list(outside.iterdir())
    assert not desk.layout.decisions.exists()


def test_failure_of_the_server_is_a_sentence(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a detail")

    browser = Browser(desk)
    monkeypatch.setattr(Desk, "refined", fail)
    answer = browser.get("/api/queue")
    assert answer.status_code == 500
    assert "a detail" not in answer.text and "ZeroDivisionError" in answer.json()["error"]
    assert "a detail" in capsys.readouterr().err
