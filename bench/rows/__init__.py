"""One module per question; each says in its first lines what is timed and what is not."""
