"""Measures the service against floors and peers: `make bench`. Nothing of the product imports this package."""
