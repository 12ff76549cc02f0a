"""``pd-jax doctor``: what is installed, which devices there are, what is wrong and what to do.

Nothing here needs a package but Python's own: it is for where others are missing or broken. What has to import them
does so in a process of its own (`pd_jax.resources.doctor.probes`), which may crash or hang.
"""
