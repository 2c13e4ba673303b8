"""What XLA makes of a network for an H100, found out on a machine without any GPU: kernels, bytes, layouts, memory.

    pip install "jax==0.11.2" "jax-cuda13-plugin==0.11.2" "jax-cuda13-pjrt==0.11.2" flax optax jaxtyping
    python -m benchmarks.gpu.h100_program II-128 train --batch=2 --precision=bfloat16
    python -m benchmarks.gpu.h100_program II-128 train --batch=2 --xla=--xla_gpu_force_conv_nhwc=true

From the root of a checkout, without any of NVIDIA's libraries. XLA compiles for a described GPU as far as the optimized
program (some 15 seconds of a core for a forward pass, 45 for a train step); the machine code is not awaited. Nothing is
tried out (autotuning is off), so which algorithm a convolution will have stays open, and no time is known; how many
kernels there are, which of them only transpose arrays, and how many bytes each touches is.
"""

import argparse
import functools
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

    from benchmarks import work
    from raunet_jax.networks.blocks import Settings
    from raunet_jax.networks.folding import fold
    from raunet_jax.networks.lowering import BY_PLATFORM
    from raunet_jax.networks.packing import pack
    from raunet_jax.networks.raunet import RAUNet, init_variables
    from raunet_jax.training import augmentation, optimizer, step

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
    image, mask = np.zeros(shape, np.int16), np.zeros((*shape[:-1], 1), np.uint8)
    if args.part == "forward":
        forward = jax.jit(lambda packed, image: net.apply(packed.unpack(), image))
        return forward.lower(like(pack(fold(variables))), like(image.astype(np.float32)))
    settings = optimizer.OptimizerSettings(1e-3, patience_epochs=20, epoch_steps=100)
    low = np.zeros((args.batch, shape[-1]), np.float32)
    batch = {"image": image, "mask": mask, "low": low, "high": low}
    step.jax.default_backend = lambda: "gpu"  # what it asks to know how kernels are to lie
    state = jax.device_get(step.begin(variables["params"], variables["batch_stats"], settings))
    one = functools.partial(step.train_step, net, settings, False, augmentation.OFF)
    return jax.jit(one, donate_argnums=0).lower(like(state), like(batch))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=("I", "II-128", "II-224", "BraTS"))
    parser.add_argument("part", choices=("forward", "train"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--lowering", default="gpu", help="gpu, plain, or rewrites with commas between")
    parser.add_argument("--remat", default="none")
    parser.add_argument("--xla", default="", help="XLA flags")
    parser.add_argument("--text", help="file for the program's text")
    args = parser.parse_args()
    dump = tempfile.mkdtemp(prefix="h100-program-")
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    os.environ["XLA_FLAGS"] = f"--xla_gpu_autotune_level=0 --xla_dump_to={dump} --xla_dump_hlo_as_text {args.xla}"
    import jax
    from jax.experimental import topologies

    from raunet_jax.networks.program import consists_of

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
