"""The networks and PyTorch's twins as processes run them, on the same weights and images."""

import dataclasses
import multiprocessing
import os

import numpy as np

from benchmarks.processes import Environment, Worker
from benchmarks.work import Network

LEARNING_RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Case:
    """What is computed: part is forward, train, or matmul (a square one, that gives the machine's peak)."""

    name: str
    network: Network
    part: str
    precision: str  # float32 (on a GPU with TF32, as is usual), highest (without), or bfloat16 (activations)
    device: str  # cpu or gpu


@dataclasses.dataclass(frozen=True)
class Contender:
    """Who computes it.

    Attributes:
        library, xla_flags, huge_pages, devices: see Environment.
        lowering, remat: of ours.
        folded: of ours, forward: batch norm is part of the convolutions, as it is when a scan is predicted.
        channels_last, compiled: of torch; compiled is a mode of torch.compile.
    """

    title: str
    library: str
    lowering: str = "auto"
    remat: str = "none"
    folded: bool = True
    xla_flags: bool = True
    huge_pages: bool = True
    devices: int = 1
    channels_last: bool = False
    compiled: str = ""


def start(case: Case, contender: Contender, variables: dict | None) -> Worker:
    """A process that computes `case` with `variables` (of drawn_variables; a matmul has none)."""
    shared = {field.name: getattr(contender, field.name) for field in dataclasses.fields(Environment)[1:]}
    build = {"ours": _ours, "torch": _torch}[contender.library]
    return Worker(Environment(case.device, **shared), build, case, contender, variables)


def drawn_batch(network: Network) -> tuple[np.ndarray, np.ndarray]:
    """A noisy ball and its mask, float32 (b, [z,] y, x, channel)."""
    batch, *space, channels = network.shape
    grids = np.meshgrid(*(np.linspace(-1, 1, size, dtype=np.float32) for size in space), indexing="ij")
    ball = (sum(grid**2 for grid in grids) < 0.4).astype(np.float32)[None, ..., None]
    noise = np.random.default_rng(1).random(network.shape, np.float32)
    return 0.5 * ball + 0.5 * noise, np.broadcast_to(ball, (batch, *space, 1)).copy()


def drawn_variables(network: Network) -> dict:
    """Variables of ours, none of them at a value, such as a bias of 0, that would hide that it is not used.

    They are drawn in a process of its own, so that the parent holds no device.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_draw_variables, (network,))


def _draw_variables(network: Network) -> dict:
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    from raunet_jax.networks.raunet import RAUNet, init_variables

    rng = np.random.default_rng(2)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            return leaf
        shift = 1.0 if name in ("scale", "var") else 0.0
        return (shift + rng.uniform(-0.2, 0.2, leaf.shape)).astype(np.float32)

    variables = init_variables(RAUNet(*network.widths), network.shape[1:], 0)
    return jax.tree_util.tree_map_with_path(draw, variables)


def _ours(case: Case, contender: Contender, variables: dict | None):
    import jax
    import jax.numpy as jnp

    from raunet_jax.networks.blocks import Settings
    from raunet_jax.networks.folding import fold
    from raunet_jax.networks.raunet import RAUNet
    from raunet_jax.training import step

    wait = jax.block_until_ready
    if case.precision == "highest":
        jax.config.update("jax_default_matmul_precision", "highest")
    dtype = jnp.bfloat16 if case.precision == "bfloat16" else jnp.float32
    if case.part == "matmul":
        x = jnp.ones(case.network.shape, dtype)
        product = jax.jit(jnp.matmul)
        return lambda: product(x, x), wait, lambda result: float(result[0, 0])

    settings = Settings(dtype, lowering=contender.lowering, remat=contender.remat)
    image, mask = drawn_batch(case.network)
    if case.part == "forward":
        network = RAUNet(*case.network.widths, dataclasses.replace(settings, folded=contender.folded))
        variables, image = jax.device_put((fold(variables) if contender.folded else variables, image))
        apply = jax.jit(network.apply)
        return lambda: apply(variables, image), wait, np.asarray

    network = RAUNet(*case.network.widths, dataclasses.replace(settings, axis_name=step.reduction_axis()))
    low = np.zeros((len(image), image.shape[-1]), np.float32)
    batch = step.split_over_devices({"image": image, "mask": mask, "low": low, "high": low + 1})
    state = make_state(variables)
    train_step = make_step(network)

    def once():
        nonlocal state
        state, metrics = train_step(state, batch)
        return metrics["loss"]

    return once, lambda loss: wait((loss, state)), float


def make_step(network):
    """The compiled train step of `network` that takes what `make_state` makes."""
    from raunet_jax.training import step

    return step.make_train_step(network, _settings(), False)


def make_state(variables: dict):
    """The TrainState before the first step from these variables."""
    from raunet_jax.training import step

    return step.replicate(step.begin(variables["params"], variables["batch_stats"], _settings()))


def _settings():
    from raunet_jax.training.optimizer import OptimizerSettings

    return OptimizerSettings(LEARNING_RATE, patience_epochs=20, epoch_steps=100)


def _torch(case: Case, contender: Contender, variables: dict | None):
    import torch

    from benchmarks import torch_twin

    device = torch.device({"cpu": "cpu", "gpu": "cuda"}[case.device])
    exact, low = case.precision == "highest", case.precision == "bfloat16"
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = not exact
    torch.set_float32_matmul_precision("highest" if exact else "high")

    def wait(result):
        if case.device == "gpu":
            torch.cuda.synchronize()

    if case.part == "matmul":
        x = torch.ones(case.network.shape, dtype=torch.bfloat16 if low else torch.float32, device=device)
        return lambda: x @ x, wait, lambda result: float(result[0, 0])

    batch, *space, channels = case.network.shape
    dims = len(space)
    twin = torch_twin.RAUNet(dims, channels, *case.network.widths)
    torch_twin.load(twin, variables)
    layout = torch.contiguous_format
    if contender.channels_last:
        layout = {2: torch.channels_last, 3: torch.channels_last_3d}[dims]
    twin = twin.to(device, memory_format=layout)
    image, mask = (torch.from_numpy(np.moveaxis(array, -1, 1).copy()) for array in drawn_batch(case.network))
    image, mask = image.to(device, memory_format=layout), mask.to(device)
    model = torch.compile(twin, mode=contender.compiled) if contender.compiled else twin

    def logits():
        torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            return model(image).float()

    if case.part == "forward":
        twin.eval()
        return torch.inference_mode()(logits), wait, lambda result: np.moveaxis(result.cpu().numpy(), 1, -1)

    twin.train()
    optimizer = torch.optim.Adam(twin.parameters(), LEARNING_RATE, (0.9, 0.999), 1e-8, fused=True)

    def once():
        optimizer.zero_grad()
        loss = torch_twin.dice_loss(logits(), mask)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return once, wait, float
