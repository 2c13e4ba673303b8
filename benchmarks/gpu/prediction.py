"""Jobs of a campaign that predict: a volume by windows of several batches, and a CT by the three-stage cascade."""

import statistics
import time

from benchmarks.gpu.process import environment, missing_for_run, network_of, rounds, say, variables_of, wait_for_go


def windows(job, rehearse, folder):
    """Windows a second over a volume by their batch, beside what the device alone and the host alone could do."""
    environment(job, rehearse, folder)
    import jax
    import jax.numpy as jnp
    import numpy as np

    from raunet_jax.inference.windows import make_forward, predict_windows, window_origins
    from raunet_jax.networks.blocks import Settings
    from raunet_jax.networks.folding import as_argument, fold
    from raunet_jax.networks.raunet import RAUNet

    network = network_of(job, rehearse)
    in_plane, flat = network.shape[-3:-1], len(network.shape) == 4
    if flat:  # slices, each one window
        patch = step = (1, *in_plane)
        shape, batches = (200, *in_plane), (1, 4, 8, 16, 32, 64)
    else:
        patch = network.shape[1:-1]
        step, shape, batches = tuple(length // 2 for length in patch), (200, 512, 512), (1, 2, 4, 8, 16)
    if rehearse:
        shape, batches = (64 if not flat else 6, *(2 * length for length in in_plane)), (1, 2)
    dtype = jnp.bfloat16 if job["precision"] == "bfloat16" else jnp.float32
    forward = make_forward(RAUNet(*network.widths, Settings(dtype, folded=True)))
    variables = jax.device_put(as_argument(fold(variables_of(network, folder))))
    limits = np.float32([-100]), np.float32([200])
    volume = np.random.default_rng(0).integers(-200, 300, (*shape, 1)).astype(np.int16)
    count, voxels = len(window_origins(shape, patch, step)), int(np.prod(patch))
    held = {}
    for batch in batches:
        held[batch] = jax.device_put(
            np.zeros((batch, *patch, 1), np.int16) + volume[: patch[0], : patch[1], : patch[2]]
        )
        jax.block_until_ready(forward(variables, held[batch], *limits))
    wait_for_go()
    answer = {"windows": count, "MB in a window": 2e-6 * voxels, "MB out a window": 4e-6 * voxels, "batches": {}}
    for batch in batches:
        alone = statistics.median(
            rounds(lambda batch=batch: forward(variables, held[batch], *limits), jax.block_until_ready, 0.3, 3)
        )
        start = time.perf_counter()
        predict_windows(lambda some: forward(variables, some, *limits), volume, patch, step, batch)
        whole = time.perf_counter() - start
        blank = np.zeros((batch, *patch), np.float32)
        start = time.perf_counter()
        predict_windows(lambda some, blank=blank: blank, volume, patch, step, batch)
        host = time.perf_counter() - start
        answer["batches"][batch] = {
            "s": whole,
            "windows/s": count / whole,
            "device alone s": alone / 1000 * -(-count // batch),
            "host alone s, no transfers": host,
        }
    say(**answer)


def cascade(job, rehearse, folder):
    """Seconds of a drawn CT through the cascade at the recipe's widths, by stage; the weights find the liver.

    `window_batches`: stage -> windows a call, where it is not to be the recipe's.
    """
    missing = missing_for_run()
    if missing:
        say(skipped=f"missing: {', '.join(missing)}")
        return
    environment(job, rehearse, folder)
    import jax
    import numpy as np

    from benchmarks.predict import LIVER_HU_WIDTH, finder
    from configs import liver
    from data_prep.phantom_abdomen import draw_abdomen
    from raunet_jax.inference.cascade import StageModel, segment
    from raunet_jax.networks.folding import as_argument, fold
    from raunet_jax.networks.raunet import image_shape, init_variables, make_network

    volume, labels = draw_abdomen(np.random.default_rng(0), (64, 64, 40) if rehearse else (512, 512, 200))
    liver_hu = float(np.median(volume.voxels[labels == 1]))
    of_liver = liver_hu - LIVER_HU_WIDTH, liver_hu + LIVER_HU_WIDTH
    ranges = {"coarse": of_liver, "voi": of_liver, "tumor": (0, of_liver[0])}
    config, models = liver.get_config(), {}
    for name, stage in config.stages.items():
        stage.precision = "bfloat16"
        stage.window.batch_size = job["window_batches"].get(name, stage.window.batch_size)
        if rehearse:
            stage.network.width, stage.patch_size = 4, (32, 32, min(32, stage.patch_size[2]))
            stage.window.step = (32, 32, 1 if name == "coarse" else 20)
        variables = finder(init_variables(make_network(stage), image_shape(stage), 0), *ranges[name])
        models[name] = StageModel(stage, (jax.device_put(as_argument(fold(variables))),))
    counts = {}

    def announce(stage, count):
        counts[stage] = count
        return lambda done: None

    start = time.perf_counter()
    segment(volume, models, announce=announce)
    first = time.perf_counter() - start
    wait_for_go()
    found, seconds = [], []
    for _ in range(2):
        start = time.perf_counter()
        found.append(segment(volume, models))
        seconds.append(time.perf_counter() - start)
    best = found[int(np.argmin(seconds))]
    overlap = 2 * np.sum((best.labels > 0) & (labels > 0)) / (np.sum(best.labels > 0) + np.sum(labels > 0))
    say(
        s=min(seconds),
        s_all=seconds,
        first_s=first,
        size_xyz=list(reversed(volume.shape)),
        box_xyz=list(reversed(best.box.shape)) if best.box else None,
        stages={name: {"s": best.seconds[name], "windows": counts[name]} for name in best.seconds},
        window_batches={name: stage.window.batch_size for name, stage in config.stages.items()},
        liver_dice=float(overlap),
    )
