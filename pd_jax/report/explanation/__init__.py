"""``pd-jax explain``: what a run has done, how good it is, what limits it and what to try next, in plain words.

`facts` reads a run, `rules` decides what there is to say of it, and `english` and `japanese` say it.
"""
