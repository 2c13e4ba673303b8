"""CPU seconds that run.py needs for its short commands, and the packages whose import takes them.

    python -m benchmarks.startup                                          # help and inspect
    python -m benchmarks.startup --run=runs/demo --scan=volume-0.nii.gz   # and predict, with the models of a run
    python -m benchmarks.startup --compare=../before --compare-run=... ...  # beside another checkout, and its own run

User and system seconds of the whole command, the least of some repetitions, after one that is not counted and fills the
cache of compiled networks; checkouts take turns. Packages: milliseconds of wall-clock time in their own modules
(`-X importtime`), the least of two runs. Written to benchmarks/results/startup-MACHINE.md.
"""

import argparse
import collections
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import machine
from raunet_jax.files import write_text

RESULTS = Path(__file__).parent / "results"
IMPORT = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")


def commands(run: str, scan: str) -> dict[str, list[str]]:
    """Name -> arguments of run.py; `{output}` stands for a new folder."""
    found = {"--help": ["--help"], "inspect": ["--mode=inspect", "--config=configs/liver_voi.py"]}
    if run and scan:
        places = [f"--workdir={Path(run).resolve()}", f"--input={Path(scan).resolve()}"]
        found["predict"] = ["--mode=predict", *places, "--output={output}"]
    return found


def execute(checkout: Path, arguments: list[str], *options: str) -> tuple[float, str]:
    """CPU seconds of a command and all that it started, and its standard error. RuntimeError when it failed."""
    with tempfile.TemporaryDirectory() as output:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, *options, "run.py", *(argument.format(output=output) for argument in arguments)],
            cwd=checkout,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in ((0, 1) if arguments == ["--help"] else (0,)):  # absl's help ends with 1
        raise RuntimeError(f"run.py {' '.join(arguments)} in {checkout} failed:\n{done.stderr[-2000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stderr


def imports(checkout: Path, arguments: list[str]) -> dict[str, float]:
    """Milliseconds by package, of the modules' own code; run.py may start twice, each module counts once."""
    runs = []
    for _ in range(2):
        _, said = execute(checkout, arguments, "-X", "importtime")
        modules = {name: int(own) / 1000 for own, name in IMPORT.findall(said)}
        packages = collections.Counter()
        for name, milliseconds in modules.items():
            package = name.partition(".")[0]
            packages["standard library" if package in sys.stdlib_module_names else package] += milliseconds
        runs.append(packages)
    return {name: min(run.get(name, 0.0) for run in runs) for name in runs[0]}


def measure(checkouts: list[Path], arguments: list[list[str]], repetitions: int) -> list[float]:
    """The least CPU seconds in each checkout, of its own arguments."""
    least = [float("inf")] * len(checkouts)
    for repetition in range(repetitions + 1):
        for number, checkout in enumerate(checkouts):
            seconds, _ = execute(checkout, arguments[number])
            if repetition:
                least[number] = min(least[number], seconds)
    return least


def table(lines: list[list[str]]) -> str:
    head, *rows = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows)) + "\n"


def report(args) -> str:
    here = Path(__file__).parents[1]
    checkouts = [Path(args.compare).resolve(), here] if args.compare else [here]
    titles = ["before", "after"] if args.compare else ["now"]
    known = {
        name: version for name, version in machine.versions().items() if name in ("jax", "jaxlib", "flax", "numpy")
    }
    given = [re.sub(r"=.*/", "=", argument) for argument in sys.argv[1:]]  # where things lie is nobody else's business
    versions = ", ".join(f"{name} {version}" for name, version in known.items())
    seconds = [["command", *titles, *(["after / before"] if args.compare else [])]]
    parts = []
    runs = [args.compare_run or args.run, args.run] if args.compare else [args.run]
    by_checkout = [commands(run, args.scan) for run in runs]
    for name in by_checkout[-1]:
        arguments = [found[name] for found in by_checkout]
        least = measure(checkouts, arguments, args.repetitions)
        ratio = [f"{least[1] / least[0]:.2f}"] if args.compare else []
        seconds.append([name, *(f"{value:.2f}" for value in least), *ratio])
        found = [imports(*pair) for pair in zip(checkouts, arguments, strict=True)]
        order = sorted({*found[0], *found[-1]}, key=lambda package: -max(some.get(package, 0.0) for some in found))
        lines = [["package, ms", *titles], ["all", *(f"{sum(some.values()):.0f}" for some in found)]]
        lines += [
            [package, *(f"{some[package]:.0f}" if package in some else "–" for some in found)] for package in order[:15]
        ]
        parts.append(f"## Imports of {name}\n\n{table(lines)}")
    return (
        f"# Start-up\n\nBy `{' '.join(['python -m benchmarks.startup', *given])}` on {machine.name('cpu')}, "
        f"Python {sys.version.split()[0]}, {versions}; {machine.now()}.\n\nCPU seconds (user and system), the least of "
        f"{args.repetitions}; `--mode=inspect --config=configs/liver_voi.py`, and predict of one scan by the models of "
        f"a run, compiled before.\n\n{table(seconds)}\n" + "\n".join(parts)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="", help="run folder with trained models, for predict")
    parser.add_argument("--scan", default="", help="scan that they segment")
    parser.add_argument("--compare", default="", help="another checkout, shown as before")
    parser.add_argument("--compare-run", default="", help="its run folder, where it cannot read the other's")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    text = report(args)
    print(text)
    write_text(args.results / f"startup-{machine.slug('cpu')}.md", text)


if __name__ == "__main__":
    main()
