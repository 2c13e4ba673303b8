"""What is settled before JAX starts: nothing of the user's is overridden, and XLA and glibc take it."""

import importlib.metadata
import os
import pathlib
import subprocess
import sys

import pytest

from raunet_jax import startup

FLAGS = [
    "--xla_cpu_experimental_ynn_fusion_type=",
    "--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
]
NAMES = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME", "GLIBC_TUNABLES")
SETTING = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
THP = SETTING.read_text() if SETTING.exists() else ""


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """Without any of the variables in question."""
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "0.10.2")
    monkeypatch.setattr(startup, "GPU_PLUGINS", ("no_such_plugin",))


@pytest.mark.parametrize("release", ["0.10.2", "0.11.0", "0.11.2", "0.12.0.1"])
def test_the_flags_are_added_to_those_of_the_user(environment, monkeypatch, release):
    monkeypatch.setattr(importlib.metadata, "version", lambda package: release)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    startup.set_environment()
    assert os.environ["XLA_FLAGS"].split() == ["--xla_force_host_platform_device_count=2", *FLAGS]


@pytest.mark.parametrize("theirs", ["", "--xla_gpu_force_conv_nhwc=false"])
def test_where_jax_can_use_a_gpu_convolutions_stay_channels_last_unless_the_user_has_said(
    environment, monkeypatch, theirs
):
    monkeypatch.setattr(startup, "GPU_PLUGINS", ("no_such_plugin", "json"))  # one that is installed
    monkeypatch.setenv("XLA_FLAGS", theirs)
    startup.set_environment()
    flags = os.environ["XLA_FLAGS"].split()
    assert set(flags) == {*FLAGS, theirs or "--xla_gpu_force_conv_nhwc=true"} and len(flags) == len(FLAGS) + 1


@pytest.mark.parametrize(("theirs", "holds"), [("", True), ("--xla_gpu_deterministic_ops=false", False)])
def test_determinism_is_asked_for_unless_the_user_has_said(environment, monkeypatch, theirs, holds):
    monkeypatch.setenv("XLA_FLAGS", theirs)
    assert not startup.is_deterministic()
    startup.make_deterministic()
    assert os.environ["XLA_FLAGS"] == (theirs or "--xla_gpu_deterministic_ops=true")
    assert startup.is_deterministic() == holds


@pytest.mark.parametrize(
    ("flags", "holds"),
    [
        ("--xla_gpu_deterministic_ops", True),
        ("--xla_gpu_deterministic_ops=1", True),
        ("--xla_gpu_deterministic_ops=true --xla_gpu_deterministic_ops=false", False),
        ("--xla_gpu_deterministic_ops_of_another_name=true", False),
    ],
)
def test_flags_are_read_as_xla_reads_them(environment, monkeypatch, flags, holds):
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert startup.is_deterministic() == holds


def test_what_the_user_has_set_stays(environment, monkeypatch):
    theirs = {
        "XLA_FLAGS": "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT "
        "--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_DEFAULT",
        "JAX_COMPILATION_CACHE_DIR": "/elsewhere",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0",
    }
    for name, value in theirs.items():
        monkeypatch.setenv(name, value)
    assert not startup.set_environment()  # nothing for which to restart
    assert {name: os.environ[name] for name in theirs} == theirs


@pytest.mark.parametrize("release", ["0.9.2", "0.13.0", "1.0.0"])
def test_a_jaxlib_that_may_not_know_the_flags_is_not_given_them(environment, monkeypatch, release):
    monkeypatch.setattr(importlib.metadata, "version", lambda package: release)
    startup.set_environment()
    assert "XLA_FLAGS" not in os.environ


def test_compiled_networks_are_kept_in_the_users_cache_by_kind_of_cpu(environment, monkeypatch, tmp_path):
    startup.set_environment()
    folder = os.environ["JAX_COMPILATION_CACHE_DIR"]
    assert folder.startswith(str(tmp_path / "raunet_jax" / "xla-"))
    assert str(startup._cache()) == folder


def in_a_process_of_its_own(code, **variables):
    kept = {name: value for name, value in os.environ.items() if name not in NAMES}
    code = f"from raunet_jax import startup\nif startup.set_environment():\n    startup.restart()\n{code}"
    result = subprocess.run(
        [sys.executable, "-c", code, "an argument"],
        env=kept | {"PYTHONPATH": os.getcwd()} | variables,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_a_program_restarts_once_with_its_arguments_and_what_the_user_asked_of_glibc():
    code = "import os, sys\nprint(sys.argv[1], os.environ['GLIBC_TUNABLES'], startup.set_environment(), sep=';')"
    said = in_a_process_of_its_own(code, GLIBC_TUNABLES="glibc.malloc.arena_max=3")
    assert said.strip() == "an argument;glibc.malloc.arena_max=3:glibc.malloc.hugetlb=1;False"


@pytest.mark.skipif("never" not in THP or "[never]" in THP, reason="this kernel has no huge pages to give")
def test_a_large_array_comes_in_huge_pages():
    code = """
import resource
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
b"x" * 2**26  # 16,384 pages of 4 KB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    assert int(in_a_process_of_its_own(code)) < 1000


def test_xla_takes_the_flags_and_a_cache_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "file").touch()
    code = """
import jax, os
startup.make_deterministic()  # the flags of a GPU stop nothing where there is none
startup._add_flags(startup.GPU_FLAGS)
print(float(jax.jit(lambda x: 2 * x)(3.0)), os.environ["XLA_FLAGS"])
"""
    variables = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "file" / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PLATFORMS": "cpu",
    }
    said = in_a_process_of_its_own(code, **variables)
    gpu = ["--xla_gpu_deterministic_ops=true", "--xla_gpu_force_conv_nhwc=true"]
    assert said.split()[0] == "6.0" and set(said.split()[1:]) == {*FLAGS, *gpu}
