"""The part of a run's page that says which stage lost which tumors."""

from raunet_jax.names import natural
from raunet_jax.report import markup
from raunet_jax.report.markup import Html, number, tag
from raunet_jax.scores.attribution import OUTCOMES

_TITLES = dict(
    zip(
        OUTCOMES, ("lost to stage 1's box", "lost to the liver mask", "lost to the tumor network", "found"), strict=True
    )
)


def section(scores: dict) -> Html | None:
    """Sums and a row a case from scores.json; None for a run that is not the whole cascade."""
    total = scores.get("attribution")
    if not total:
        return None
    sums = [
        (what.replace("_", " "), *(number(total[what][outcome]) for outcome in OUTCOMES))
        for what in ("tumor_voxels", "lesions")
    ]
    given, liver, tumor = total["given_reference"], scores["liver"], scores["tumor"]
    compared = [
        ("liver", number(liver["dice_per_case"]), number(given["liver_dice"]), "the reference liver's box"),
        ("tumor", number(tumor["dice_per_case"]), number(given["tumor_dice"]), "the reference liver"),
    ]
    rows = []
    for case in sorted(scores["cases"], key=lambda case: natural(case["case"])):
        record = case.get("attribution")
        if record:
            lost = [f"{record['tumor_voxels'][outcome]:,} ({record['lesions'][outcome]})" for outcome in OUTCOMES]
            keys = [record["tumor_voxels"][outcome] for outcome in OUTCOMES]
            outside = record["liver_voxels_outside_box"]
            rows.append((case["case"], *zip(lost, keys, strict=True), (number(outside), outside)))
    return markup.section(
        "Where tumors were lost",
        markup.table(("", *_TITLES.values()), sums),
        tag("h3", "Dice per case of the cascade, and of one stage given what the stage before should have found"),
        markup.table(("", "cascade", "given the reference", "which is"), compared),
        tag("h3", "Tumor voxels (and lesions) of every case"),
        markup.table(("case", *_TITLES.values(), "liver voxels outside the box"), rows, sortable=True),
        tag(
            "p",
            "A lesion is found when any voxel of it is, else lost by the stage that lost most of it.",
            class_="source",
        ),
        anchor="lost",
    )
