"""Accounts of people and the tokens of their programs.

Not here: logging in and out (login), roles in projects (projects).
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from insitu.audit import trail
from insitu.errors import Forbidden, NotFound
from insitu.identity import accounts, passwords, tokens
from insitu.projects.permissions import Action, Principal, Resource, allowed, authorize

from .access import requires
from .context import Ctx

router = APIRouter(prefix="/api/v1", tags=["accounts"])
AccountManager = Annotated[Principal, Depends(requires(Action.ACCOUNT_MANAGE))]
Myself = Annotated[Principal, Depends(requires(Action.SELF))]


class NewAccount(BaseModel):
    """An account to be made."""

    model_config = ConfigDict(extra="forbid")

    name: str
    password: str
    site_admin: bool = False


class AccountChange(BaseModel):
    """What to change of an account; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    disabled: bool | None = None
    site_admin: bool | None = None


class NewPassword(BaseModel):
    """A new password; `current` is asked of those who change their own."""

    model_config = ConfigDict(extra="forbid")

    password: str
    current: str | None = Field(None, max_length=passwords.MAXIMUM_LENGTH)


class NewToken(BaseModel):
    """A token to be made, for oneself or, by a site admin, for another account."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="What it is for.")
    account: str | None = Field(None, description="Account it acts as; the caller's own by default.")
    days: float | None = Field(90, description="Days until it ends; null for a token without an end.")


@router.get("/accounts")
def list_accounts(principal: AccountManager, context: Ctx) -> dict[str, Any]:
    """All accounts with their roles in projects."""
    authorize(principal, Action.ACCOUNT_MANAGE)
    with context.database.transaction() as connection:
        return {"accounts": accounts.everyone(connection)}


@router.post("/accounts", status_code=201)
def create_account(principal: AccountManager, context: Ctx, account: NewAccount) -> dict[str, Any]:
    """Make an account. It has no role in any project yet."""
    authorize(principal, Action.ACCOUNT_MANAGE)
    with passwords.turn(), context.database.transaction() as connection:
        row = accounts.create(connection, account.name, account.password, site_admin=account.site_admin)
        trail.record(
            connection, principal.name, "account-create", "account", account.name,
            detail={"site_admin": account.site_admin},
        )  # fmt: skip
        return row


@router.patch("/accounts/{account}")
def change_account(account: str, principal: AccountManager, context: Ctx, change: AccountChange) -> dict[str, Any]:
    """Disable or enable an account, make it site admin or not; it counts from the account's next request on."""
    authorize(principal, Action.ACCOUNT_MANAGE)
    with context.database.transaction() as connection:
        row = accounts.change(connection, account, disabled=change.disabled, site_admin=change.site_admin)
        trail.record(
            connection,
            principal.name,
            "account-change",
            "account",
            account,
            detail=change.model_dump(exclude_none=True),
        )
        return row


@router.put("/accounts/{account}/password", status_code=204)
def set_password(account: str, principal: Myself, context: Ctx, change: NewPassword) -> None:
    """Set a password: one's own by showing the current one, or as site admin anyone's. It ends the account's sessions."""
    own = principal.name == account
    if not own or change.current is None:
        authorize(principal, Action.ACCOUNT_MANAGE, Resource(kind="account"))
    wrong = False
    with passwords.turn(), context.database.transaction() as connection:
        if change.current is not None:
            wrong = accounts.attempt(connection, account, change.current).account is None
        if not wrong:
            accounts.set_password(connection, account, change.password)
        trail.record(
            connection, principal.name, "password-change", "account", account, outcome="refused" if wrong else "success"
        )
    if wrong:
        raise Forbidden("The current password is wrong", remedy="Ask the site admin to set a new one")


@router.get("/tokens")
def list_tokens(principal: Myself, context: Ctx, account: str | None = None) -> dict[str, Any]:
    """Names and dates of the tokens of oneself or, for a site admin, of another account."""
    owner = _acting_for(principal, account)
    with context.database.transaction() as connection:
        return {"account": owner, "tokens": tokens.of_account(connection, owner)}


@router.post("/tokens", status_code=201)
def create_token(principal: Myself, context: Ctx, token: NewToken) -> dict[str, Any]:
    """Make a token. Its secret is in this answer and never again."""
    owner = _acting_for(principal, token.account)
    with context.database.transaction() as connection:
        secret = tokens.create(connection, owner, token.name, days=token.days)
        trail.record(connection, principal.name, "token-create", "account", owner, detail={"token": token.name})
    return {"account": owner, "name": token.name, "token": secret}


@router.delete("/tokens/{token}", status_code=204)
def revoke_token(token: str, principal: Myself, context: Ctx) -> None:
    """Revoke a token by its id, at once."""
    with context.database.transaction() as connection:
        owner = tokens.owner(connection, token)
        if owner is None or (
            owner != principal.name and not allowed(principal, Action.ACCOUNT_MANAGE, Resource(kind="account"))
        ):
            raise NotFound("There is no such token", value=token, remedy="List the tokens: insitu token list")
        tokens.revoke(connection, token)
        trail.record(connection, principal.name, "token-revoke", "account", owner)


def _acting_for(principal: Principal, account: str | None) -> str:
    """The account whose tokens are meant; another than the caller's only for a site admin."""
    if account is None or account == principal.name:
        return principal.name
    authorize(principal, Action.ACCOUNT_MANAGE, Resource(kind="account"))
    return account
