"""Logging in with a browser: cookie, CSRF, lock, end of the session."""

from __future__ import annotations

from typing import Any

import httpx

from insitu.identity import accounts
from insitu.identity.sessions import COOKIE, open_session

PASSWORD = "correct horse battery"


def log_in(client: httpx.Client, name: str = "anna", password: str = PASSWORD) -> httpx.Response:
    """Send name and password."""
    return client.post("/api/v1/session", json={"name": name, "password": password})


def trail_of(house: Any, action: str) -> list[dict[str, Any]]:
    """Events of one action, oldest first."""
    with house.context.database.transaction() as connection:
        return list(connection.execute("SELECT * FROM audit_event WHERE action = %s ORDER BY id", (action,)).fetchall())


def test_a_browser_cannot_log_in_look_and_log_out(house: Any) -> None:
    house.account("anna", password=PASSWORD, alpha="reader")
    with house.browser() as browser:
        answer = log_in(browser)
        assert answer.status_code == 200, answer.text
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert "secure" not in cookie  # plain HTTP: a browser would not keep it
        assert browser.get("/api/v1/session").json() == {
            "name": "anna", "site_admin": False, "memberships": {"alpha": "reader"},
        }  # fmt: skip
        secret = browser.cookies[COOKIE]
        assert browser.delete("/api/v1/session").status_code == 204
        # also where somebody kept the cookie
        with house.client(cookie=f"{COOKIE}={secret}") as thief:
            assert thief.get("/api/v1/session").status_code == 401
    assert [event["actor"] for event in trail_of(house, "login") + trail_of(house, "logout")] == ["anna", "anna"]


def test_the_cookie_goes_over_plain_http_where_a_proxy_has_tls(house: Any) -> None:
    house.account("anna", password=PASSWORD)
    with house.client(**{"x-forwarded-proto": "https"}) as browser:
        assert "secure" in log_in(browser).headers["set-cookie"].lower()


def test_the_database_holds_something_to_log_in_with(house: Any) -> None:
    token = house.account("anna", password=PASSWORD)
    with house.browser() as browser:
        log_in(browser)
        secret = browser.cookies[COOKIE]
    with house.context.database.transaction() as connection:
        for table in ("account", "session", "api_token", "audit_event"):
            text = str(connection.execute(f"SELECT t::text FROM {table} t").fetchall())
            assert PASSWORD not in text
            assert secret not in text
            assert token not in text


def test_another_site_can_make_a_logged_in_browser_change_something(house: Any) -> None:
    house.account("anna", site_admin=True)
    with house.context.database.transaction() as connection:
        secret = open_session(connection, accounts.get(connection, "anna")["id"], 1)
    forged = (
        {},  # a program with a stolen cookie, or a very old browser
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "cross-site", "origin": house.url},
        {"origin": "http://127.0.0.1:1"},  # another port of this machine
    )
    for headers in forged:
        with house.client(cookie=f"{COOKIE}={secret}", **headers) as client:
            assert client.post("/api/v1/projects", json={"name": "forged"}).status_code == 403, headers
            assert client.get("/api/v1/session").status_code == 200  # SameSite and the lack of CORS protect reading
    for number, headers in enumerate(({"origin": house.url}, {"sec-fetch-site": "same-origin"})):
        with house.client(cookie=f"{COOKIE}={secret}", **headers) as client:
            assert client.post("/api/v1/projects", json={"name": f"ours{number}"}).status_code == 201, headers


def test_another_site_can_log_a_browser_in_as_somebody_else(house: Any) -> None:
    house.account("mallory", password=PASSWORD)
    with house.client(origin="http://evil.example") as browser:
        assert log_in(browser, "mallory").status_code == 403
        form = browser.post("/api/v1/session", data={"name": "mallory", "password": PASSWORD})
        assert form.status_code in (403, 422)
        assert not browser.cookies


def test_passwords_can_be_guessed_without_end(house: Any) -> None:
    house.account("anna", password=PASSWORD)
    with house.browser() as browser:
        for number in range(accounts.FREE_FAILURES):
            answer = log_in(browser, password=f"wrong password {number}")
            assert answer.status_code == 401
        with house.context.database.transaction() as connection:
            # it locked itself for seconds; a slow machine needs longer to look
            extended = connection.execute(
                "UPDATE account SET locked_until = now() + interval '1 hour' WHERE locked_until > created_at"
            )
            assert extended.rowcount == 1
        locked = log_in(browser)
        assert locked.status_code == 401, "the right password opens a locked account"
        # the answer does not tell that there is such an account
        assert locked.json() == log_in(browser, "nobody-of-this-name").json() == answer.json()
    with house.context.database.transaction() as connection:
        connection.execute("UPDATE account SET locked_until = now() - interval '1 second'")
    with house.browser() as browser:
        assert log_in(browser).status_code == 200, "the lock does not end"
        assert log_in(browser, password="wrong again").status_code == 401
        assert log_in(browser).status_code == 200, "a success does not start the count anew"
    refused = [event["detail"]["why"] for event in trail_of(house, "login") if event["outcome"] == "refused"]
    assert refused == ["wrong password"] * 5 + ["locked after failed logins", "unknown name", "wrong password"]


def test_a_password_typed_as_name_stands_in_the_trail(house: Any) -> None:
    with house.browser() as browser:
        log_in(browser, name="MySecretPassword1", password="x")
    (event,) = trail_of(house, "login")
    assert "MySecretPassword1" not in str(event)


def test_an_account_keeps_its_sessions_after_its_password_was_set_anew(house: Any) -> None:
    house.account("anna", password=PASSWORD)
    admin = house.client(house.account("admin", site_admin=True))
    with house.browser() as browser:
        log_in(browser)
        wrong = browser.put("/api/v1/accounts/anna/password", json={"password": "a new long password", "current": "no"})
        assert wrong.status_code == 403
        assert browser.get("/api/v1/session").status_code == 200
        bare = browser.put("/api/v1/accounts/anna/password", json={"password": "a new long password"})
        assert bare.status_code == 403, "an open browser is enough to take over the account"
        right = {"password": "a new long password", "current": PASSWORD}
        assert browser.put("/api/v1/accounts/anna/password", json=right).status_code == 204
        assert browser.get("/api/v1/session").status_code == 401
        assert log_in(browser, password="a new long password").status_code == 200
        assert admin.put("/api/v1/accounts/anna/password", json={"password": "short"}).status_code == 422
        assert admin.put("/api/v1/accounts/anna/password", json={"password": "set by the admin"}).status_code == 204
        assert browser.get("/api/v1/session").status_code == 401
        assert log_in(browser, password="set by the admin").status_code == 200
