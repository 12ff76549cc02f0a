"""Scripts that measured the numbers in the README, and the JSON they wrote (``results/``)."""
