"""The HTTP side: the app, callers and their rate limit, health, and the two dialects v1/ and kraken/."""
