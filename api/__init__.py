"""The HTTP side: the app, who is calling and how often, health, and the two dialects v1/ and kraken/."""
