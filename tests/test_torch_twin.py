import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from benchmarks import torch_twin, work  # noqa: E402
from raunet_jax.networks.raunet import RAUNet, init_variables  # noqa: E402

PAPER = {"I": 737_897, "II-128": 4_420_849, "II-224": 4_420_849, "BraTS": 12_778_945}


def on_meta(network: work.Network):
    """The twin and an image without memory."""
    batch, *space, channels = network.shape
    with torch.device("meta"):
        return torch_twin.RAUNet(len(space), channels, *network.widths).eval(), torch.zeros(batch, channels, *space)


@pytest.mark.parametrize("name", work.NETWORKS)
def test_parameters_are_as_many_as_the_papers_and_ours(name):
    network = work.NETWORKS[name]
    shapes = init_variables(RAUNet(*network.widths), network.shape[1:], 0)["params"]
    ours = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert torch_twin.parameter_count(on_meta(network)[0]) == ours == PAPER[name]


@pytest.mark.parametrize("name", work.NETWORKS)
def test_gflop_are_those_that_torch_counts(name):
    twin, image = on_meta(work.NETWORKS[name])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        twin(image)
    assert work.gflop(work.NETWORKS[name], "forward") == pytest.approx(counter.get_total_flops() / 1e9, rel=1e-9)


@pytest.mark.parametrize("space", [(32, 64), (32, 32, 64)])
def test_a_loaded_twin_computes_what_ours_computes(space):
    rng = np.random.default_rng(0)
    network = RAUNet(width=4, stem_width=8, bottom_width=16)
    variables = init_variables(network, (*space, 2), 0)
    variables = jax.tree.map(lambda leaf: leaf + rng.uniform(0, 0.2, leaf.shape).astype(np.float32), variables)
    image = rng.random((2, *space, 2), np.float32)
    twin = torch_twin.RAUNet(len(space), 2, 4, 8, 16)
    torch_twin.load(twin, variables)
    with torch.inference_mode():
        found = twin.eval()(torch.from_numpy(np.moveaxis(image, -1, 1).copy())).numpy()
    wanted = np.asarray(jax.jit(network.apply)(variables, image))
    np.testing.assert_allclose(np.moveaxis(found, 1, -1), wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_variables_of_another_network_are_refused():
    variables = init_variables(RAUNet(4, 8, 16), (32, 32, 1), 0)
    with pytest.raises(RuntimeError, match="size mismatch"):
        torch_twin.load(torch_twin.RAUNet(2, 1, 8, 8, 16), variables)
    del variables["params"]["Conv3"]
    with pytest.raises(RuntimeError, match="Missing key"):
        torch_twin.load(torch_twin.RAUNet(2, 1, 4, 8, 16), variables)
