"""The commands of ``pd-jax``: each reads settings, calls the library and prints."""
