"""What benchmarks say of the machine that they ran on."""

import sys

from benchmarks import machine


def test_of_two_copies_of_a_library_the_imported_one_is_named(tmp_path, monkeypatch):
    for place, version in (("first", "0.1.0"), ("second", "0.2.0")):
        folder = tmp_path / place / f"torch-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), str(tmp_path / "second"), *sys.path])
    assert machine.versions()["torch"] == "0.1.0"
