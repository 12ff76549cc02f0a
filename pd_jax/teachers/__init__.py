"""Teachers: trained here, bundled, or read from a file."""

from pd_jax.teachers.teacher import Teacher, bundled_names, load

__all__ = ["Teacher", "bundled_names", "load"]
