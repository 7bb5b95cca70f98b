"""The state of the service, collected once a second: what health and ``follows status`` show."""
