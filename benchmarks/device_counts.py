"""What the number of devices changes of a training: its first step, and what rounding has made of that after epochs.

    python -m benchmarks.device_counts          # on two cores some minutes; a CPU is made up to be 1, 2 and 4 devices

The same batches, from the same weights. A device sums its own patches first, so that sums of the whole batch are made
in another order with another number of devices: what differs is rounding. Adam's first steps move each weight by the
learning rate in the direction of its gradient, however small, and so makes of a rounded zero a whole step: from then on
two trainings are no longer the same one, as little as two seeds are.
"""

import argparse
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile

import numpy as np

from benchmarks import machine
from benchmarks.networks import aligned
from raunet_jax import startup


def recipe(folder: pathlib.Path, epochs: int):
    """RA-UNet-I, narrow, on slices of drawn abdomens."""
    from configs import liver_coarse

    config = liver_coarse.get_config()
    config.patch_size, config.batch_size, config.epochs = (32, 32, 1), 8, epochs
    config.network.width = config.network.stem_width = config.network.bottom_width = 4
    config.network.momentum, config.learning_rate = 0.8, 5e-3
    config.data.update({"source": "phantom", "prepared": str(folder), "cases": 6, "phantom_size": (64, 64, 32)})
    config.data.update({"patches_per_case": 16.0, "workers": 1})
    return config


def train(folder: pathlib.Path, epochs: int) -> dict:
    """Train on all devices of this process.

    Returns:
        "losses" of each step, "gradients" of the first (its Adam moment over 0.1), "weights" after it, and at the end
        of each epoch, and "dice" of each epoch.
    """
    import jax
    import optax

    from data_prep import patch_dataset
    from raunet_jax.run_folder import FoldFolder
    from raunet_jax.training.fold_run import FoldRun

    config = recipe(folder, epochs)
    patch_set = patch_dataset.prepare(config).folder
    run = FoldRun(config, patch_set, FoldFolder(folder / f"run_{jax.device_count()}"), 0)
    told = {"losses": [], "dice": [], "weights": []}
    record = run.record
    run.record = lambda number, cases, loss: (told["losses"].append(loss), record(number, cases, loss))

    def flat(tree) -> np.ndarray:
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(tree))]).astype(np.float64)

    with run.checkpoints:
        while run.step < run.last_step:
            run.take_step(next(run.loader))
            if run.step == 1:
                adam = [part for part in jax.tree.leaves(run.state.optimizer, is_leaf=_is_adam) if _is_adam(part)]
                told["gradients"] = flat(adam[0].mu) / 0.1
                told["weights"].append(flat(run.state.params))
            if run.epoch_ended:
                told["dice"].append(run.end_epoch()["validation_dice"])
                told["weights"].append(flat(run.state.params))
    assert isinstance(adam[0], optax.ScaleByAdamState)
    return told


def _is_adam(part) -> bool:
    return hasattr(part, "mu") and hasattr(part, "nu")


def table(told: dict[int, dict], learning_rate: float) -> str:
    """What differs from one device."""
    one = told[min(told)]
    lines = [
        ["devices", "loss, 1st step", "gradient, 1st step", "weights, 1st step", "loss, last", "Dice of each epoch"]
    ]
    for count, here in told.items():
        gradients = np.linalg.norm(here["gradients"] - one["gradients"]) / np.linalg.norm(one["gradients"])
        moved = np.abs(here["weights"][0] - one["weights"][0]).max() / learning_rate
        lines.append([str(count), _apart(here["losses"][0], one["losses"][0]), f"{gradients:.1e}"])
        lines[-1] += [f"{moved:.2g} learning rates", _apart(here["losses"][-1], one["losses"][-1])]
        lines[-1].append(", ".join("none" if dice is None else f"{dice:.5f}" for dice in here["dice"]))
    return aligned(lines)


def _apart(value: float, other: float) -> str:
    return f"{abs(value / other - 1):.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--counts", default="1,2,4", help="of devices, with commas between")
    parser.add_argument("--in_process", nargs=2, help=argparse.SUPPRESS)  # folder, and where to write what is found
    args = parser.parse_args()
    if args.in_process:
        folder, out = map(pathlib.Path, args.in_process)
        out.write_bytes(pickle.dumps(train(folder, args.epochs)))
        return
    told = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in map(int, args.counts.split(",")):
            flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}".strip()
            out = pathlib.Path(folder) / f"{count}.pickle"
            command = [sys.executable, "-m", "benchmarks.device_counts", f"--epochs={args.epochs}"]
            environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
            subprocess.run([*command, "--in_process", folder, str(out)], env=environment, check=True)
            told[count] = pickle.loads(out.read_bytes())
    print(f"{machine.name('cpu')}, made up to be so many devices; relative differences from one device\n")
    print(table(told, recipe(pathlib.Path(), args.epochs).learning_rate))


if __name__ == "__main__":
    startup.set_environment()
    main()
