"""Memory, time and traces: what a run takes, and what bounds it."""
