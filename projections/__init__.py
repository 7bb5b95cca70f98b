"""The read model: the log becomes Redis sorted sets, which can always be thrown away and built again."""
