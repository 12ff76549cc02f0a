"""Teachers: trained here, bundled, read from a file, imported from another library, or any function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.teachers.committee import Committee, make_committee
    from pd_jax.teachers.files import save_teacher
    from pd_jax.teachers.function import from_function
    from pd_jax.teachers.loading import load
    from pd_jax.teachers.metadata import TeacherMetadata
    from pd_jax.teachers.teacher import Teacher, bundled_names

__all__ = [
    "Committee",
    "Teacher",
    "TeacherMetadata",
    "bundled_names",
    "from_function",
    "load",
    "make_committee",
    "save_teacher",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "committee": ["Committee", "make_committee"],
            "files": ["save_teacher"],
            "function": ["from_function"],
            "loading": ["load"],
            "metadata": ["TeacherMetadata"],
            "teacher": ["Teacher", "bundled_names"],
        },
    )
