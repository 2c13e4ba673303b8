"""What scans are called: by what tells them apart, and as any disk and any text can hold it."""

import pathlib

import numpy as np
import pytest

from raunet_jax.commands.scan_names import Place, tell_apart
from raunet_jax.names import LONGEST_NAME, numbered, safe_name


def place(path, depth=None):
    parts = tuple(reversed(pathlib.PurePosixPath(path).parts))
    return Place(parts, len(parts) if depth is None else depth)


@pytest.mark.parametrize(
    "paths, expected",
    [
        (["3Dircadb1.17/PATIENT_DICOM", "3Dircadb1.2/PATIENT_DICOM"], ["3Dircadb1.17", "3Dircadb1.2"]),
        (["s0001/ct", "s0002/ct"], ["s0001", "s0002"]),
        (["P1/ct", "P1/image"], ["P1_ct", "P1_image"]),
        (["one/s1/ct", "two/s1/ct"], ["one_s1", "two_s1"]),
        (["one/P1/portal", "one/P2/portal"], ["P1_portal", "P2_portal"]),
        (["x/t", "x/deep/t"], ["x_t", "deep_t"]),
        (["a/b/t", "a/c/t", "d/b/t"], ["a_b_t", "a_c_t", "d_b_t"]),
        (["a/t", "a/t", "a/t"], ["t", "t-2", "t-3"]),
        (["images/ct"], ["ct"]),
        (["ct-2", "a/t", "b/t"], ["ct-2", "a_t", "b_t"]),
    ],
)
def test_scans_are_called_by_what_tells_them_apart(paths, expected):
    assert tell_apart([place(path) for path in paths]) == expected


def test_a_file_that_was_named_itself_keeps_its_name_until_another_has_it():
    assert tell_apart([place("s0001/ct", depth=1)]) == ["ct"]
    assert tell_apart([place("a/ct", depth=1), place("b/ct", depth=1)]) == ["a_ct", "b_ct"]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("plain-1.2 (3)", "plain-1.2 (3)"),
        ("Lebér größe 肝", "Lebér größe 肝"),
        ("l\udce9sion", "l%E9sion"),  # Latin-1, as Python keeps the byte
        ("two\nlines\x00\x7f", "two%0Alines%00%7F"),
        ("a/b\\c", "a%2Fb%5Cc"),
        ("gpj.\u202eexe", "gpj.%E2%80%AEexe"),  # what follows would be written from right to left
        ("-rf", "_-rf"),
        ("=1+1", "_=1+1"),
        (".hidden", "_.hidden"),
        ("", "unnamed"),
        ("n" * LONGEST_NAME, "n" * LONGEST_NAME),
    ],
)
def test_names_are_made_safe_and_stay_readable(name, expected):
    assert safe_name(name) == expected


def test_names_too_long_are_cut_and_still_differ():
    one, two = safe_name("肝" * 80 + "1"), safe_name("肝" * 80 + "2")
    assert one != two and one.startswith("肝" * 60) and len(one.encode()) <= LONGEST_NAME


def test_any_names_become_names_of_files_and_no_two_the_same():
    rng = np.random.default_rng(0)
    for _ in range(300):
        lengths = rng.integers(1, 300, rng.integers(1, 6))
        parts = [rng.integers(0, 256, length, np.uint8).tobytes().replace(b"/", b"") for length in lengths]
        parts = [part.decode("utf-8", "surrogateescape") or "x" for part in parts] + ["-", "ct", "ct", "."]
        made = tell_apart([Place((part, "ct"), 2) for part in parts])
        assert len(set(made)) == len(made) == len(parts)
        for name in made:
            assert len(f".4194304.{name}_uncertainty.nii.gz".encode()) <= 255
            assert "/" not in name and name[0] not in "-=." and min(map(ord, name)) >= 32
            assert safe_name(name) == name


def test_numbers_are_given_to_names_that_are_taken():
    assert numbered("a", {"b"}) == "a" and numbered("a", {"a", "a-2"}) == "a-3"
