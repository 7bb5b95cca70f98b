"""The feeder of a Redis: which database its views are made from, and what is done with views of another history."""
