"""Whose views a Redis holds: which database feeds it, and what is done with views of another history of the log."""
