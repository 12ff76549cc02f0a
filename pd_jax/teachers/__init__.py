"""Teachers: trained here, bundled, read from a file, imported from another library, or any function."""

from pd_jax.teachers.function import from_function
from pd_jax.teachers.teacher import Teacher, bundled_names, load

__all__ = ["Teacher", "bundled_names", "from_function", "load"]
