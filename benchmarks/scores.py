"""How fast a big liver case is scored, and the liver's surface distances beside scipy, surface-distance and MONAI.

    python -m benchmarks.scores

A case is drawn: a liver of two lobes, 20 lesions of which some are missed, split, bridged or made up. Each method gets
its own process, held to one core. What is not installed is reported as missing. The report is printed and, at the full
size, written to benchmarks/results/scores.md.
"""

import argparse
import datetime
import functools
import importlib.metadata
import itertools
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from scipy import ndimage

from benchmarks.machine import cpu
from raunet_jax.files import write_text
from raunet_jax.imaging.geometry import bounding_box
from raunet_jax.scores import score_liver_case
from raunet_jax.scores.surface import surface_scores

RESULTS = Path(__file__).parent / "results" / "scores.md"
FULL_SIZE = "512x512x600"
SPACING_MM = (1.0, 0.75, 0.75)  # (z, y, x)
LESIONS = 20
LIMITS = 10.0, 4.0  # seconds and GB for the whole case
AGREEMENT_MM = 1e-3
NAMES = ("assd", "rmsd", "msd", "hausdorff95")
LIBRARIES = ("numpy", "scipy", "edt", "connected-components-3d", "surface-distance", "monai", "torch")


def draw(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Labels (z, y, x) of a prediction and of a reference."""
    prediction, reference = np.zeros((2, *shape), np.uint8)
    scale = np.array(shape) / (600, 512, 512)

    def paint(labels, center, radii, label):
        center, radii = np.array(center) * scale, np.array(radii) * scale
        start, stop = np.maximum(0, center - radii).astype(int), np.minimum(shape, center + radii + 2).astype(int)
        y, x = np.ogrid[start[1] : stop[1], start[2] : stop[2]]
        in_plane = ((y - center[1]) / radii[1]) ** 2 + ((x - center[2]) / radii[2]) ** 2
        for z in range(start[0], stop[0]):
            part = labels[z, start[1] : stop[1], start[2] : stop[2]]
            part[in_plane + ((z - center[0]) / radii[0]) ** 2 <= 1] = label

    for center, radii in (((300, 260, 200), (165, 135, 120)), ((370, 215, 320), (90, 85, 110))):
        paint(reference, center, radii, 1)
        paint(prediction, np.add(center, (4, -3, 5)), np.multiply(radii, (1.02, 0.98, 1.01)), 1)
    rng = np.random.default_rng(0)
    places = itertools.product((200, 265, 330, 395), (215, 265, 315), (140, 195, 250))
    places = [place for place in places if sum(((np.array(place) - (300, 260, 200)) / (165, 135, 120)) ** 2) < 0.75]
    for number, place in enumerate(rng.permutation(places)[:LESIONS]):
        radii = rng.uniform(8, 22, 3)
        paint(reference, place, radii, 2)
        if number % 7 == 1:  # bridged to its neighbor along y
            paint(prediction, place, radii * (0.8, 1.0, 0.8), 2)
            paint(prediction, place + (0, 25, 0), (5, 30, 5), 2)
        elif number % 7 == 3:  # split
            for step in (-0.55, 0.55):
                paint(prediction, place + radii * (0, 0, step), radii * (0.7, 0.7, 0.45), 2)
        elif number % 7 != 5:  # neither is it missed
            paint(prediction, place + rng.uniform(-3, 3, 3), radii * rng.uniform(0.85, 1.15), 2)
    paint(prediction, (370, 215, 370), (10, 8, 9), 2)
    return prediction, reference


def whole_case(prediction, reference):
    scores = score_liver_case(prediction, reference, SPACING_MM)
    lesions = {name: scores["lesions"][name] for name in ("reference", "prediction", "detected")}
    return {name: scores["liver"][name] for name in NAMES} | {"lesions": lesions}


def whole_case_with_strays(prediction, reference):
    prediction[0, 0, 0] = prediction[-1, -1, -1] = reference[-1, 0, 0] = 2
    return whole_case(prediction, reference)


def ours(prediction, reference):
    return surface_scores(prediction > 0, reference > 0, SPACING_MM)


def scipy_cropped(prediction, reference):
    slices = bounding_box(prediction | reference).slices
    return scipy_whole(prediction[slices], reference[slices])


def scipy_whole(prediction, reference):
    masks = prediction > 0, reference > 0
    surfaces = [mask & ~ndimage.binary_erosion(mask, ndimage.generate_binary_structure(3, 2)) for mask in masks]
    pairs = surfaces, surfaces[::-1]
    transform = functools.partial(ndimage.distance_transform_edt, sampling=SPACING_MM)
    distances = np.concatenate([transform(~goal)[start] for start, goal in pairs])
    return named(distances.mean(), np.sqrt(np.square(distances).mean()), distances.max(), np.percentile(distances, 95))


def deepmind(prediction, reference):
    import surface_distance

    distances = surface_distance.compute_surface_distances(reference > 0, prediction > 0, SPACING_MM)
    largest, hausdorff95 = (surface_distance.compute_robust_hausdorff(distances, percent) for percent in (100, 95))
    return named(np.mean(surface_distance.compute_average_surface_distance(distances)), np.nan, largest, hausdorff95)


def monai(prediction, reference):
    import torch
    from monai.metrics.utils import get_edge_surface_distance

    masks = (torch.from_numpy(labels > 0) for labels in (prediction, reference))
    directions = get_edge_surface_distance(*masks, spacing=SPACING_MM, symmetric=True)[1]
    pooled, percentiles = torch.cat(directions).double(), [np.percentile(way.numpy(), 95) for way in directions]
    return named(pooled.mean(), pooled.square().mean().sqrt(), pooled.max(), max(percentiles))


def named(*values) -> dict[str, float]:
    return dict(zip(NAMES, map(float, values), strict=True))


# Title and how the definition differs.
METHODS = {
    whole_case: ("ours, whole case", "all scores of liver, tumor and lesions; shown: the liver's"),
    whole_case_with_strays: ("ours, whole case, strays", "the same with single tumor voxels in three corners"),
    ours: ("ours", "the liver's distances alone"),
    scipy_cropped: ("scipy, cropped", "the same, by distance_transform_edt in the masks' box"),
    scipy_whole: ("scipy, whole array", "the same, by distance_transform_edt"),
    deepmind: ("surface-distance", "surface elements weighted by area; directions apart: their mean, the larger HD95"),
    monai: ("MONAI", "surface by 6 neighbors; HD95: the larger direction's"),
}
SAME = whole_case, ours, scipy_cropped, scipy_whole


def measure(method, shape: tuple[int, int, int]) -> dict:
    """Run a method in this process: its values, median seconds and peak memory, or what is missing."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    warnings.simplefilter("ignore")  # of names the other libraries use that are deprecated
    try:
        method(*draw((60, 60, 60)))  # imports
    except ImportError as error:
        return {"missing": str(error)}
    masks, seconds, cpu = draw(shape), [], []
    while len(seconds) < 3 and sum(seconds) < 15:
        start = time.perf_counter(), time.process_time()
        values = method(*masks)
        seconds.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"values": values, "seconds": float(np.median(seconds)), "cpu": float(np.median(cpu)), "gb": gb}


def measure_apart(method, size: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.scores", f"--size={size}", f"--only={method.__name__}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=RESULTS.parents[2])
    return {"missing": f"exit code {done.returncode}"} if done.returncode else json.loads(done.stdout)


def machine() -> str:
    installed = {found.name.lower(): found.version for found in importlib.metadata.distributions()}
    versions = ", ".join(f"{name} {installed.get(name, 'missing')}" for name in LIBRARIES)
    load = f"load average {os.getloadavg()[0]:.1f} before the run"
    return f"{cpu()}, one of {os.cpu_count()} cores, {load}; {versions}; {datetime.date.today()}."


def compare(size: str) -> str:
    """Measure every method and return the report."""
    head = "| method | ASSD | RMSD | MSD | HD95 | s | CPU s | x ours | peak GB | definition |"
    where, rows = machine(), [head, "|---" * 10 + "|"]
    results = {method: measure_apart(method, size) for method in METHODS}
    for method, result in results.items():
        title, definition = METHODS[method]
        if "missing" in result:
            rows.append(f"| {title} | missing: {result['missing']} |" + " |" * 8)
            continue
        values = " | ".join("" if np.isnan(value) else f"{value:.4f}" for value in map(result["values"].get, NAMES))
        spent = f"{result['seconds']:.2f} | {result['cpu']:.2f} | {result['cpu'] / results[ours]['cpu']:.1f}"
        rows.append(f"| {title} | {values} | {spent} | {result['gb']:.2f} | {definition} |")
    case, same = results[whole_case], [results[method]["values"] for method in SAME]
    apart = max(abs(values[name] - same[-1][name]) for values in same for name in NAMES)
    if apart > AGREEMENT_MM:
        raise RuntimeError(f"ours and scipy's distances differ by {apart} mm")
    lesions = ", ".join(f"{name} {count}" for name, count in case["values"]["lesions"].items())
    kept = "within" if case["seconds"] < LIMITS[0] and case["gb"] < LIMITS[1] else "beyond"
    table = "\n".join(rows)
    return f"""# The scores

`python -m benchmarks.scores`: a drawn case of {size} voxels (x, y, z) of {SPACING_MM[::-1]} mm.
Lesions: {lesions}.
{where}

The whole case took {case["seconds"]:.1f} s on one core ({case["cpu"]:.1f} s of CPU) and {case["gb"]:.2f} GB at its
peak, {kept} the limits of {LIMITS[0]:g} s and {LIMITS[1]:g} GB.
Rows of the same definition differ by at most {apart:.1g} mm.

{table}

Distances in mm, of the liver. Seconds are the median of up to three runs, each method in its own process on one core;
on a busy machine CPU s says what an idle core would take. The peak is of that process, with its libraries and the two
masks. "x ours" is CPU time over that of the row "ours".
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default=FULL_SIZE, help="voxels along x, y, z; 128x128x100 for a quick look")
    names = {method.__name__: method for method in METHODS}
    parser.add_argument("--only", choices=names, help="measure this alone, in this process, and print JSON")
    args = parser.parse_args()
    if args.only:
        x, y, z = map(int, args.size.split("x"))
        print(json.dumps(measure(names[args.only], (z, y, x))))
        return
    text = compare(args.size)
    print(text, end="")
    if args.size == FULL_SIZE:
        write_text(RESULTS, text)


if __name__ == "__main__":
    main()
