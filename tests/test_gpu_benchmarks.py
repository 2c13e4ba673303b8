"""What the campaign on a GPU would do, and what it says of what it found; it runs where there is a GPU."""

import pytest

from benchmarks import work
from benchmarks.gpu import jobs
from benchmarks.gpu.plan import REWRITES, plan
from raunet_jax.networks import lowering


@pytest.mark.parametrize("rehearse", [False, True])
def test_a_campaign_names_what_there_is(rehearse):
    rows = plan(rehearse)
    assert len({row["name"] for row in rows}) == len(rows)
    for row in rows:
        assert row["kind"] in jobs.KINDS
        assert row.get("network", "I") in work.NETWORKS
        lowering.rewrites(row.get("lowering", "auto"))  # raises for a name that is no rewrite
    assert set(REWRITES) == set(lowering.BY_PLATFORM["gpu"])
