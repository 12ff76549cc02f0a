"""``python -m pd_jax`` is ``pd-jax``."""

from pd_jax.cli import run

if __name__ == "__main__":
    run()
