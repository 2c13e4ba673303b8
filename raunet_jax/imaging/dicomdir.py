"""What the table of contents of a DICOM disc names."""

import pathlib
from collections.abc import Collection

import pydicom

from raunet_jax.imaging.dicom_files import quiet


@quiet()
def missing_files(table: pathlib.Path, there: Collection[pathlib.Path]) -> list[str]:
    """A sentence for each series of which the file DICOMDIR names more files than are among `there`.

    Names are compared whatever their capitals: discs are copied by systems that change them. No file is opened by what
    the table says. A table that cannot be read names nothing.
    """
    folder = table.parent
    seen = {_key(path.relative_to(folder).parts) for path in there if path.is_relative_to(folder)}
    try:
        records = pydicom.dcmread(table, force=True).get("DirectoryRecordSequence") or ()
        named: dict[tuple[str, str], list[str]] = {}
        series = ("", "")
        for record in records:
            kind = str(record.get("DirectoryRecordType", ""))
            if kind == "SERIES":
                number, words = record.get("SeriesNumber"), record.get("SeriesDescription") or ""
                shown = " ".join(f"{'' if number is None else number} {words}".split()) or "without description"
                series = (str(record.get("SeriesInstanceUID", "")), shown)
            elif kind == "IMAGE" and record.get("ReferencedFileID"):
                parts = record.ReferencedFileID
                parts = [parts] if isinstance(parts, str) else list(parts)
                named.setdefault(series, []).append("/".join(parts))
    except Exception:  # pydicom raises whatever a damaged element makes it stumble over
        return []
    said = []
    for (_, series), files in named.items():
        missing = [file for file in files if _key(file.split("/")) not in seen]
        if missing:
            said.append(
                f"{table} names {len(files)} files of series {series}, {len(files) - len(missing)} are there; missing "
                f"is {missing[0]}{' and others' if len(missing) > 1 else ''}: copy the whole disc again"
            )
    return said


def _key(parts) -> tuple[str, ...]:
    return tuple(part.casefold().removesuffix(";1").removesuffix(".dcm") for part in parts)
