"""arq's part: the jobs that keep the projection going, and the settings of the worker that runs them."""
