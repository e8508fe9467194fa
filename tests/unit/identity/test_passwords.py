"""Rules for passwords, and how long failures lock."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insitu.errors import Invalid
from insitu.identity import accounts, passwords


@pytest.mark.parametrize(
    "password", ["", "qwertz", "elevenchars", "aaaaaaaaaaaaaaaa", "ababababababab", "ANNALENA loves me"]
)
def test_a_password_that_is_soon_guessed_is_taken(password: str) -> None:
    with pytest.raises(Invalid) as refusal:
        passwords.check_rules(password, "annalena")
    assert not password or password not in str(refusal.value), "the refusal shows the password"


@pytest.mark.parametrize("password", ["correct horse", "пароль из слов", "x7$ k9! p2# m4%", "w" * 100 + "abcd"])
def test_a_good_password_is_refused(password: str) -> None:
    passwords.check_rules(password, "bo")


def test_the_hash_is_not_argon2id_or_fits_another_password() -> None:
    made = passwords.hashed("correct horse battery")
    assert made.startswith("$argon2id$")
    assert passwords.matches("correct horse battery", made)
    assert not passwords.matches("correct horse batterY", made)
    assert not passwords.matches("anything", "none"), "an account without a usable hash can be entered"


@settings(deadline=None)
@given(failures=st.integers(0, 10_000))
def test_more_failures_lock_for_a_shorter_time(failures: int) -> None:
    seconds = accounts.lock_seconds(failures)
    assert (seconds == 0) == (failures < accounts.FREE_FAILURES)
    assert seconds <= accounts.lock_seconds(failures + 1) <= accounts.LONGEST_LOCK
