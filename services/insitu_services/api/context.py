"""What every route needs: settings, database, archive. One per process, kept at `app.state.context`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from insitu.archive.store import Archive
from insitu.database import Database
from insitu.settings import Settings


@dataclass(frozen=True)
class Context:
    """The api process's parts."""

    settings: Settings
    database: Database
    archive: Archive


async def context_of(request: Request) -> Context:
    """The context of the application that serves `request`. Async: it waits for nothing, and needs no thread."""
    context: Context = request.app.state.context
    return context


Ctx = Annotated[Context, Depends(context_of)]
