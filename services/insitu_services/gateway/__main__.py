"""`python -m insitu_services.gateway`: the run gateway process."""

from __future__ import annotations

import logging

from insitu.errors import InsituError
from insitu_services.api.__main__ import begin, run
from insitu_services.api.app import create_gateway

logger = logging.getLogger("insitu.gateway")


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    try:
        settings = begin("gateway")
        run(settings, settings.gateway_http, create_gateway)
    except InsituError as error:
        logger.error("%s", error)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
