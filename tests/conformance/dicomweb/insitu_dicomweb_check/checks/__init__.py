"""The checks, in the order in which they are carried out: importing this package registers them."""

from . import (  # noqa: F401, I001 - the order is that of the run
    stow,
    stow_refusals,
    search,
    matching,
    paging,
    results,
    retrieve,
    negotiation,
    metadata,
    frames,
    bulkdata,
    rendered,
    http,
    delete,
)
