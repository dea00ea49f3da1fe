"""Counter-based randomness: a draw depends on the image and the key, on nothing else."""

from __future__ import annotations

import torch

from robustbench_df import rng


def test_a_draw_does_not_depend_on_batch_or_order() -> None:
    ids = torch.randint(0, 2**62, (64,), generator=torch.Generator().manual_seed(0))
    together = rng.normal(ids, (3, 5), "noise", 7)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(rng.normal(ids[order], (3, 5), "noise", 7), together[order])
    assert torch.equal(rng.normal(ids[5:6], (3, 5), "noise", 7)[0], together[5])


def test_keys_and_ids_give_different_streams() -> None:
    ids = torch.arange(100)
    first = rng.uniform(ids, (50,), 0, "a")
    assert not torch.equal(first, rng.uniform(ids, (50,), 1, "a"))
    assert not torch.equal(first, rng.uniform(ids, (50,), 0, "b"))
    assert len(torch.unique(first[:, 0])) == 100
    correlation = torch.corrcoef(torch.stack([first.flatten(), rng.uniform(ids, (50,), 1, "a").flatten()]))[0, 1]
    assert abs(float(correlation)) < 0.05


def test_uniform_and_normal_have_their_moments() -> None:
    ids = torch.arange(2000)
    u, z = rng.uniform(ids, (100,), "u"), rng.normal(ids, (100,), "z")
    assert 0 <= float(u.min()) < 1e-3
    assert 1 - 1e-3 < float(u.max()) < 1
    assert abs(float(u.mean()) - 0.5) < 0.003
    assert abs(float(u.var()) - 1 / 12) < 0.001
    assert abs(float(z.mean())) < 0.01
    assert abs(float(z.std()) - 1) < 0.01
    assert abs(float((z**4).mean()) - 3) < 0.1
    # Neighbouring elements and neighbouring ids must not be correlated.
    assert abs(float((u[:, 1:] - 0.5).mul(u[:, :-1] - 0.5).mean())) < 0.001
    assert abs(float((u[1:] - 0.5).mul(u[:-1] - 0.5).mean())) < 0.001


def test_two_numbers_of_one_hash_are_as_good_as_one_of_each() -> None:
    ids = torch.arange(2000)
    u = rng.dense_uniform(ids, (101,), "u")
    assert 0 <= float(u.min()) < 1e-3
    assert 1 - 1e-3 < float(u.max()) < 1
    assert abs(float(u.mean()) - 0.5) < 0.003
    assert abs(float(u.var()) - 1 / 12) < 0.001
    for k in (1, 2, 50, 51):
        assert abs(float((u[:, k:] - 0.5).mul(u[:, :-k] - 0.5).mean())) < 0.001
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(1))[:9]
    assert torch.equal(rng.dense_uniform(ids[order], (101,), "u"), u[order])
    assert not torch.equal(u, rng.uniform(ids, (101,), "u"))
    assert rng.dense_uniform(ids[:3], (), "u").shape == (3,)
    kept = torch.arange(5)
    rng.dense_uniform(kept, (4,), "u")
    assert torch.equal(kept, torch.arange(5))  # ids are mixed in a copy


def test_values_are_pinned() -> None:
    """The stream is part of the file format: a change would make old runs irreproducible."""
    got = rng.uniform(torch.tensor([1, 2]), (2,), "pinned", 0)
    want = torch.tensor([[0.9661545753479004, 0.7547184228897095], [0.98702472448349, 0.2685074806213379]])
    assert torch.equal(got, want)
    assert rng.seed_of("pinned", 0) == 5925810237383338639
