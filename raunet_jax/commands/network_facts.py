"""What a recipe's networks are made of and what they cost; nothing is compiled, no accelerator is needed.

What the compiled programs cost: `program_cost`.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax.extend import core
from ml_collections import ConfigDict

from raunet_jax import recipe
from raunet_jax.networks.raunet import image_shape, make_network
from raunet_jax.training.losses import dice_loss

FLOAT_BYTES = 4  # parameters, Adam's moments and batch statistics are float32 whatever the activations are


def inspect_recipe(config: ConfigDict) -> dict:
    """What the networks of a recipe are made of and cost, by tracing alone: nothing is compiled or computed.

    Returns, for a stage's recipe:
        `parameters`: a dict an array: `name` (module/.../array), `shape`, `dtype`, `count`; `total_parameters` and
        `batch_statistics`, their numbers; `forward_gflop`, of the convolutions and matrix products of one patch, a
        multiplication and an addition counted as two, in the form this platform runs; `activation_megabytes`, what
        one patch of training keeps for the backward pass, before XLA fuses any of it; `state_megabytes`, of
        parameters, their gradients, Adam's two moments and the batch statistics; and `name`, `stage`, `patch_size`
        (x, y, z), `batch_size` from the recipe.
    For a cascade: `name`, `total_parameters` of all its networks, and these by stage under `stages`.

    Raises:
        ValueError: no network can have the recipe's patch size, width or precision.
    """
    stages = {stage: _inspect_network(part) for stage, part in recipe.stages_of(config).items()}
    if not recipe.is_cascade(config):
        return stages[config.stage]
    total = sum(part["total_parameters"] for part in stages.values())
    return {"name": config.name, "total_parameters": total, "stages": stages}


def _inspect_network(config: ConfigDict) -> dict:
    network, shape = make_network(config), image_shape(config)
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    # Flax's init runs the network forward, and what it draws the parameters with takes no convolution or product.
    init = functools.partial(network.init, train=True)  # as below, so that half of it need not be traced again
    forward, variables = jax.make_jaxpr(init, return_shape=True)(jax.random.key(0), image)
    arrays = sorted(flatten_dict(variables["params"], sep="/").items())
    parameters = [
        {"name": name, "shape": list(leaf.shape), "dtype": str(leaf.dtype), "count": leaf.size} for name, leaf in arrays
    ]
    total = sum(row["count"] for row in parameters)
    statistics = sum(leaf.size for leaf in jax.tree.leaves(variables["batch_stats"]))

    def saved_for_backward(params, batch_stats, image, mask):
        def loss(params):
            inputs = {"params": params, "batch_stats": batch_stats}
            logits, _ = network.apply(inputs, image, train=True, mutable=["batch_stats"])
            return dice_loss(jax.nn.sigmoid(logits), mask, config.loss_per_sample)

        return jax.vjp(loss, params)[1]  # a pytree that holds what the backward pass will read

    mask = jax.ShapeDtypeStruct((1, *shape[:-1], 1), jnp.float32)
    saved = jax.eval_shape(saved_for_backward, variables["params"], variables["batch_stats"], image, mask)
    saved_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(saved)) - FLOAT_BYTES * total
    return {
        "name": config.name,
        "stage": config.stage,
        "patch_size": list(config.patch_size),
        "batch_size": config.batch_size,
        "parameters": parameters,
        "total_parameters": total,
        "batch_statistics": statistics,
        "forward_gflop": count_flop(forward.jaxpr) / 1e9,
        "activation_megabytes": saved_bytes / 1e6,
        "state_megabytes": FLOAT_BYTES * (4 * total + statistics) / 1e6,
    }


def count_flop(jaxpr: core.Jaxpr) -> int:
    """Operations of the convolutions and matrix products of a traced function, products and sums counted apart.

    A loop's body counts once, however often it runs; the networks have no loop. XLA's own count would need a backend
    that offers one before it compiles, and CUDA's does not.
    """
    total = sum(count_flop(inner) for inner in core.subjaxprs(jaxpr))
    for equation in jaxpr.eqns:
        outputs = math.prod(equation.outvars[0].aval.shape)
        left, right = (invar.aval.shape for invar in equation.invars[:2]) if len(equation.invars) > 1 else ((), ())
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2 * outputs * math.prod(left[axis] for axis in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            # Of a kernel's axes all but the one of output channels are summed over.
            features = right[equation.params["dimension_numbers"].rhs_spec[0]]
            total += 2 * outputs * math.prod(right) // features
    return total
