"""Projects, memberships and permissions."""
