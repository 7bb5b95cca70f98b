"""The dialect /v1: users follow hosts, JSON, bearer tokens."""
