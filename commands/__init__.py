"""The write side: users, follow facts and the event log; the only place that speaks SQL."""
