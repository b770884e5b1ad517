"""A web server for metrics; it knows nothing of stacks."""
