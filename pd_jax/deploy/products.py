"""Directories that a command leaves whole, and makes again for the same settings alone: exports and audits."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from pd_jax.config.audit import AuditConfig
from pd_jax.config.export import ExportConfig
from pd_jax.config.loading import to_mapping
from pd_jax.errors import UserError
from pd_jax.system.files import to_json

Config = AuditConfig | ExportConfig


def settings_of(config: Config) -> dict[str, Any]:
    """What a product is of; where it is, and whether it was made again, is no part of that."""
    return {key: value for key, value in to_mapping(config).items() if key not in ("out", "resume")}


def check_place(config: Config, what: str, report_name: str, own_names: Callable[[Any], Collection[str]]) -> None:
    """Checks that a product may be made where it is to be.

    Args:
      config: with ``out`` and ``resume``.
      what: the product is called, with its article.
      report_name: of its file of JSON, which has the ``settings`` that it is of.
      own_names: gives the names of all of its files, from what is in that file; of another file it may raise.

    Raises:
      UserError: the directory is neither empty, nor not there, nor this product, which is to be made again.
    """
    out = Path(config.out)
    if ":/" in config.out:
        raise UserError(f"{out}: is an address; {what} goes into a local directory")
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise UserError(f"{out}: is a file; --out takes a directory")
    names = set(os.listdir(out))
    if not names:
        return
    try:
        there = json.loads((out / report_name).read_text(encoding="utf-8"))
        own, settings = own_names(there), there["settings"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{out}: is not empty ({min(names)}); choose another --out") from None
    if foreign := names - set(own):
        raise UserError(f"{out}: holds more than {what} ({min(foreign)}); choose another --out")
    if settings != to_json(settings_of(config)):
        raise UserError(f"{out}: holds {what} of other settings; choose another --out")
    if not config.resume:
        this = what.split(" ", 1)[1]
        raise UserError(f"{out}: holds this {this}; add --resume to make it again, or choose another --out")
