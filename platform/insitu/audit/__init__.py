"""What they did: append-only, hash-chained."""
