"""The rows, one module per question; its docstring says what is timed and what is not."""
