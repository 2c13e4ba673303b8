"""Whether what was found can be what it is called, by measures of the scan and of the result; said, never corrected.

A network paints its structure into whatever it is shown: a head, a scan without contrast agent, a liver cut in two.
Each measure is compared with what `LIVER`, `BODY` and `BRAIN` hold, wide enough that an adult patient passes:

- liver, mL: -794 + 1267 x body surface (m2) is 850 to 2250 (Vauthey et al., Liver Transplantation 8(3), 2002); with
  room for a resected and for an enlarged one.
- liver, HU: 55 to 65 unenhanced, below 40 with much fat in it, 60 to 80 in the arterial phase, 90 to 130 in the portal
  venous one that LiTS is of (Prokop and Galanski, Spiral and Multislice Computed Tomography of the Body, 2003).
- liver, height: 100 to 160 mm in the midclavicular line (same source).
- head, mm: 145 to 165 wide and 180 to 210 long; abdomen 260 to 420 wide (Gordon et al., ANSUR, 1989).
- brain, mL: 950 to 1700 with its fluid (Cosgrove et al., Biological Psychiatry 62(8), 2007).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from raunet_jax import tasks
from raunet_jax.imaging.components import largest_and_sizes
from raunet_jax.imaging.volume import Volume
from raunet_jax.inference.lesion_table import voxel_volume_mm3

LIVER = MappingProxyType(
    {
        "ml": (600, 3000),
        "hu": (70, 160),
        "fat_hu": 40,  # below: not even an unenhanced one
        "hu_sd": 70,  # noise of thin slices is 30 to 40; lung or bone inside the mask adds more
        "x": (0.5, 0.9),  # where its middle lies, 0 at the body's left side and 1 at its right
        "y": (0.25, 0.85),  # 0 at its back and 1 at its front
        "largest": 0.9,  # share of its largest piece
        "outside": 0.05,  # share that lies outside of the body
        "cut_mm2": 200,  # of it in the first or the last slice
        "tumor": 0.6,  # share of tumors in it
        "height_mm": 100,  # a scan that is shorter cannot hold it
    }
)
BODY = MappingProxyType(
    {
        "tissue_hu": (0, 100),
        "tissue_ml": 300,  # a slice of an adult has 150 mL a centimeter
        "head_mm": 200,  # a body that is narrower and has more bone than `bone` is a head or a limb
        "bone": 0.1,
        "lung_slices": 0.9,  # share of slices with lung in them from which on a scan is one of the thorax
        "side": 0.15,  # share of the sides of the image that the body may touch: arms do
    }
)
BRAIN = MappingProxyType({"background": 0.2, "ml": (600, 2200), "tumor": 0.4})
_STEP_MM = 3.0  # measures are taken of every so many mm
_TABLE_MM = 6.0  # what is thinner than twice this is no body
_BODY_HU, _BONE_HU, _LUNG_HU, _PADDING_HU = -300, 250, (-950, -400), -1500
_LUNG_SHARE = 0.2  # of a slice, from which it counts as one with lung in it


class Plausibility(NamedTuple):
    values: dict[str, float | list[float] | None]  # what was measured; None where there was nothing to measure
    warnings: list[str]


def judge(volume: Volume, labels: np.ndarray, stage: str) -> Plausibility:
    """Measure `labels` (z, y, x), what the stages up to `stage` found in `volume`, and say what is not plausible.

    Nothing is known of structures of a custom task.

    Returns:
        Values: of a liver "liver_ml", "liver_hu_mean", "liver_hu_sd" (tumors left out), "liver_position" (share of the
        body's width from the patient's left, of its depth from the back), "liver_largest_share",
        "liver_outside_body", "liver_cut_mm2" (of it in the lowest and the highest slice), "tumor_share"; of the scan
        "scan_height_mm", "soft_tissue_ml", "body_width_mm", "body_bone_share", "lung_slices_share",
        "body_at_side_share". Of a brain "background_share", "brain_ml", "tumor_share". Warnings: a sentence each, with
        the number.
    """
    for task, measure in (("liver", _judge_liver), ("brain", _judge_brain)):
        if stage in tasks.TASKS[task].stages:
            values, warnings = measure(volume, labels)
            return Plausibility(_rounded(values), [f"{volume.name}: {warning}" for warning in warnings])
    return Plausibility({}, [])


def _judge_liver(volume: Volume, labels: np.ndarray) -> tuple[dict, list[str]]:
    spacing = np.array(volume.spacing_mm)
    steps = np.maximum(1, _STEP_MM // spacing).astype(int)
    every = tuple(slice(min(step // 2, size - 1), None, step) for step, size in zip(steps, labels.shape, strict=True))
    hu, found, coarse_mm = volume.voxels[(*every, 0)], labels[every], spacing * steps
    body = _body(hu, coarse_mm)
    scan, scan_warnings = _measure_scan(hu, body, coarse_mm, float(labels.shape[0] * spacing[0]))
    liver_ml = np.count_nonzero(labels) * voxel_volume_mm3(volume.affine) / 1000
    liver = {"liver_ml": liver_ml} | _measure_liver(hu, found, body)
    ends = [np.count_nonzero(labels[end]) * spacing[1] * spacing[2] for end in (0, -1)]
    liver["liver_cut_mm2"] = ends
    liver["tumor_share"] = np.count_nonzero(labels == 2) / max(1, np.count_nonzero(labels))
    if (scan["body_at_side_share"] or 0) > BODY["side"]:
        liver["liver_position"] = None  # of a body of which the sides are not known
    warnings = _liver_warnings(liver) if liver_ml else []
    if max(ends) <= LIVER["cut_mm2"] and scan["scan_height_mm"] < LIVER["height_mm"]:
        warnings.append(
            f"the scan is {scan['scan_height_mm']:.0f} mm tall, too short for a whole liver (about 100 to 160 mm)"
        )
    lungless = scan["lung_slices_share"] == 0 and ends[1] <= LIVER["cut_mm2"]
    if lungless and liver_ml < LIVER["ml"][0] and not scan_warnings:
        warnings.append("no slice shows lung, which lies above every liver: is it a scan of the pelvis?")
    return liver | scan, warnings + scan_warnings


def _measure_liver(hu: np.ndarray, found: np.ndarray, body: np.ndarray) -> dict:
    """Of the liver in `found` (z, y, x), labels as coarse as `hu` and `body`."""
    liver = found > 0
    total = np.count_nonzero(liver)
    names = "liver_hu_mean liver_hu_sd liver_position liver_largest_share liver_outside_body".split()
    if not total:
        return dict.fromkeys(names)
    inside = hu[found == 1] if (found == 1).any() else hu[liver]
    sizes = largest_and_sizes(liver)[1]
    outside = float(np.count_nonzero(liver & ~body) / total)
    values = (float(inside.mean()), float(inside.std()), _position(liver, body), float(sizes[0] / total), outside)
    return dict(zip(names, values, strict=True))


def _position(liver: np.ndarray, body: np.ndarray) -> list[float] | None:
    """Where the liver's middle lies along x and y of the body, in the slices that show the liver."""
    body = body[liver.any(axis=(1, 2))]
    place = []
    for axis in (2, 1):
        others = tuple({0, 1, 2} - {axis})
        sides = np.flatnonzero(body.any(axis=others))
        if not sides.size:
            return None
        weights = np.count_nonzero(liver, axis=others)
        middle = float((weights * np.arange(weights.size)).sum() / weights.sum())
        place.append((middle - sides[0] + 0.5) / (sides[-1] - sides[0] + 1))
    return place


def _liver_warnings(liver: Mapping) -> list[str]:
    said = []
    ml, mean, sd = liver["liver_ml"], liver["liver_hu_mean"], liver["liver_hu_sd"]
    areas = zip(("lowest", "highest"), liver["liver_cut_mm2"], strict=True)
    ends = [end for end, area in areas if area > LIVER["cut_mm2"]]
    if ends:
        said.append(f"the liver is cut by the {' and the '.join(ends)} slice: its volumes are too small")
    low, high = LIVER["ml"]
    if ml < low:
        why = "part of it was missed, it was resected, the patient is a child, or it is none"
        said.append(f"the liver has {ml:,.0f} mL, an adult's about {low} to {high:,}: {why}")
    elif ml > high:
        why = "enlarged, or other organs were taken for liver"
        said.append(f"the liver has {ml:,.0f} mL, an adult's about {low} to {high:,}: {why}")
    if liver["tumor_share"] > LIVER["tumor"]:
        said.append(f"tumors are {liver['tumor_share']:.0%} of the liver: more than tumor was found")
    if mean is None:  # it is smaller than the steps that are measured at
        return said
    low, high = LIVER["hu"]
    usual = "than in the portal venous phase (about 90 to 130), which the models are trained on"
    if mean < LIVER["fat_hu"]:
        said.append(f"mean of the liver {mean:.0f} HU: less than any liver but a fatty one has; is it liver?")
    elif mean < low:
        said.append(f"mean of the liver {mean:.0f} HU: lower {usual}: no contrast agent, arterial phase, or fatty?")
    elif mean > high:
        said.append(f"mean of the liver {mean:.0f} HU: higher {usual}: iron, another organ, or no HU?")
    if sd > LIVER["hu_sd"]:
        said.append(f"HU in the liver scatter by {sd:.0f} about their mean: more than liver lies in the mask")
    if liver["liver_position"]:
        x, y = liver["liver_position"]
        low, high = LIVER["x"]
        if x < low:
            said.append(
                f"the liver's middle lies at {x:.0%} of the body's width from the patient's left, where it is not: is "
                "the scan mirrored, are the organs, or is it no liver?"
            )
        elif x > high or not LIVER["y"][0] <= y <= LIVER["y"][1]:
            said.append(
                f"the liver's middle lies at {x:.0%} of the body's width from the patient's left and {y:.0%} of its "
                "depth from the back, which is no place for a liver"
            )
    if liver["liver_largest_share"] < LIVER["largest"]:
        said.append(f"the liver is in pieces: the largest is {liver['liver_largest_share']:.0%} of it")
    if liver["liver_outside_body"] > LIVER["outside"]:
        said.append(f"{liver['liver_outside_body']:.0%} of the liver lies outside of the body")
    return said


def _measure_scan(hu: np.ndarray, body: np.ndarray, spacing: np.ndarray, height_mm: float) -> tuple[dict, list[str]]:
    """What part of a body the scan shows: values and warnings."""
    low, high = BODY["tissue_hu"]
    values = {
        "scan_height_mm": height_mm,
        "soft_tissue_ml": float(np.count_nonzero((hu >= low) & (hu <= high)) * spacing.prod() / 1000),
    }
    names = "body_width_mm body_bone_share lung_slices_share body_at_side_share".split()
    areas = np.count_nonzero(body, axis=(1, 2))
    shown = areas > 0
    if values["soft_tissue_ml"] < BODY["tissue_ml"] or not shown.any():
        warning = f"the scan holds {values['soft_tissue_ml']:.0f} mL of soft tissue ({low} to {high} HU): no body"
        return values | dict.fromkeys(names), [warning]
    width_mm = float(np.median(np.count_nonzero(body.any(axis=1), axis=1)[shown]) * spacing[2])
    bone = float(np.count_nonzero(body & (hu > _BONE_HU)) / areas.sum())
    lung = np.count_nonzero(body & (hu > _LUNG_HU[0]) & (hu < _LUNG_HU[1]), axis=(1, 2))
    lung_slices = float((lung[shown] > _LUNG_SHARE * areas[shown]).mean())
    measured = hu > _PADDING_HU
    side = measured & ~_eroded(measured, (1, 1), beyond=False)
    at_side = float(np.count_nonzero(side & body) / max(1, np.count_nonzero(side)))
    warnings = []
    if width_mm < BODY["head_mm"] and bone > BODY["bone"]:
        what = f"{width_mm:.0f} mm wide and {bone:.0%} of it is bone: a head or a limb, not an abdomen"
        warnings.append(f"the body in the scan is {what}")
    elif lung_slices > BODY["lung_slices"]:
        warnings.append(f"{lung_slices:.0%} of the slices show lung: a thorax, with the top of the liver at most")
    if at_side > BODY["side"]:
        warnings.append(f"the body touches {at_side:.0%} of the sides of the images: the field of view cuts it")
    return values | dict(zip(names, (width_mm, bone, lung_slices, at_side), strict=True)), warnings


def _body(hu: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """(z, y, x) bool: the largest thing that is no thin board, lungs and gas inside of it filled."""
    tissue = hu > _BODY_HU
    steps = tuple(int(max(1, round(_TABLE_MM / step))) for step in spacing[1:])
    core = largest_and_sizes(_eroded(tissue, steps))[0] > 0
    grown = tissue & ~_eroded(~core, steps)
    return _between(grown, 1) & _between(grown, 2)


def _between(mask: np.ndarray, axis: int) -> np.ndarray:
    """What lies between the first and the last voxel of `mask` of every line along `axis`."""
    after = np.logical_or.accumulate(mask, axis=axis)
    before = np.flip(np.logical_or.accumulate(np.flip(mask, axis), axis=axis), axis)
    return after & before


def _eroded(mask: np.ndarray, steps: tuple[int, int], beyond: bool = True) -> np.ndarray:
    """`mask` (z, y, x) less what lies within `steps` (y, x) of what it leaves out; not `beyond`: or past the sides."""
    for axis, count in zip((1, 2), steps, strict=True):
        for _ in range(count):
            lines = np.moveaxis(mask, axis, 0)
            out = lines.copy()
            out[1:] &= lines[:-1]
            out[:-1] &= lines[1:]
            if not beyond:
                out[[0, -1]] = False
            mask = np.moveaxis(out, 0, axis)
    return mask


def _judge_brain(volume: Volume, labels: np.ndarray) -> tuple[dict, list[str]]:
    """Models of BraTS expect brains alone: all else was set to one value."""
    background = np.ones(volume.shape, bool)
    for channel in range(volume.voxels.shape[-1]):
        image = volume.voxels[..., channel]
        values, counts = np.unique(image[:: max(1, len(image) - 1), ::8, ::8], return_counts=True)
        background &= image == values[counts.argmax()]  # 0, or what a normalization made of it
    ml = voxel_volume_mm3(volume.affine) / 1000
    share = float(background.mean())
    brain_ml, tumor_ml = (float(count * ml) for count in (background.size * (1 - share), np.count_nonzero(labels)))
    values = {"background_share": share, "brain_ml": brain_ml, "tumor_share": tumor_ml / brain_ml if brain_ml else None}
    said, (low, high) = [], BRAIN["ml"]
    if share < BRAIN["background"]:
        said.append(
            f"{share:.0%} of the image is background of one value: it is not skull-stripped (or cropped to the brain), "
            "which the models expect"
        )
    elif brain_ml > high:
        said.append(
            f"{brain_ml:,.0f} mL of the image are no background, and a brain has about 950 to 1,700: is the skull "
            "stripped, as the models expect?"
        )
    elif brain_ml < low:
        said.append(
            f"{brain_ml:,.0f} mL of the image are no background, and a brain has about 950 to 1,700: is it whole?"
        )
    if not labels.any():
        said.append("the whole tumor has 0 mL: none is there, or it was missed")
    elif values["tumor_share"] is not None and values["tumor_share"] > BRAIN["tumor"]:
        said.append(f"the tumor is {values['tumor_share']:.0%} of the brain: more than tumor was found")
    return values, said


def _rounded(values: Mapping) -> dict:
    def short(value):
        if isinstance(value, list):
            return [short(part) for part in value]
        return None if value is None else round(float(value), 1 if abs(value) >= 10 else 3)

    return {name: short(value) for name, value in values.items()}
