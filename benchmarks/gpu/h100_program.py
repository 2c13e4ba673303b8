"""What XLA makes of a network for an H100, found out on a machine without any GPU: kernels, bytes, layouts, memory.

    pip install "jax==0.11.2" "jax-cuda13-plugin==0.11.2" "jax-cuda13-pjrt==0.11.2" flax optax jaxtyping
    python -m benchmarks.gpu.h100_program II-128 train --batch=2 --precision=bfloat16
    python -m benchmarks.gpu.h100_program II-128 train --batch=2 --xla=--xla_gpu_force_conv_nhwc=true --flat

From the root of a checkout, without any of NVIDIA's libraries. XLA compiles for a described GPU as far as the optimized
program (some 15 seconds of a core for a forward pass, 45 for a train step); the machine code is not awaited. Nothing is
tried out (autotuning is off), so which algorithm a convolution will have stays open, and no time is known; how many
kernels there are, which of them only transpose arrays, and how many bytes each touches is.
"""

import argparse
import glob
import json
import os
import pathlib
import re
import tempfile
import threading
import time

H100 = """
gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000
  l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536 }
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 8 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def lowered(args, sharding):
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from benchmarks import work
    from raunet_jax.networks.blocks import Settings
    from raunet_jax.networks.folding import fold
    from raunet_jax.networks.lowering import BY_PLATFORM
    from raunet_jax.networks.raunet import RAUNet, init_variables
    from raunet_jax.training.losses import dice_loss

    def like(tree):
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), np.asarray(leaf).dtype, sharding=sharding), tree
        )

    network = work.NETWORKS[args.network]
    shape = (args.batch, *network.shape[1:])
    dtype = jnp.bfloat16 if args.precision == "bfloat16" else jnp.float32
    lowering = ",".join(BY_PLATFORM["gpu"]) if args.lowering == "gpu" else args.lowering
    net = RAUNet(*network.widths, Settings(dtype, lowering=lowering, remat=args.remat, folded=args.part == "forward"))
    variables = init_variables(RAUNet(*network.widths), shape[1:], 0)
    image, mask = (jax.ShapeDtypeStruct(s, jnp.float32, sharding=sharding) for s in (shape, (*shape[:-1], 1)))
    if args.part == "forward":
        return jax.jit(net.apply).lower(like(fold(variables)), image)

    def objective(params, statistics, image, mask):
        held = {"params": params, "batch_stats": statistics}
        logits, updates = net.apply(held, image, train=True, mutable=["batch_stats"])
        return dice_loss(jax.nn.sigmoid(logits), mask), updates["batch_stats"]

    if not args.flat:
        optimizer = optax.adam(1e-3)
        start = jax.eval_shape(optimizer.init, variables["params"])
        start = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), start)

        def step(params, statistics, state, image, mask):
            (loss, moved), gradients = jax.value_and_grad(objective, has_aux=True)(params, statistics, image, mask)
            updates, state = optimizer.update(gradients, state)
            return optax.apply_updates(params, updates), moved, state, loss

        donated = jax.jit(step, donate_argnums=(0, 1, 2))
        return donated.lower(like(variables["params"]), like(variables["batch_stats"]), like(start), image, mask)

    def packing(tree):
        leaves, form = jax.tree.flatten(tree)
        ends = np.cumsum([leaf.size for leaf in leaves]).tolist()

        def unpack(vector):
            parts = (vector[end - leaf.size : end].reshape(leaf.shape) for end, leaf in zip(ends, leaves, strict=True))
            return jax.tree.unflatten(form, parts)

        return np.concatenate([np.ravel(leaf) for leaf in leaves]), unpack

    (params, unpack), (statistics, unpack_statistics) = map(packing, (variables["params"], variables["batch_stats"]))

    def join(tree):
        return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])

    def flat_step(params, statistics, mean, square, image, mask):
        (loss, moved), gradients = jax.value_and_grad(objective, has_aux=True)(
            unpack(params), unpack_statistics(statistics), image, mask
        )
        gradient = join(gradients)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        return params - 1e-3 * mean / (jnp.sqrt(square) + 1e-8), join(moved), mean, square, loss

    return jax.jit(flat_step, donate_argnums=(0, 1, 2, 3)).lower(
        like(params), like(statistics), like(params), like(params), image, mask
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=("I", "II-128", "II-224", "BraTS"))
    parser.add_argument("part", choices=("forward", "train"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--lowering", default="gpu", help="gpu, plain, or rewrites with commas between")
    parser.add_argument("--remat", default="none")
    parser.add_argument("--flat", action="store_true", help="train: the state in four vectors in place of 2,586 arrays")
    parser.add_argument("--xla", default="", help="XLA flags")
    parser.add_argument("--text", help="file for the program's text")
    args = parser.parse_args()
    dump = tempfile.mkdtemp(prefix="h100-program-")
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    os.environ["XLA_FLAGS"] = f"--xla_gpu_autotune_level=0 --xla_dump_to={dump} --xla_dump_hlo_as_text {args.xla}"
    import jax
    from jax.experimental import topologies

    from benchmarks.gpu.program import consists_of

    topology = topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1")
    mesh = topologies.make_mesh(topology, (1,), ("devices",))
    program = lowered(args, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    threading.Thread(target=program.compile, daemon=True).start()

    def largest(pattern):
        return max(glob.glob(f"{dump}/**/{pattern}", recursive=True), key=os.path.getsize, default=None)

    while (
        not largest("*after_optimizations.txt")
        or os.path.getsize(largest("*buffer-assignment.txt") or os.devnull) < 1e5
    ):
        time.sleep(1)
    time.sleep(2)
    text = pathlib.Path(largest("*after_optimizations.txt")).read_text()
    if args.text:
        pathlib.Path(args.text).write_text(text)
    found = consists_of(text)
    sizes = re.findall(
        r"size (\d+)[^\n]*preallocated-temp", pathlib.Path(largest("*buffer-assignment.txt")).read_text()
    )
    found["MB of temporaries"] = round(sum(map(int, sizes)) / 1e6)
    print(json.dumps(found, indent=1), flush=True)
    os._exit(0)  # the machine code is still under way


if __name__ == "__main__":
    main()
