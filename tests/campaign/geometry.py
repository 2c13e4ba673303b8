"""Orientations: whatever way a scan is stored, the same voxels in space are found, on the file's own grid.

The rule in place of a network is exact, so each mask has one right answer: the labels, turned as the scan is.
"""

import itertools
import pathlib

import nibabel as nib
import numpy as np
from scipy import spatial

from tests import exact_models
from tests.campaign import entry, writers
from tests.campaign.contents import read_mask
from tests.campaign.outcome import Outcome
from tests.campaign.world import World

ORDERS = [(order, flips) for order in itertools.permutations(range(3)) for flips in itertools.product((0, 1), repeat=3)]
FULL = 6
OBLIQUE = 24  # scans at random angles, of random size and spacing
SMALL_ANGLE = np.deg2rad(30)  # up to here a scan has the axes of the upright one
LOWEST, HIGHEST = entry.LIVER_HU


def attempt(world: World, number: int, rng: np.random.Generator, scratch: pathlib.Path) -> Outcome:
    """Trial `number` of a campaign; each tries a kind of orientations, and counts every scan."""
    trials = orders, small_angles, any_angle, series_orders, any_angle, series_at_an_angle
    return trials[number % len(trials)](world, rng, scratch)


def orders(world: World, rng: np.random.Generator, scratch: pathlib.Path, which=ORDERS) -> Outcome:
    """The abdomen in all orders and directions of its axes, upright, by the cascade."""
    hu, labels, affine = _abdomen()
    for number, (order, flips) in enumerate(which):
        (turned, answer), place = _turn((hu, labels), affine, order, flips)
        writers.save(scratch / "scans" / f"s{number:02d}.nii.gz", turned, place)
        np.save(scratch / f"s{number:02d}.npy", answer)
    return _judge(world, scratch, f"{len(which)} orders of axes", "liver")


def small_angles(world: World, rng: np.random.Generator, scratch: pathlib.Path, count: int = OBLIQUE) -> Outcome:
    """The abdomen in random orders, turned by up to 30 degrees about a random axis, by the cascade."""
    hu, labels, affine = _abdomen()
    for number in range(count):
        order, flips = ORDERS[rng.integers(len(ORDERS))]
        (turned, answer), place = _turn((hu, labels), affine, order, flips)
        place = _rotation(rng, SMALL_ANGLE * rng.random()) @ place
        writers.save(scratch / "scans" / f"s{number:02d}.nii.gz", turned, place)
        np.save(scratch / f"s{number:02d}.npy", answer)
    return _judge(world, scratch, f"{count} scans turned by up to 30 degrees", "liver")


def any_angle(world: World, rng: np.random.Generator, scratch: pathlib.Path, count: int = OBLIQUE) -> Outcome:
    """Noise of random shape and spacing at any angle, by a rule that sees the whole volume."""
    for number in range(count):
        hu = _noise(rng)
        place = _rotation(rng, np.pi * rng.random()) @ _diagonal(rng)
        path = writers.save(scratch / "scans" / f"s{number:02d}.nii.gz", hu, place)
        if rng.random() < 0.3:  # what a scanner with a tilted gantry leaves: no quaternion holds it
            _shear(path, hu, place, np.deg2rad(rng.uniform(1, 15)))
        np.save(scratch / f"s{number:02d}.npy", _found(hu))
    return _judge(world, scratch, f"{count} scans at any angle", "organ")


def series_orders(world: World, rng: np.random.Generator, scratch: pathlib.Path, count: int = 48) -> Outcome:
    """DICOM series with their rows, columns and slices along any of the patient's axes, either way."""
    hu, labels, affine = _abdomen()
    for number, (order, flips) in enumerate(ORDERS[:: 48 // count]):
        (turned, answer), place = _turn((hu, labels), affine, order, flips)
        writers.write_series(scratch / "scans" / f"s{number:02d}", turned, place)
        np.save(scratch / f"s{number:02d}.npy", _located(answer, place))
    return _judge(world, scratch, f"{count} orders of axes of DICOM series", "liver", in_space=True)


def series_at_an_angle(world: World, rng: np.random.Generator, scratch: pathlib.Path, count: int = OBLIQUE) -> Outcome:
    """DICOM series at any angle, by a rule that sees the whole volume."""
    for number in range(count):
        hu = _noise(rng)
        place = _rotation(rng, np.pi * rng.random()) @ _diagonal(rng)
        writers.write_series(scratch / "scans" / f"s{number:02d}", hu, place)
        np.save(scratch / f"s{number:02d}.npy", _located(_found(hu), place))
    return _judge(world, scratch, f"{count} DICOM series at any angle", "organ", in_space=True)


def _judge(world: World, scratch: pathlib.Path, what: str, stand_in: str, in_space: bool = False) -> Outcome:
    """Segment all that lies in scans/, and compare each mask with its answer."""
    arguments = ("--mode=predict", "--workdir=none", "--input=scans", "--output=masks")
    done = world.warm.command(arguments, scratch, stand_in)
    answers = sorted(scratch.glob("*.npy"))
    if done.broken or done.status:
        return Outcome(what, done.broken or f"exit status {done.status}: {done.tail}", len(answers))
    wrong = [fault for path in answers if (fault := _fault(scratch, path, in_space))]
    return Outcome(what, "; ".join(wrong[:3]) + f"; in all {len(wrong)}" * bool(wrong), len(answers))


def _fault(scratch: pathlib.Path, path: pathlib.Path, in_space: bool) -> str:
    """What is wrong with a mask, or ""."""
    mask, scan = scratch / "masks" / f"{path.stem}_seg.nii.gz", scratch / "scans" / f"{path.stem}.nii.gz"
    if not mask.exists():
        return f"{path.stem} has no mask"
    (voxels, affine), answer = read_mask(mask), np.load(path)
    if in_space:
        return _elsewhere(path.stem, _located(voxels, affine), answer)
    wanted = nib.load(scan)
    if voxels.shape != wanted.shape or not np.allclose(affine, wanted.affine, atol=1e-4):
        return f"{path.stem}: the mask lies on another grid than its scan"
    if not np.array_equal(voxels, answer):
        return f"{path.stem}: {np.count_nonzero(voxels != answer)} voxels differ"
    return ""


def _abdomen() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HU and labels (x, y, z), affine."""
    hu, labels = exact_models.abdomen()
    return hu.transpose(2, 1, 0), labels.transpose(2, 1, 0), exact_models.affine()


def _turn(arrays, affine, order, flips) -> tuple[list[np.ndarray], np.ndarray]:
    """The arrays with their axes in another order and some of them reversed, and the affine by which they stay."""
    shape = np.array(arrays[0].shape)
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        turn[old, new] = -1 if flip else 1
        turn[old, 3] = shape[old] - 1 if flip else 0
    reverse = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    return [np.ascontiguousarray(array.transpose(order)[reverse]) for array in arrays], affine @ turn


def _rotation(rng: np.random.Generator, angle: float) -> np.ndarray:
    """By `angle` about a random axis (Rodrigues' formula)."""
    x, y, z = axis = rng.normal(size=3)
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turned = np.eye(4)
    turned[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return turned


def _diagonal(rng: np.random.Generator) -> np.ndarray:
    affine = np.diag([*rng.uniform(0.5, 5, 3), 1])
    affine[:3, 3] = rng.uniform(-300, 300, 3)
    return affine


def _noise(rng: np.random.Generator) -> np.ndarray:
    """Blocks of HU in an array (x, y, z) of random shape."""
    shape = rng.integers((20, 20, 6), (48, 48, 24))
    coarse = rng.choice(np.array([-1000, -90, 40, 60, 110, 150, 300], np.int16), -(-shape // 4))
    hu = coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2)[: shape[0], : shape[1], : shape[2]].copy()
    hu[:2] = -1000
    return hu


def _found(hu: np.ndarray) -> np.ndarray:
    return ((hu >= LOWEST) & (hu <= HIGHEST)).astype(np.uint8)


def _shear(path: pathlib.Path, hu: np.ndarray, place: np.ndarray, angle: float) -> None:
    shear = np.eye(4)
    shear[1, 2] = np.tan(angle)
    image = nib.Nifti1Image(hu, place @ shear)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def _located(labels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """(n, 4): mm (x, y, z), RAS+, and label of each labeled voxel."""
    voxels = np.argwhere(labels)
    return np.column_stack([voxels @ affine[:3, :3].T + affine[:3, 3], labels[tuple(voxels.T)]])


def _elsewhere(name: str, found: np.ndarray, answer: np.ndarray) -> str:
    """A sentence where a labeled voxel has none of its label within 0.02 mm in the answer, or ""."""
    if len(found) != len(answer):
        return f"{name}: {len(found)} voxels where {len(answer)} are right"
    distances, nearest = spatial.cKDTree(answer[:, :3]).query(found[:, :3])
    wrong = (distances > 0.02) | (found[:, 3] != answer[nearest, 3])
    return f"{name}: {wrong.sum()} voxels lie elsewhere, by up to {distances.max():.2g} mm" if wrong.any() else ""
