"""What a compiled program consists of, and what inspection shows of a recipe's programs."""

import json

import jax
import pytest

from configs import liver_coarse
from raunet_jax.commands import inspect, inspection_tables, network_facts, program_cost
from raunet_jax.imaging.intensity import normalize
from raunet_jax.networks.blocks import Settings
from raunet_jax.networks.program import consists_of
from small_network import Small

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
    found = consists_of(HLO)
    assert found["kernels"] == 2 and found["transposes"] == 1  # the copy of 8 bytes is none of the large ones
    assert found["counts"] == {"copy": [1, 0.0], "transpose": [1, 0.008]}  # read and written: 2 x 4 MiB
    assert found["gb"] == 0.008


SLICING = """\
HloModule jit_f

%fused (state: f32[1000000], index: s32[]) -> f32[10] {
  %state = f32[1000000]{0} parameter(0)
  %index = s32[] parameter(1)
  %same = f32[1000,1000]{1,0} bitcast(%state)
  %row = f32[1,10]{1,0} slice(%same), slice={[3:4], [0:10]}
  %flat = f32[10]{0} bitcast(%row)
  %low = bf16[1000000]{0} convert(%state)
  %part = bf16[10]{0} slice(%low), slice={[20:30]}
  %high = f32[10]{0} convert(%part)
  %moving = f32[10]{0} dynamic-slice(%state, %index), dynamic_slice_sizes={10}
  ROOT %sum = f32[10]{0} add(%flat, %moving)
}

%whole (all: f32[1000000]) -> f32[1000000] {
  %all = f32[1000000]{0} parameter(0)
  %first = f32[10]{0} slice(%all), slice={[0:10]}
  ROOT %twice = f32[1000000]{0} add(%all, %all)
}

ENTRY %main (vector: f32[1000000], at: s32[]) -> (f32[10], f32[1000000], f32[500000]) {
  %vector = f32[1000000]{0} parameter(0)
  %at = s32[] parameter(1)
  %few = f32[10]{0} fusion(%vector, %at), kind=kLoop, calls=%fused
  %many = f32[1000000]{0} fusion(%vector), kind=kLoop, calls=%whole
  %half = f32[500000]{0} slice(%vector), slice={[0:500000]}
  ROOT %all = (f32[10]{0}, f32[1000000]{0}, f32[500000]{0}) tuple(%few, %many, %half)
}
"""


def test_of_an_array_that_a_kernel_only_slices_the_slices_count():
    found = consists_of(SLICING)
    few, many, half = 4 * 40 + 4, 2 * 4_000_000, 2 * 2_000_000
    assert found["kernels"] == 3 and found["gb"] == round((few + many + half) / 1e9, 3)
    assert found["counts"] == {"loop": [2, 0.008], "slice": [1, 0.004]}


TUPLES = """\
HloModule jit_f

%pair (a: f32[1000000]) -> (f32[1000000], (f32[500000], s8[1000])) {
  %a = f32[1000000]{0} parameter(0)
  %n = f32[1000000]{0} negate(%a)
}

ENTRY %main (x: f32[1000000]) -> f32[500000] {
  %x = f32[1000000]{0} parameter(0)
  %all = (f32[1000000]{0}, /*index=1*/(f32[500000]{0}, s8[1000]{0})) fusion(%x), kind=kLoop, calls=%pair
  %half = f32[500000]{0} negate(%all#1#0)
  ROOT %sum = f32[1000000]{0} negate(%all#0)
}
"""


def test_of_a_tuple_the_element_that_a_kernel_reads_counts():
    found = consists_of(TUPLES)
    made, half, whole = 4_000_000 + 6_001_000, 2 * 2_000_000, 2 * 4_000_000
    assert found["kernels"] == 3 and found["gb"] == round((made + half + whole) / 1e9, 3)


def test_inspection_shows_what_the_programs_of_a_recipe_cost_on_this_platform(monkeypatch, capsys):
    def small(config, axis_name=None, folded=False):
        return Small(Settings(axis_name=axis_name))

    monkeypatch.setattr(program_cost, "make_network", small)

    def forward(network):
        return jax.jit(lambda variables, image, low, high: network.apply(variables, normalize(image, low, high)[:, 0]))

    monkeypatch.setattr(program_cost, "make_forward", forward)
    monkeypatch.setattr(program_cost, "fold", lambda variables: variables)
    monkeypatch.setattr(network_facts, "inspect_recipe", lambda config: {"stage": config.stage})
    config = liver_coarse.get_config()
    config.patch_size, config.batch_size, config.window.batch_size = (32, 32, 1), 2, 3
    assert inspect.main(config, as_json=True, cost=True) == 0
    cost = json.loads(capsys.readouterr().out)["cost"]
    assert (cost["platform"], cost["devices"]) == ("cpu", 1)
    # Small: 3x3 from 1 to 4 channels, then 1x1 to 1. Of the first, no gradient is asked for with regard to the image.
    first, second = 2 * 32 * 32 * 9 * 4, 2 * 32 * 32 * 4
    assert cost["forward"]["gflop"] == pytest.approx(3 * (first + second) / 1e9)
    assert cost["train_step"]["gflop"] == pytest.approx(2 * (2 * first + 3 * second) / 1e9)
    assert (cost["train_step"]["patches"], cost["forward"]["patches"]) == (2, 3)
    parameters = 9 * 4 + 4 + 2 * 4 + 4 + 1
    for name, arrays in (("train_step", 3 * parameters), ("forward", parameters)):
        program = cost[name]
        assert 2 <= program["kernels"] == sum(count for count, _ in program["kinds"].values())
        assert program["argument_megabytes"] > 4 * arrays / 1e6 and program["temporary_megabytes"] > 0


def test_tables_show_the_cost_under_the_name_of_the_platform(capsys):
    program = {"patches": 2, "kernels": 1234, "transposes": 5, "gigabytes": 6.5, "gflop": 7.5, "xla_gflop": None}
    program |= {"temporary_megabytes": 8.5, "argument_megabytes": 9.5, "kinds": {}}
    cost = {"platform": "gpu", "device": "H100", "devices": 8, "train_step": program, "forward": program}
    network = {"name": "n", "stage": "voi", "parameters": [], "patch_size": [32, 32, 1], "batch_size": 2}
    network |= dict.fromkeys(("total_parameters", "batch_statistics"), 1)
    network |= dict.fromkeys(("activation_megabytes", "state_megabytes", "forward_gflop"), 1.0)
    inspection_tables.show_recipe(network | {"cost": cost})
    printed = capsys.readouterr().out
    assert "compiled for gpu (H100)" in printed and "train step, batch 2" in printed and "1,234" in printed


def test_a_cost_is_asked_of_a_recipe_and_of_a_batch_that_divides(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="--cost is of a recipe"):
        inspect.main(None, tmp_path, cost=True)
    config = liver_coarse.get_config()
    config.batch_size = 3
    monkeypatch.setattr(program_cost.jax, "local_device_count", lambda: 2)
    with pytest.raises(ValueError, match="batch_size 3 does not divide over 2 devices"):
        program_cost.recipe_cost(config)
