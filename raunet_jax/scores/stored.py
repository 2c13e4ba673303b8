"""What a scores.json must be made of, before anything is made of it."""

from raunet_jax.scores.attribution import OUTCOMES
from raunet_jax.scores.rules import RULES, groups_of, tables_of
from raunet_jax.shapes import NUMBER, misfit

_VALUES = {str: (*NUMBER, bool, str, list, dict)}
_SPREAD = dict.fromkeys(("mean", "std", "low", "high"), NUMBER)
_LOST = dict.fromkeys(OUTCOMES, (int, float))
_GIVEN = {"liver_dice": NUMBER, "tumor_dice": NUMBER}
_DETECTION = {"precision": NUMBER, "recall": NUMBER}


def misfit_of_cases(scores: dict) -> str:
    """Which value no case can have, as the end of a sentence; "" where cases can be compared one by one."""
    wrong = misfit(scores, {"rule": str, "cases": [{"case": str}], "structure?": (str, None)})
    if wrong:
        return wrong
    if scores["rule"] not in RULES:
        return f"has the rule {scores['rule']!r}, which is none of {', '.join(RULES)}"
    structures = {f"{group.structure}?": (None, {str: NUMBER}) for group in groups_of(scores)}
    parts = {"voxels?": (None, {str: NUMBER}), "lesions?": (None, _VALUES), "tumor_burden?": (None, {str: NUMBER})}
    return misfit(scores, {"cases": [structures | parts]})


def misfit_of_tables(scores: dict) -> str:
    """As `misfit_of_cases`, and for what tables are made of: the sums, their intervals, and which stage lost what."""
    wrong = misfit_of_cases(scores)
    if wrong:
        return wrong
    groups = [group for group in groups_of(scores) if scores.get(group.name) is not None]
    columns = {group: set() for table in tables_of(scores) for group in table.groups}
    for table in tables_of(scores):
        for group in table.groups:
            columns[group] |= set(table.columns.values())
    wrong = misfit(scores, {group.name: {str: NUMBER} for group in groups})
    if wrong:
        return wrong
    shape = {group.name: dict.fromkeys(columns.get(group.name, ()), NUMBER) for group in groups}
    found = [group.structure for group in groups]
    if scores.get("intervals"):
        shape["intervals"] = {f"{name}?": dict.fromkeys(names, _SPREAD) for name, names in columns.items()}
    else:
        shape["cases"] = [{structure: {"dice": NUMBER} for structure in found}]
        if any(group.over_lesions for group in groups):
            lesions = {"detected": int, "matches": [{"detected": bool, "detected_corrected": bool}]}
            shape["cases"][0] |= {"voxels": {str: NUMBER}, "lesions": lesions}
    for suffix in ("", "_corrected"):
        shape |= {f"detection{suffix}?": (None, _DETECTION), f"tumor_burden{suffix}?": (None, {str: NUMBER})}
    if scores.get("detection"):
        shape["tumor_burden"] = {str: NUMBER}
    shape["stage_1_unseen?"] = (None, {"cases": int, "liver_dice?": NUMBER, "tumor_dice?": NUMBER})
    if scores.get("attribution"):
        shape["attribution"] = {"tumor_voxels": _LOST, "lesions": _LOST, "given_reference": _GIVEN}
        of_case = {"tumor_voxels": _LOST, "lesions": _LOST, "liver_voxels_outside_box": NUMBER}
        shape["cases"] = [shape.get("cases", [{}])[0] | {"attribution?": (None, of_case)}]
        shape |= {organ: {"dice_per_case": NUMBER} for organ in ("liver", "tumor")}
    return misfit(scores, shape)
