"""``python -m pd_jax`` is ``pd-jax``."""

from pd_jax.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
