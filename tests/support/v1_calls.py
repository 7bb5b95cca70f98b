"""Every call of /v1, with a sample path each."""

CALLS = [
    ("POST", "/v1/users/x/follow"),
    ("DELETE", "/v1/users/x/follow"),
    ("GET", "/v1/users/x/follow-status"),
    ("GET", "/v1/users/x/followers"),
    ("GET", "/v1/users/me/following"),
    ("GET", "/v1/users/x"),
    ("PUT", "/v1/users/x"),
    ("DELETE", "/v1/users/x"),
    ("PUT", "/v1/users/x/broadcast"),
    ("DELETE", "/v1/users/x/broadcast"),
]
