"""Scripts that each answer one question, and write what they found to ``results/``."""
