"""What every run has: its directory, checkpoints, metrics, summary and session."""
