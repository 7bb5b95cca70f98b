"""The benchmark, `make bench`: the service against floors and peers. Nothing of the product imports this package."""
