"""`python -m insitu_services.receiver`: the receiver's processes."""

from __future__ import annotations

import sys

from insitu.errors import InsituError
from insitu.settings import load
from insitu_services.logs import log_to_stderr

# The worker's modules are imported by the parent, before the workers are forked, so that they share its memory.
from .parent import INHERIT, Parent, check


def main() -> None:
    """Run until SIGTERM or SIGINT. With `--check` only see whether it would start."""
    log_to_stderr("receiver")
    try:
        if sys.argv[1:] == ["--check"]:
            check(load())
            return
        inherited = sys.argv[2] if sys.argv[1:2] == [INHERIT] else None
        Parent(load(), inherited).run()
    except InsituError as error:
        sys.exit(f"receiver: {error}")


if __name__ == "__main__":
    main()
