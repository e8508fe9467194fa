"""A platform's archive with nodes around it: real servers of others, and one peer that follows a script."""
