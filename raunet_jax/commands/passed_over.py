"""What is said of files that are no scans: by kind, so that nobody looks for a scan that was never segmented."""

import pathlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from raunet_jax.imaging.archives import UNREAD
from raunet_jax.names import MASK_ENDING

NAMED = 5  # files of a kind, before the rest of them is but counted
OTHER_FORMATS = frozenset(
    ".nrrd .nhdr .mha .mhd .hdr .img .mgz .mgh .mnc .npy .npz .mat .h5 .hdf5 .tif .tiff .jpg .jpeg .png .bmp .par "
    ".rec".split()
)
TABLES = frozenset(".json .csv .tsv .txt .md .html .htm .xml .pdf .xls .xlsx .docx .log .yaml .yml .sha256".split())
MASKS, MASK_FOLDERS, DICOM = "masks, labels or results", "folders of masks", "folders of DICOM files"
FOREIGN, OTHERS = "images in formats to be converted to NIfTI first", "other files"
PACKED, NESTED, UNPACKED = "archives to be unpacked first", "archives inside an archive", "archives unpacked already"
EMPTY = "archives without a scan"
_ENDING = re.compile(r"(?:\.nii|\.tar)?\.[^.]*$", re.IGNORECASE)


class PassedOver:
    """The files below one path that are no scans."""

    def __init__(self) -> None:
        self._of_kind: dict[str, list[str]] = defaultdict(list)
        self._unnamed: list[str] = []  # what nobody takes for scans, such as tables

    def add(self, kind: str, files: Iterable[pathlib.Path]) -> None:
        self._of_kind[kind] += map(str, files)

    def sort(self, files: Iterable[pathlib.Path]) -> None:
        """Add files that are neither scans nor known to be of one."""
        for path in files:
            suffix = path.suffix.lower()
            if suffix in OTHER_FORMATS and not path.with_name(f"{path.stem}{MASK_ENDING}.nii.gz").exists():
                self.add(FOREIGN, [path])
            elif UNREAD.fullmatch(path.name):
                self.add(PACKED, [path])
            elif suffix in TABLES | OTHER_FORMATS or path.name.upper() == "DICOMDIR":
                self._unnamed.append(str(path))
            else:
                self.add(OTHERS, [path])

    def sentence(self, root: pathlib.Path, shown: Callable[[str], str]) -> str:
        """What there is of each kind, "" where there is nothing worth saying."""
        kinds = []
        for kind, files in self._of_kind.items():
            named = ", ".join(shown(file).removeprefix(f"{root}/") for file in files[:NAMED])
            kinds += [f"{kind}: {len(files)} ({named}{', …' if len(files) > NAMED else ''})"] if files else []
        if not kinds:
            return ""
        return f"{root}: passed over are {'; '.join(kinds)}. To segment a file all the same, name it itself"

    def counted(self) -> str:
        """How many files there are of the commonest endings."""
        files = [file for files in self._of_kind.values() for file in files] + self._unnamed
        endings = Counter(match[0].lower() if (match := _ENDING.search(file)) else "no ending" for file in files)
        return ", ".join(f"{count} of {ending}" for ending, count in endings.most_common(NAMED))
