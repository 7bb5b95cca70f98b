"""Compares the views with the log, and repairs what differs."""
