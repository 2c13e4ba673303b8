"""What is folded into convolutions changes no logits, and leaves nothing to fold."""

import jax
import numpy as np

from configs import common
from raunet_jax.networks.folding import fold
from raunet_jax.networks.raunet import image_shape, init_variables, make_network


def test_a_folded_network_gives_the_same_logits():
    config = common.get_config()
    config.patch_size, config.network.width = (32, 64, 1), 4
    rng = np.random.default_rng(0)

    def draw(path, leaf):  # no scale of 1 and no mean of 0, behind which a mistake could hide
        spread = rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return leaf if path[-1].key == "kernel" else spread if path[-1].key in ("scale", "var") else spread - 1

    shape = image_shape(config)
    variables = jax.tree_util.tree_map_with_path(draw, init_variables(make_network(config), shape, 0))
    image = rng.normal(size=(1, *shape)).astype(np.float32)
    expected = jax.jit(make_network(config).apply)(variables, image)
    folded = fold(variables)
    logits = jax.jit(make_network(config, folded=True).apply)(folded, image)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * float(np.abs(expected).max()))

    needed = jax.eval_shape(make_network(config, folded=True).init, jax.random.key(0), image)
    assert jax.tree.structure(dict(needed)) == jax.tree.structure(folded)  # no variable too many
    norms = [path for path, _ in jax.tree_util.tree_leaves_with_path(folded["batch_stats"])]
    assert norms and all(path[-3].key == "reduce" for path in norms)
