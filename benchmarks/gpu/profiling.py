"""The job of a campaign that tells where a step's time goes, kernel by kernel."""

import collections
import pathlib
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterable

from benchmarks.gpu.ours import Ours
from benchmarks.gpu.process import environment, network_of, rounds, say, variables_of, wait_for_go

STEPS = 5
SHOWN = 25  # kernels, those that take the most time
KINDS = (  # of kernels, by how their names are written by XLA, cuDNN and cuBLAS; the first that fits
    ("copies", r"memcpy|memset"),
    ("reductions", r"reduce"),
    ("transposes", r"transpose|nchwtonhwc|nhwctonchw"),
    ("convolutions", r"conv|implicit|xmma|cudnn|dgrad|wgrad|fprop"),
    ("matrix products", r"gemm|cutlass|dot"),
)


def profile(job, rehearse, folder):
    """The kernels of five steps by their time, and how much of the time the device had one to run."""
    environment(job, rehearse, folder)
    import jax

    made = Ours(job, network_of(job, rehearse), variables_of(network_of(job, rehearse), folder))
    for _ in range(3):
        made.wait(made.once())
    wait_for_go()
    place = tempfile.mkdtemp(dir=folder)
    plain = statistics.median(rounds(made.once, made.wait, 0.05 if rehearse else 0.3, 3))
    with jax.profiler.trace(place):
        start = time.perf_counter()
        for _ in range(STEPS):
            result = made.once()
        made.wait(result)
        wall = 1000 * (time.perf_counter() - start) / STEPS
    (path,) = pathlib.Path(place).rglob("*.xplane.pb")
    planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
    device = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    lines = [line for plane in device for line in plane.lines if "Stream" in line.name]
    if not device:  # a rehearsal: what runs on the host's threads
        lines = [line for plane in planes if plane.name.startswith("/host:CPU") for line in plane.lines]
    events = [(event.name, event.start_ns, event.duration_ns) for line in lines for event in line.events]
    say(ms_a_step=plain, ms_a_step_traced=wall, **tally(events, STEPS))
    shutil.rmtree(place, ignore_errors=True)


def tally(events: Iterable[tuple[str, float, float]], steps: int) -> dict:
    """Of kernels (name, start ns, duration ns): the milliseconds a step in which any runs, and each one's, by kind."""
    total, calls, kinds, spans = collections.Counter(), collections.Counter(), collections.Counter(), []
    for name, start, duration in events:
        name = re.sub(r"[_.]?\d+$", "", name)[:150]
        total[name] += duration / 1e6 / steps
        calls[name] += 1 / steps
        kinds[kind_of(name)] += duration / 1e6 / steps
        spans.append((start, start + duration))
    summed = sum(total.values())
    return {
        "busy_ms_a_step": _covered(spans) / 1e6 / steps,
        "kernels_a_step": round(sum(calls.values()), 1),
        "by_kind_ms": {kind: round(ms, 3) for kind, ms in kinds.most_common()},
        "kernels": [
            [ms, 100 * ms / max(summed, 1e-9), round(calls[name], 1), name.replace("|", "/")]
            for name, ms in total.most_common(SHOWN)
        ],
    }


def kind_of(name: str) -> str:
    """A kernel's kind, by its name."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, name.lower())), "other fusions")


def _covered(spans: list[tuple[float, float]]) -> float:
    """Length of what the spans cover together: streams may run kernels side by side."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
