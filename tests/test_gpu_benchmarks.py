"""What the campaign on a GPU would do, and how it reads a compiled program; it runs where there is a GPU."""

import pytest

from benchmarks import work
from benchmarks.gpu import jobs, program
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


HLO = """\
HloModule jit_f

%fused (p: f32[1024,1024]) -> f32[1024,1024] {
  %p = f32[1024,1024]{1,0} parameter(0)
  ROOT %t = f32[1024,1024]{0,1} transpose(%p), dimensions={1,0}
}

ENTRY %main (a: f32[1024,1024], b: bf16[4]) -> f32[1024,1024] {
  %a = f32[1024,1024]{1,0} parameter(0)
  %b = bf16[4]{0} parameter(1)
  %c = bf16[4]{0} copy(%b)
  ROOT %f = f32[1024,1024]{0,1} fusion(%a), kind=kLoop, calls=%fused
}
"""


def test_kernels_and_bytes_of_a_program_are_counted():
    found = program.consists_of(HLO)
    assert found["kernels"] == 2 and found["transposes"] == 1  # the copy of 8 bytes is none of the large ones
    assert found["counts"] == {"copy": [1, 0.0], "transpose": [1, 0.008]}  # read and written: 2 x 4 MiB
    assert found["gb"] == 0.008
