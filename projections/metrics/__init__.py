"""Metrics and health of a process, for Prometheus and supervisors; reasons in docs/decisions/0045-metrics.md."""
