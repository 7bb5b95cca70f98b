"""The `follows` command line: it may import every package, and none imports it."""
