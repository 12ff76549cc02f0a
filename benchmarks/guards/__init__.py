"""Guards: counts of what programs and calls do, which hold where times are noise."""
