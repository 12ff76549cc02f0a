"""`pd_jax.deploy.runtime` as one file, which lies beside the exported policies and needs nothing of pd_jax."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

from pd_jax.deploy import runtime
from pd_jax.environments import screens
from pd_jax.version import __version__

RUNTIME_NAME = "pd_jax_runtime.py"
"""What it is called."""


def runtime_source() -> str:
    """`pd_jax.deploy.runtime` as one file that imports nothing of pd_jax."""
    parts = [_parts(screens), _parts(runtime)]
    modules = {name for part in parts for name in part.modules} - {"numpy"}
    names = {name for part in parts for name in part.names}
    return "\n".join(
        [
            f"# Written by pd-jax export {__version__}. Apache-2.0. Needs numpy and onnxruntime.",
            parts[1].docstring,
            "",
            "from __future__ import annotations",
            "",
            *[f"import {module}" for module in sorted(modules)],
            f"from typing import {', '.join(sorted(names))}",
            "",
            "import numpy as np",
            "",
            parts[0].body.strip("\n"),
            "",
            "",
            parts[1].body.strip("\n"),
            "",
        ]
    )


class _Parts(NamedTuple):
    """A module's source, taken apart.

    Attributes:
      docstring: with its quotes.
      modules: that it imports whole.
      names: that it takes from typing.
      body: all that comes after the imports.
    """

    docstring: str
    modules: Sequence[str]
    names: Sequence[str]
    body: str


def _parts(module: Any) -> _Parts:
    source = inspect.getsource(module)
    lines, (docstring, *rest) = source.splitlines(), ast.parse(source).body
    imports = [node for node in rest if isinstance(node, ast.Import | ast.ImportFrom)]
    return _Parts(
        "\n".join(lines[: docstring.end_lineno]),
        [alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names],
        [
            alias.name
            for node in imports
            if isinstance(node, ast.ImportFrom) and node.module == "typing"
            for alias in node.names
        ],
        "\n".join(lines[imports[-1].end_lineno :]),
    )
