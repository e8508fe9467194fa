"""Who: accounts, sessions, tokens."""
