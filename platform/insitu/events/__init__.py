"""The outbox: what happened in the archive and has not been acted on yet."""
