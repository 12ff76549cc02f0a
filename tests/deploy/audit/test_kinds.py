"""Kinds of states: clusters against blobs whose members are known, and masks against what their names say."""

from __future__ import annotations

import dataclasses

import numpy as np

from pd_jax.deploy.audit.kinds import Clusters, kinds_of
from pd_jax.deploy.audit.states import gaps
from pd_jax.environments.tasks import get_task
from support.made_play import made_play


def test_clusters_are_the_blobs_that_the_features_were_drawn_from() -> None:
    generator = np.random.default_rng(0)
    centres = np.array([[0.0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9]])
    blob = generator.integers(4, size=1000)
    features = (centres[blob] + generator.normal(size=(1000, 3))).astype(np.float32)
    clusters = Clusters.fit(features, 4)
    groups, distances = clusters.assign(features)
    for each in range(4):
        # Each blob is one cluster, and no two are the same.
        members = groups[blob == each]
        assert (members == members[0]).mean() > 0.99
    assert len(np.unique(groups)) == 4
    by_hand = np.linalg.norm((features - clusters.mean) / clusters.scale - clusters.centres[groups], axis=1)
    np.testing.assert_allclose(distances, by_hand, rtol=1e-4)
    again = Clusters.fit(features, 4)
    np.testing.assert_array_equal(again.centres, clusters.centres)


def test_few_states_or_states_that_are_all_alike_are_few_clusters() -> None:
    generator = np.random.default_rng(0)
    assert len(Clusters.fit(generator.normal(size=(50, 3)).astype(np.float32), 12).centres) == 2
    alike = Clusters.fit(np.ones((500, 3), np.float32), 12)
    assert len(alike.centres) == 1 and (alike.assign(np.ones((5, 3), np.float32))[0] == 0).all()


def test_kinds_are_what_their_names_say() -> None:
    task = get_task("acrobot")
    generator = np.random.default_rng(1)
    plays = {
        name: dataclasses.replace(made_play([60, 40], seed), vectors=generator.normal(size=(100, 6)).astype(np.float32))
        for name, seed in (("shown", 0), ("teacher", 1))
    }
    until = {name: generator.integers(0, 50, 100) for name in plays}
    clusters = Clusters.fit(np.concatenate([play.features for play in plays.values()]), 3)
    kinds = kinds_of(task, plays, until, clusters, 20)
    for name, play in plays.items():
        of_family = {
            family: [kind.masks[name] for kind in kinds if kind.family == family]
            for family in ("cluster", "gap", "action", "loss")
        }
        for family in ("cluster", "gap", "action"):
            # Each state is of one kind of the family.
            assert (np.sum(of_family[family], axis=0) == 1).all(), family
        (loss,) = of_family["loss"]
        np.testing.assert_array_equal(loss, until[name] < 20)
        closest, *_, clearest = of_family["gap"]
        assert gaps(play.outputs["teacher"][closest]).max() < gaps(play.outputs["teacher"][clearest]).min()
        assert play.vectors is not None
        for kind in kinds:
            if kind.family == "action":
                chosen = task.action_names.index(kind.name.removeprefix("the teacher chooses "))
                assert (play.choices("teacher")[kind.masks[name]] == chosen).all()
            if kind.family == "number" and kind.name.startswith("speed 2 is above"):
                edge = float(kind.name.rpartition(" ")[2])
                assert play.vectors[kind.masks[name], 5].min() >= edge - 0.005
    sizes = [sum(int(mask.sum()) for mask in kind.masks.values()) for kind in kinds if kind.family == "cluster"]
    assert sizes == sorted(sizes, reverse=True)
    assert not [kind for kind in kinds_of(task, plays, {}, clusters, 20) if kind.family == "loss"]
