"""Passwords: what a chosen one must be, and its argon2id hash (RFC 9106).

Not here: whose password it is and how many attempts there were (accounts).
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from insitu.errors import Invalid, Unavailable

MINIMUM_LENGTH = 12
MAXIMUM_LENGTH = 256
# 64 MiB each: more at once would let strangers fill the memory by trying to log in.
AT_ONCE = 2
PATIENCE = 20.0  # seconds

_hasher = PasswordHasher()  # argon2id, second recommendation of RFC 9106: 64 MiB, 3 passes
_free = threading.BoundedSemaphore(AT_ONCE)


@contextmanager
def turn() -> Iterator[None]:
    """Wait until one of the few computations that may go on at once is free. Take it before a database connection.

    Raises
    ------
    Unavailable
        None was free within 20 s.
    """
    if not _free.acquire(timeout=PATIENCE):
        raise Unavailable("Too many people are logging in just now", remedy="Try again in a minute")
    try:
        yield
    finally:
        _free.release()


def check_rules(password: str, name: str) -> None:
    """Return if `password` may be chosen for the account `name`.

    Raises
    ------
    Invalid
        Says which rule it breaks; never holds the password.
    """
    if len(password) < MINIMUM_LENGTH:
        raise Invalid(
            f"The password is shorter than {MINIMUM_LENGTH} characters",
            remedy="Choose a longer one: a sentence is fine",
        )
    if len(password) > MAXIMUM_LENGTH:
        raise Invalid(f"The password is longer than {MAXIMUM_LENGTH} characters")
    if len(set(password)) < 5:
        raise Invalid(
            "The password repeats the same few characters", remedy="Choose one with at least 5 different ones"
        )
    if len(name) > 3 and name.lower() in password.lower():
        raise Invalid("The password holds the name of the account", remedy="Choose another one")


def hashed(password: str) -> str:
    """The argon2id hash of a password, with its salt and parameters."""
    return _hasher.hash(password)


def matches(password: str, password_hash: str) -> bool:
    """Whether the password is the one of this hash."""
    try:
        return _hasher.verify(password_hash, password)
    except (Argon2Error, InvalidHashError):
        return False


def spend_time(password: str) -> None:
    """Compute as long as `matches` does, for accounts that there are not."""
    matches(password, _nobodys())


def outdated(password_hash: str) -> bool:
    """Whether the hash was made with other parameters than new ones are."""
    return _hasher.check_needs_rehash(password_hash)


@cache
def _nobodys() -> str:
    return hashed(secrets.token_urlsafe(32))
