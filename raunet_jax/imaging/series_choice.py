"""Which series of a study are segmented, and why the others are not: by what their headers say, the same way always."""

import dataclasses
import fnmatch
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from raunet_jax.imaging.dicom_series import Series, listed
from raunet_jax.imaging.series_words import is_reformat, phase, region, shows_no_anatomy, tissue

AUTO, ALL = "auto", "all"
_LIVER_MM = 150  # what a stack that shows a whole liver covers
_STACK_MM = 50  # less is a part of an organ
_COARSE_MM = 5.5  # thicker slices are taken only where there are no others
_FINE_MM = 0.5  # thinner ones are of an inner ear or a hand

_PHASES = {"portal venous": 0, "contrast": 1, "": 2, "delayed": 3, "arterial": 4, "native": 5}  # of a liver


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is segmented of one study.

    Attributes:
        study: all its series.
        scans: the series of each scan: one, or one a modality in the recipe's order.
        passed_over: of the other series, each with why not.
        problem: why there is no scan; "" where there is one.
    """

    study: tuple[Series, ...]
    scans: tuple[tuple[Series, ...], ...] = ()
    passed_over: tuple[tuple[Series, str], ...] = ()
    problem: str = ""


def by_study(series: Iterable[Series]) -> list[tuple[Series, ...]]:
    """The series of each study of each patient, in the order in which their first ones come."""
    studies = defaultdict(list)
    for one in series:
        studies[one.head.patient, one.study].append(one)
    return [tuple(group) for group in studies.values()]


def choose_ct(study: Sequence[Series], wanted: str = AUTO, of_liver: bool = True) -> Choice:
    """Which CT series of one study are segmented.

    `wanted` is "auto": the one that suits best: an axial stack of soft tissue that covers a liver, in the portal venous
    phase, thin slices, many of them (phase and region count where `of_liver`). "all": each axial stack of anatomy.
    Otherwise those that `matching` finds, whatever they are. Which of equals is taken, their numbers decide.
    """
    if wanted not in (AUTO, ALL):
        return _choose_named(study, wanted)
    unfit = {one: why for one in study if (why := _unfit(one))}
    fit = [one for one in study if one not in unfit]
    flat = [one for one in fit if one.plane == "axial" and not is_reformat(one)]
    turned = [one for one in fit if one not in flat]
    if flat:  # a reformat shows what these show
        unfit |= {one: _turned_words(one) for one in turned}
        fit = flat
    if not fit:
        return _nothing(study, unfit, "no CT series that can be segmented")
    if wanted == ALL:
        chosen = fit
    else:
        ranked = sorted(fit, key=lambda one: _rank(one, of_liver))
        chosen = ranked[:1]
        twins = [one for one in ranked if one.uid == chosen[0].uid and one.part and one.uid]
        if len(twins) > 1 and len({_rank(one, of_liver)[:-2] for one in twins}) == 1:
            named = ", ".join(f"--series={one.key} ({one.part})" for one in twins[:3])
            problem = (
                f"holds {len(twins)} stacks of slices at the same places, told apart by "
                f"{twins[0].part.split()[0]} alone; "
                f"choose one: {named}{', …' if len(twins) > 3 else ''}"
            )
            return Choice(tuple(study), (), tuple((one, unfit.get(one, "")) for one in study), problem)
        unfit |= {one: _why_worse(one, chosen[0], of_liver) for one in ranked[1:]}
    passed_over = tuple((one, unfit[one]) for one in study if one not in chosen)
    return Choice(tuple(study), tuple((one,) for one in chosen), passed_over)


def matching(series: Iterable[Series], wanted: str) -> list[Series]:
    """Those that `wanted` names.

    A plain number is a SeriesNumber; digits with dots a SeriesInstanceUID, its beginning, or a key ("1.2.3/2"). All
    else is compared with the description, capitals or not: with * ? [ ] as a pattern for the whole of it, without
    them as the whole of it or, where that is none, as a part of it.
    """
    series = list(series)
    if re.fullmatch(r"\d{1,9}", wanted):
        return [one for one in series if one.number == int(wanted)]
    if is_uid(wanted):
        whole = [one for one in series if one.key == wanted]
        return whole or [one for one in series if one.key.startswith(wanted)]
    words = wanted.casefold()
    if any(sign in words for sign in "*?["):
        return [one for one in series if fnmatch.fnmatchcase(one.description.casefold(), words)]
    whole = [one for one in series if one.description.casefold() == words]
    return whole or [one for one in series if words and words in one.description.casefold()]


def is_uid(wanted: str) -> bool:
    """Whether `wanted` is a key of a series, or how keys begin, and neither a number nor a description."""
    return bool(re.fullmatch(r"\d*\.[\d.]*(/\d+)?|\d{10,}|-(/\d+)?", wanted))


def _choose_named(study: Sequence[Series], wanted: str) -> Choice:
    named = matching(study, wanted)
    chosen = [one for one in named if one.modality == "CT"]
    why = {one: "not named by --series" for one in study} | {one: _modality_words(one) for one in named}
    if not chosen:
        said = "no series" if not named else "no CT series"
        return _nothing(study, why, f"{said} that --series={wanted} names")
    passed_over = tuple((one, why[one]) for one in study if one not in chosen)
    return Choice(tuple(study), tuple((one,) for one in chosen), passed_over)


def _nothing(study: Sequence[Series], why: dict[Series, str], what: str) -> Choice:
    there = listed(study)
    passed_over = tuple((one, why.get(one, "")) for one in study)
    return Choice(tuple(study), (), passed_over, f"holds {what}; there is {there}")


def _unfit(one: Series) -> str:
    """Why a series is never taken unasked; "" where it may be."""
    if one.modality != "CT":
        return _modality_words(one)
    if one.slices == 1:
        return "a single slice" if len(one.files) == 1 else "all its slices lie at one place"
    if shows_no_anatomy(one):
        return "no plain slices by its description or ImageType"
    return ""


def _modality_words(one: Series) -> str:
    return f"{one.modality}, not CT"


def _turned_words(one: Series) -> str:
    return f"{one.plane} slices" if one.plane != "axial" else "a reformat"


def _thickness_rank(one: Series) -> tuple[bool, float]:
    step = max(one.spacing_mm, one.facts.thickness or 0)
    return not _FINE_MM <= step <= _COARSE_MM, round(step, 1)


_QUESTIONS: tuple[tuple[bool, Callable[[Series], object], Callable[[Series], str]], ...] = (
    # whether it is asked for livers alone; rank, smaller is better; what is said of a series that ranks worse
    (False, lambda one: one.extent_mm < _STACK_MM, lambda one: f"covers {one.extent_mm:.0f} mm only"),
    (False, tissue, lambda one: f"sharp kernel {one.facts.kernel}".strip() + ", for lungs or bones"),
    (True, lambda one: one.extent_mm < _LIVER_MM, lambda one: f"covers {one.extent_mm:.0f} mm only"),
    (True, region, lambda one: f"not said to show the abdomen{_body(one)}"),
    (True, lambda one: _PHASES[phase(one)], lambda one: phase(one) and f"{phase(one)} phase" or "phase not said"),
    (False, is_reformat, lambda one: "a reformat"),
    (False, _thickness_rank, lambda one: f"slices of {_thickness_rank(one)[1]:g} mm"),
    (False, lambda one: -one.slices, lambda one: f"{one.slices} slices"),
    (False, lambda one: one.number if one.number is not None else 1 << 31, lambda one: "as good, but numbered later"),
    (False, lambda one: one.key, lambda one: "as good, but later by its UID"),
)


def _body(one: Series) -> str:
    return f" ({one.facts.body_part})" if one.facts.body_part else ""


def _rank(one: Series, of_liver: bool) -> tuple:
    return tuple(rank(one) for liver_alone, rank, _ in _QUESTIONS if of_liver or not liver_alone)


def _why_worse(one: Series, chosen: Series, of_liver: bool) -> str:
    for liver_alone, rank, words in _QUESTIONS:
        if (of_liver or not liver_alone) and rank(one) != rank(chosen):
            return words(one)
    return ""
