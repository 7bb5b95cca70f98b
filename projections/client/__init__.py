"""The Redis client of the views: one round trip per turn of the event loop, for one server, sentinels or a cluster."""
