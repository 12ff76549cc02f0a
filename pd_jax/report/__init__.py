"""Tables and figures of runs. Nothing here imports JAX."""
