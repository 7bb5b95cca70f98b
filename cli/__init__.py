"""The `follows` command line: it may import anything, and nobody imports it."""
