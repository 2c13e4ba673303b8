"""What series descriptions mean: phase, tissue, region, plane and MR contrast, in the languages of scanners' owners."""

import re
import unicodedata

from raunet_jax.imaging.dicom_series import Series

_TO_ASCII = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ß": "ss", "æ": "ae", "œ": "oe", "_": " "})


def plain(words: str) -> str:
    """Lower case, without accents, every sign but + as one space."""
    letters = unicodedata.normalize("NFKD", words.lower().translate(_TO_ASCII))
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return " ".join(re.sub(r"[^\w+]+", " ", letters).split())


def _pattern(words: str, inside: str = "") -> re.Pattern:
    """Of `words` as `plain` writes them, separated by commas: * any letters, # a digit; `inside` a word too."""
    whole = [re.escape(one.strip()).replace(r"\*", r"\w*").replace(r"\#", r"\d") for one in words.split(",")]
    parts = [re.escape(one.strip()) for one in inside.split(",") if one.strip()]
    return re.compile("|".join([rf"(?<!\w)(?:{'|'.join(whole)})(?!\w)", *parts]))


# Contrast phases: the first pattern that is found names it, so that "late arterial" is no delayed scan.
_PHASES = (
    (
        "native",
        _pattern(
            "nativ*, unenhanced, non contrast, no contrast, noncontrast, non iv, non ce, ncct, nc, wo, w o, "
            "without, ohne, sans, sin, sem, senza, utan, uden, uten, bez, zonder, pre, precontrast, plain, blanc*, "
            "basale, vnc, vue, true non contrast, virtual non contrast",
            "нативн, без контраст, бесконтраст, 平扫, 平掃, 単純",
        ),
    ),
    (
        "portal venous",
        _pattern("porto*, porta, portal*, portae, pv, pvp, pve, hepatoven*, port ven*", "портальн, 门静脉, 门脉, 門脈"),
    ),
    ("arterial", _pattern("late art*, spatart*, late hap, art tard*, arterielle tard*")),
    (
        "delayed",
        _pattern(
            "delay*, late, tardi*, spat*, equilib*, excret*, nephrogr*, urogr*, ausscheid*, 12#s, 18#s, 24#s, 30#s, "
            "120 s, 180 s, 240 s, 300 s, 3min, 3 min, 4 min, 5min, 5 min, 8 min, 10min, 10 min, 15 min, del",
            "отсроч, 延迟, 延遲, 遅延, 平衡",
        ),
    ),
    (
        "portal venous",
        _pattern(
            "ven, vein, venous, venos*, venoes*, veineu*, veinous, vp, 60s, 65s, 70s, 75s, 80s, 85s, 90s, 60 s, "
            "65 s, 70 s, 75 s, 80 s, 90 s, 60sec, 65sec, 70sec, 75sec, 80sec, 90sec, 70 sec, 80 sec",
            "венозн, 静脉, 静脈",
        ),
    ),
    (
        "arterial",
        _pattern(
            "art, arter*, angio*, cta, hap, pancrea* phase, 20s, 25s, 30s, 35s, 40s, 45s, 25 s, 30 s, 35 s, 40 s, 45 s",
            "артери, 动脉, 動脈",
        ),
    ),
)
_CONTRAST = _pattern(
    "km, ce, contrast, kontrast*, cm, inj*, gd, gad*, dotarem, post, postcontrast, +c, c+, + c, c +, +gd, +km, mdc, "
    "pc, enhanced",
    "контраст, 增强, 造影",
)
_SHARP = _pattern("lung*, poumon*, pulm*, bone*, knochen*, oss*, osteo*, hueso*, hrct, hr", "кост, легк, 肺, 骨")
_SHARP_KERNELS = re.compile(r"LUNG|BONE|EDGE|CHST|ULTRA|SHARP")
_ABDOMEN = _pattern(
    "abd*, liver*, leber*, foie, higado, fegato, lever, hepat*, tap, cap, bauch*, oberbauch, upper abd*, ob, trunk, "
    "wholebody, body, tho abd*, thx abd*",
    "брюшн, печен, 腹, 肝",
)
_ELSEWHERE = _pattern(
    "head*, kopf*, schadel*, brain, crane, cerebr*, neck, hals, cervical*, sinus*, *spine*, wirbel*, lumb*, knee, "
    "hand, foot, shoulder, ankle, wrist, hip, leg, extremity, thorax*, thx, chest*, heart, cardiac, coronary, hws, "
    "lws, bws, pelvis, becken, lung*",
    "голов, груд, 头, 頭, 胸",
)
_NO_ANATOMY = _pattern(
    "mip, minip, vr, vrt, iodine*, jod, jodkarte*, zeff, z eff, rho, pbv, perfusion*, cbf, cbv, mtt, ttp, fusion, "
    "overlay, color, colour, dose, report, protocol, patient protocol, scout*, topo, topogram*, surview, scanogram, "
    "localizer*, localiser*, premonitoring, monitoring, smartprep*, bolus track*, bolustrack*, test bolus, "
    "testbolus, tracker, calcium*, screen*, snapshot*"
)
_PROJECTIONS = {"MIP", "MINIP", "MAX_IP", "MIN_IP", "PROJECTION IMAGE", "VOLUME RENDERING", "SCREEN SAVE"}
_REFORMAT = _pattern("mpr*, reformat*, cor, coronal*, koronar*, sag, sagit*, curved, cpr, obl, oblique")
_REFORMATS = {"MPR", "REFORMATTED", "MPR_THICK"}

# MR contrasts of the brain
_NO_MR_ANATOMY = _pattern(
    "dwi*, adc*, trace*, dti*, fa, md, *tensor*, ep2d*, diff*, swi*, swan, *mag, pha, phase, *mip*, asl, perf*, "
    "dsc, dce, rcbv, rcbf, cbf, cbv, mtt, ttp, pwi, mra, tof*, angio*, loc*, scout*, survey*, *localizer*, bold, "
    "*fmri*, spectro*, csi, svs, sub, subtr*, t2star*, t2 star, t2 gre, hemo*, field*, b0*, b1000*, map, *mapping, "
    "ktrans, pd, sense ref*, asset*, calibr*, coil*, mrs, mrv, venogr*, smartbrain"
)
_FLAIR = _pattern("*flair*, dark fluid*, *darkfluid*, tirm*, t2 tirm*, da fl*")
_T1 = _pattern("t1*, *mprage*, *mp rage*, mp2rage*, bravo*, *spgr*, tfl*, *vibe*, *tfe*, 3dt1*, 2dt1*, *t1w*")
_T2 = _pattern("t2*, *t2w*, 3dt2*, tset2*")


def phase(series: Series) -> str:
    """Contrast phase as the description says it, or else the protocol: portal venous, delayed, arterial, native,
    contrast (of an unknown phase), or "" where nothing is said."""
    for words in (plain(series.description), plain(series.facts.protocol)):
        for name, pattern in _PHASES:
            if pattern.search(words):
                return name
        if _CONTRAST.search(words):
            return "contrast"
    return "contrast" if series.facts.agent else ""


def tissue(series: Series) -> int:
    """What the kernel is made for. 0: soft tissue, or nothing said; 1: between; 2: lungs, bones."""
    kernel = series.facts.kernel.upper()
    if _SHARP.search(plain(series.description)) or _SHARP_KERNELS.search(kernel):
        return 2
    if canon := re.match(r"FC(\d\d)", kernel):
        return 0 if int(canon[1]) < 30 else 2
    if siemens := re.match(r"[A-Z]{1,2}(\d\d)[A-Z]*\b", kernel):  # B30f, Br40d, I70f
        return 0 if int(siemens[1]) < 50 else 1 if int(siemens[1]) < 60 else 2
    return 2 if kernel in ("L", "D", "YC", "YD") else 1 if kernel in ("C", "DETAIL") else 0  # Philips, GE


def region(series: Series) -> int:
    """0: the abdomen; 1: not said; 2: elsewhere."""
    for words in (plain(series.description), plain(f"{series.facts.body_part} {series.facts.protocol}")):
        if _ABDOMEN.search(words):
            return 0
        if _ELSEWHERE.search(words):
            return 2
    return 1


def shows_no_anatomy(series: Series) -> bool:
    """Projections, colored overlays, maps, scouts, screenshots: by ImageType or description."""
    return bool(_PROJECTIONS & set(series.head.image_type) or _NO_ANATOMY.search(plain(series.description)))


def is_reformat(series: Series) -> bool:
    """Whether slices were computed from those of another series, or lie across the patient."""
    derived = _REFORMATS & set(series.head.image_type) or (
        "DERIVED" in series.head.image_type and _REFORMAT.search(plain(series.description))
    )
    return series.plane != "axial" or bool(derived)


def mr_contrast(series: Series) -> str:
    """t1, t1ce, t2 or flair, by the description, or else by the times of the sequence; "" for anything else."""
    words = plain(series.description)
    if _NO_MR_ANATOMY.search(words) or re.search(r"t2 ?\*", series.description.lower()):
        return ""
    enhanced = "ce" if _is_enhanced(series, words) else ""
    if _FLAIR.search(words):
        return "flair" if not _T1.search(words) else f"t1{enhanced}"
    if _T1.search(words):
        return f"t1{enhanced}"
    if _T2.search(words):
        return "t2"
    echo, repetition, inversion = (
        series.facts.echo_time,
        series.facts.repetition_time,
        series.facts.inversion_time,
    )
    if echo is None or repetition is None:
        return ""
    if inversion and inversion > 1500 and echo > 60:
        return "flair"
    if echo > 60 and repetition > 2000:
        return "t2"
    return f"t1{enhanced}" if echo < 30 and (repetition < 1000 or (inversion and inversion < 1300)) else ""


def _is_enhanced(series: Series, words: str) -> bool:
    if re.search(r"t1(ce|c|gd|gad|km|post)|t1\w* ?\+", words):
        return True
    native = _PHASES[0][1].search(words)
    return not native and bool(_CONTRAST.search(words) or series.facts.agent)
