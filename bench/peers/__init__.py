"""What a user would take instead, written as well as we can; runs in a virtual environment of its own."""
