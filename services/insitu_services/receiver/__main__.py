"""`python -m insitu_services.receiver`: the receiver's processes."""

from __future__ import annotations

import sys

from insitu.errors import InsituError
from insitu.settings import load
from insitu_services.logs import log_to_stderr

# Imported before the workers are forked, so that they share its memory.
from . import worker  # noqa: F401
from .parent import Parent


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    log_to_stderr("receiver")
    try:
        Parent(load()).run()
    except InsituError as error:
        sys.exit(f"receiver: {error}")


if __name__ == "__main__":
    main()
