"""Who plays: rollouts in jit, live and recorded play, and play ahead of the updates."""
