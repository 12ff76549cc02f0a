"""The hub's rules, held offline, against the library's own checks where it has them."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from hypothesis import given
from hypothesis import strategies as st

from pd_jax.deploy.card_rules import check_repository, faults, licence_of
from pd_jax.deploy.model_card import escape
from pd_jax.errors import UserError

GOOD: dict[str, Any] = {
    "license": "apache-2.0",
    "library_name": "pd-jax",
    "pipeline_tag": "reinforcement-learning",
    "tags": ["a", "b"],
    "model-index": [
        {
            "name": "a",
            "results": [
                {
                    "task": {"type": "reinforcement-learning"},
                    "dataset": {"type": "Pong-v5", "name": "Pong-v5"},
                    "metrics": [{"type": "mean_reward", "value": "1.00 +/- 0.10"}],
                }
            ],
        }
    ],
}


@given(st.text(alphabet="ab1-_. /é", min_size=1, max_size=12), st.text(alphabet="ab1-_.", max_size=8))
def test_names_are_those_that_the_library_takes(owner, name):
    repository = f"{owner}/{name}"
    try:
        validate_repo_id(repository)
        taken = True
    except HFValidationError:
        taken = False
    if taken:
        check_repository(repository)
    else:
        with pytest.raises(UserError, match="is no name of a repository"):
            check_repository(repository)


@pytest.mark.parametrize("repository", ["a/" + "b" * 96, "a/b/c", "a", "a/b--c", "a/b..c", "a/b.git", "a/-b", "a/b."])
def test_names_that_are_none_are_refused(repository):
    with pytest.raises(UserError, match="is no name of a repository"):
        check_repository(repository)


def test_good_metadata_has_no_faults():
    assert [*faults(GOOD)] == [] == [*faults(GOOD | {"base_model": ["a/b", "c/d"]})]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"license": "Apache-2.0"}, "license"),
        ({"license": None}, "license"),
        ({"library_name": ""}, "library_name"),
        ({"pipeline_tag": 3}, "pipeline_tag"),
        ({"tags": []}, "tags"),
        ({"tags": ["a", "a"]}, "tags"),
        ({"tags": ["a" * 300]}, "tags"),
        ({"base_model": "../up"}, "base_model"),
        ({"model-index": []}, "model-index"),
        ({"model-index": [{"name": "", "results": GOOD["model-index"][0]["results"]}]}, "model-index"),
        ({"model-index": [{"name": "a", "results": []}]}, "model-index"),
        (
            {"model-index": [{"name": "a", "results": [{"task": {"type": "x"}, "dataset": {"type": "y"}}]}]},
            "model-index",
        ),
        (
            {"model-index": [{"name": "a", "results": [GOOD["model-index"][0]["results"][0] | {"metrics": []}]}]},
            "model-index",
        ),
    ],
)
def test_each_broken_rule_is_named(change, complaint):
    found = [*faults(GOOD | change)]
    assert found and all(fault.startswith(complaint) for fault in found), found


def test_words_of_licences_become_identifiers():
    assert [licence_of(words) for words in ("Apache-2.0", " MIT ", "CC BY 4.0", "that of its teachers", "")] == [
        "apache-2.0",
        "mit",
        "cc-by-4.0",
        None,
        None,
    ]


@given(st.text(max_size=40))
def test_escaped_text_has_no_markup_and_no_second_line(text):
    found = escape(text)
    assert found.isprintable() and not {"<", ">"} & {*found}
    bare = found.replace("\\\\", "")
    for mark in "`*_[]|#":
        assert bare.replace(f"\\{mark}", "").count(mark) == 0
