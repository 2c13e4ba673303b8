"""What is wanted of a card, whether a campaign's results reach it, and what bounds those that do not.

The roofline of a train step is the time below which no program that runs a convolution at a time could take it: the
larger of the paper's operations over the card's measured rate of matrix products in bf16, and the bytes that must move
at least over its measured bandwidth. Those bytes are each convolution's input and output once, in bf16, in the forward
pass and in both of its gradients, and parameters and Adam's two moments, read and written in float32. All else is taken
to be free.
"""

from typing import NamedTuple

from benchmarks import work
from benchmarks.gpu.plan import BATCHES

FASTER_THAN_TORCH = 1.3
ROOFLINE_SHARE = 0.4
ROOFLINE_CASE = "II-224", 4  # network, batch
CASCADE_SECONDS = 5.0
ACTIVATION_BYTES, STATE_BYTES = 2, 4 * 3 * 2  # bf16; three float32 a parameter, read and written
LAUNCHES_BOUND = 0.2  # share of a step in which no kernel runs, from which the launches are what bounds it


class Target(NamedTuple):
    """`found` None: not measured. `bound`: what bounds what was found, where it is not as wanted."""

    name: str
    wanted: float
    found: float | None
    reached: bool | None
    of: str = ""
    bound: str = ""


def targets(results: list[dict]) -> list[Target]:
    """The targets of the present plan, judged by a campaign's rows."""
    judged = [_beside_torch(results, network, batch) for network, batch in BATCHES.items()]
    return [*judged, _roofline(results), _cascade(results)]


def least_gigabytes(network: work.Network) -> float:
    """That a train step must move, by the rule above."""
    found = work.convolutions(network)
    activations = sum(one.voxels * (one.inputs + one.features) for one in found)
    return (3 * ACTIVATION_BYTES * activations + STATE_BYTES * sum(one.parameters for one in found)) / 1e9


def roofline_ms(network: work.Network, ceilings: dict) -> tuple[float, str]:
    """Milliseconds of a train step on the roofline, and which side of it: "arithmetic" or "bytes"."""
    arithmetic = work.gflop(network, "train") / ceilings["bf16 TFLOP/s"]
    moved = least_gigabytes(network) / ceilings["TB/s read and written"]
    return max((arithmetic, "arithmetic"), (moved, "bytes"))


def fastest(results: list[dict], network: str, batch: int, library: str, **wanted) -> dict | None:
    """Of the timed train steps in bf16 the fastest one; `wanted` are fields of its job."""
    rows = []
    for row in results:
        job = row.get("job", {})
        case = {"kind": "time", "network": network, "batch": batch, "part": "train", "precision": "bfloat16"}
        if "ms" in row and (case | {"library": library} | wanted).items() <= job.items():
            rows.append(row)
    return min(rows, key=lambda row: row["ms"], default=None)


def _beside_torch(results: list[dict], network: str, batch: int) -> Target:
    name = f"{network} b{batch}, train step bf16: times as fast as torch.compile, channels last"
    ours = fastest(results, network, batch, "ours")
    modes = ("default", "reduce-overhead")
    theirs = [fastest(results, network, batch, "torch", channels_last=True, compiled=mode) for mode in modes]
    theirs = min((row for row in theirs if row), key=lambda row: row["ms"], default=None)
    if ours is None or theirs is None:
        missing = " and ".join(who for who, row in (("ours", ours), ("torch.compile's", theirs)) if row is None)
        return Target(name, FASTER_THAN_TORCH, None, None, f"{missing} not measured")
    found = theirs["ms"] / ours["ms"]
    of = f"{theirs['ms']:.3g} over {ours['ms']:.3g} ms ({ours['name']})"
    return _judged(name, FASTER_THAN_TORCH, found, found >= FASTER_THAN_TORCH, of, results, network)


def _roofline(results: list[dict]) -> Target:
    network, batch = ROOFLINE_CASE
    name = f"{network} b{batch}, train step bf16: share of the roofline"
    ours = fastest(results, network, batch, "ours")
    ceilings = next((row for row in results if "bf16 TFLOP/s" in row), None)
    if ours is None or ceilings is None:
        return Target(name, ROOFLINE_SHARE, None, None, "not measured")
    case = work.NETWORKS[network]
    least, side = roofline_ms(case._replace(shape=(batch, *case.shape[1:])), ceilings)
    found = least / ours["ms"]
    of = f"{least:.3g} ms by {side}, over {ours['ms']:.3g} ms ({ours['name']})"
    return _judged(name, ROOFLINE_SHARE, found, found >= ROOFLINE_SHARE, of, results, network)


def _cascade(results: list[dict]) -> Target:
    name = "512x512x200 CT through the cascade, bf16: seconds"
    rows = [row for row in results if row.get("job", {}).get("kind") == "cascade" and "s" in row]
    if not rows:
        return Target(name, CASCADE_SECONDS, None, None, "not measured")
    best = min(rows, key=lambda row: row["s"])
    stages = sorted(best["stages"].items(), key=lambda item: -item[1]["s"])
    shares = ", ".join(f"{stage} {part['s']:.3g} s ({part['windows']} windows)" for stage, part in stages)
    reached = best["s"] <= CASCADE_SECONDS
    of = f"{' x '.join(map(str, best['size_xyz']))} voxels, windows a call {best['window_batches']}"
    return Target(name, CASCADE_SECONDS, best["s"], reached, of, "" if reached else shares)


def _judged(name, wanted, found, reached, of, results, network) -> Target:
    return Target(name, wanted, found, reached, of, "" if reached else what_bounds(results, network))


def what_bounds(results: list[dict], network: str) -> str:
    """By the profile of its train step: launches, if the card often has no kernel to run; else the kernels."""
    row = next((row for row in results if _profiles(row, network)), None)
    if row is None:
        return "not profiled"
    step, busy, kinds = row["ms_a_step"], row["busy_ms_a_step"], row["by_kind_ms"]
    idle, summed = max(0.0, 1 - busy / step), max(1e-9, sum(kinds.values()))
    shares = ", ".join(f"{kind} {100 * ms / summed:.0f} %" for kind, ms in list(kinds.items())[:4])
    kernels = f"kernels run {busy:.3g} of {step:.3g} ms, by time {shares}"
    if idle >= LAUNCHES_BOUND:
        count = round(row["kernels_a_step"])
        return f"launches: for {100 * idle:.0f} % of a step none of its {count} kernels runs; {kernels}"
    return f"{next(iter(kinds), 'nothing')}: {kernels}"


def _profiles(row: dict, network: str) -> bool:
    job = row.get("job", {})
    return job.get("kind") == "profile" and job.get("network") == network and "busy_ms_a_step" in row
