"""Authentication: bearer tokens, their claims, and the public keys that verify them."""
