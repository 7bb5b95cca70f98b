"""The usual alternatives, written as well as possible; they run in a virtual environment of their own."""
