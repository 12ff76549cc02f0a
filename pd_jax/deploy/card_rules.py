"""The rules of the Hugging Face Hub for repositories' names and for the metadata of a model card, held offline.

The hub itself refuses a card that breaks them, but only once it is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pd_jax.errors import UserError

LICENCES = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0
    eupl-1.1 eupl-1.2 gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl
    odc-by ofl-1.1 openrail openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib
    """.split()
)
"""Identifiers that the hub knows."""
_NAME = re.compile(r"(?=.{1,96}$)[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_MOST_TAGS, _LONGEST_TEXT = 64, 200


def check_repository(repository: str) -> None:
    """Raises a UserError for a name ``owner/name`` that no repository can have."""
    parts = repository.split("/")
    if len(parts) != 2 or not all(map(_NAME.fullmatch, parts)) or len(repository) > 96:
        raise UserError(
            f"{repository[:200]!r} is no name of a repository: owner/name, of letters, digits, '-', '_' and '.', that "
            "begin and end with neither '-' nor '.', 96 at most"
        )
    if "--" in repository or ".." in repository or repository.endswith(".git"):
        raise UserError(f"{repository!r} is no name of a repository: it has '--' or '..', or ends with '.git'")


def licence_of(words: str) -> str | None:
    """The identifier that a teacher's own words amount to, such as ``apache-2.0`` for ``Apache-2.0``; None if none."""
    found = "-".join(words.strip().lower().split())
    return found if found in LICENCES else None


def faults(metadata: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a card's metadata, in words; nothing if the hub takes it.

    Args:
      metadata: the YAML at its head, as a mapping.
    """
    if metadata.get("license") not in LICENCES:
        yield f"license: {metadata.get('license')!r} is no identifier that the hub knows"
    for key in ("library_name", "pipeline_tag"):
        if not _is_text(metadata.get(key)):
            yield f"{key}: {metadata.get(key)!r} is no short text"
    tags = metadata.get("tags")
    if not isinstance(tags, list) or not tags or len(tags) > _MOST_TAGS or not all(map(_is_text, tags)):
        yield "tags: is no list of short texts"
    elif len({*tags}) < len(tags):
        yield "tags: one is there twice"
    for model in _texts(metadata.get("base_model")):
        try:
            check_repository(model)
        except UserError as error:
            yield f"base_model: {error}"
    if "model-index" in metadata:
        yield from _index_faults(metadata["model-index"])


def _index_faults(index: Any) -> Iterator[str]:
    """Of ``model-index``: a list of models, each with results of a task, a data set and metrics."""
    if not isinstance(index, list) or len(index) != 1 or not isinstance(index[0], dict):
        yield "model-index: is no list of one model"
        return
    (model,) = index
    if not _is_text(model.get("name")):
        yield "model-index: the model has no name"
    results = model.get("results")
    if not isinstance(results, list) or not results:
        yield "model-index: the model has no results"
        return
    for result in results:
        for part, keys in {"task": ("type",), "dataset": ("type", "name")}.items():
            entry = result.get(part) if isinstance(result, dict) else None
            if not isinstance(entry, dict) or not all(_is_text(entry.get(key)) for key in keys):
                yield f"model-index: a result has no {part} with {' and '.join(keys)}"
                return
        metrics = result.get("metrics")
        if not isinstance(metrics, list) or not metrics:
            yield "model-index: a result has no metrics"
            return
        for metric in metrics:
            if not isinstance(metric, dict) or not _is_text(metric.get("type")) or metric.get("value") is None:
                yield "model-index: a metric has no type and value"


def _texts(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else [str(item) for item in value]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_TEXT and value.isprintable()
