"""Memory and time of predicting a CT of 512 x 512 x 1000 by the liver's three networks in their real widths.

Nothing is trained: the networks have their initial weights, and compute all that trained ones would. What stages 1 and
2 answer is put in place of what they compute, so that the liver is where it was drawn, and as large as one is.
"""

import os
import pathlib
import time

import numpy as np

from tests.campaign.processes import FORKS

FAT, BODY, LIVER = -90, 40, 110  # HU
SPACING_XYZ = 0.8, 0.8, 1.0  # mm: a scan of a meter, with a liver of 2.2 liters
RADII = 80, 95, 110  # voxels of the liver (x, y, z)


def predict_big_ct(root: pathlib.Path, slices: int = 1000) -> str:
    """Draw it, segment it in a process of its own, and tell what that took."""
    draw(root / "ct.nii", slices)
    begin, peak = time.monotonic(), 0
    process = FORKS.Process(target=segment, args=(root / "ct.nii", root / "masks"))
    process.start()
    while process.is_alive():
        peak = max(peak, _peak_bytes(process.pid))
        process.join(0.5)
    mask = root / "masks" / "ct_seg.nii.gz"
    if process.exitcode or not mask.exists():
        return f"failed: exit status {process.exitcode}, peak {peak / 1e9:.1f} GB"
    cores, voxels = len(os.sched_getaffinity(0)), 512 * 512 * slices * 2 / 1e9
    return (
        f"512 x 512 x {slices}: {time.monotonic() - begin:.0f} s with compilation on {cores} cores, "
        f"peak of memory {peak / 1e9:.1f} GB, of {voxels:.2f} GB of voxels"
    )


def draw(path: pathlib.Path, slices: int) -> None:
    """A body in its fat, with a liver in its middle, and noise."""
    from raunet_jax.imaging.volume import write_nifti

    rng = np.random.default_rng(0)
    noise = rng.integers(-12, 13, (8, 512, 512)).astype(np.int16)
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    radius = (x / 0.9) ** 2 + (y / 0.7) ** 2
    body = np.select([radius < 0.8, radius < 1], [BODY, FAT], -1000).astype(np.int16)
    hu = np.empty((slices, 512, 512), np.int16)
    for z in range(slices):
        part = body + noise[z % 8]
        inside = 1 - ((z - 0.55 * slices) / RADII[2]) ** 2
        part[(256 * (x - 0.3) / RADII[0]) ** 2 + (256 * y / RADII[1]) ** 2 < inside] += LIVER - BODY
        hu[z] = part
    write_nifti(path, hu, np.diag([*SPACING_XYZ, 1.0]))


def segment(scan: pathlib.Path, output: pathlib.Path) -> None:
    """In a child: predict with configs/liver.py, one model a stage."""
    import jax
    import jax.numpy as jnp

    from configs import liver
    from raunet_jax import progress, recipe
    from raunet_jax.commands.predict import predict
    from raunet_jax.inference import cascade
    from raunet_jax.inference.models import StageModel
    from raunet_jax.networks.folding import fold
    from raunet_jax.networks.raunet import image_shape, init_variables, make_network

    progress.log_to_stderr()
    make_forward = cascade.make_forward

    def answered(network):
        compute = make_forward(network)

        def forward(variables, windows, low, high):
            found = compute(variables["network"], windows, low, high)
            hu = windows.max(axis=-1)
            drawn = ((hu > 80) & (hu < 140)).astype(found.dtype)
            return jnp.where(variables["answered"], drawn + 0 * found, found)

        return forward

    cascade.make_forward = answered
    models = {}
    for name, config in recipe.stages_of(liver.get_config()).items():
        variables = init_variables(make_network(config, None), image_shape(config), config.seed)
        network = jax.device_put(fold(jax.device_get(variables)))
        models[name] = StageModel(config, ({"network": network, "answered": name != "tumor"},))
    predict(models, [scan], output)


def _peak_bytes(pid: int) -> int:
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(lines[0].split()[1]) * 1024 if lines else 0
