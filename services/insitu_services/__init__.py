"""The processes: api, receiver, dispatcher, supervisor."""
