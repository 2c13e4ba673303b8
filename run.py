"""RA-UNet: find the liver in a CT, segment it and its tumors; segment brain tumors in MR.

  python run.py --config=configs/demo.py                     the whole cascade on drawn scans, no download
  python run.py --config=configs/liver.py --config.data.root=/disk/lits
  python run.py --mode=predict --workdir=runs/liver --input=SCANS --output=MASKS
  python run.py --mode=score --prediction=MASKS --reference=TRUTH --output=scores.json

Every field of a recipe can be set by its name, --config.epochs=10; configs/common.py lists them all.
"""

import os
import signal
import sys


def end_at_once(signum, _):
    """Nothing is written yet: no traceback of an import that was cut short."""
    os.write(sys.stderr.fileno(), b"interrupted\n")
    os._exit(128 + signum)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end_at_once)

from raunet_jax import startup  # noqa: E402

if __name__ == "__main__" and startup.set_environment():
    startup.restart()  # before anything else is imported, or it would be imported twice

import pathlib  # noqa: E402
import traceback  # noqa: E402

from absl import app, flags, logging  # noqa: E402
from ml_collections import config_flags  # noqa: E402

from raunet_jax import commands, errors, failures, progress, recipe, signals  # noqa: E402
from raunet_jax.commands import recipe_file, request, saved_recipe  # noqa: E402

config_flags.DEFINE_config_file("config", None, "recipe, such as configs/demo.py or configs/liver_tumor.py:64x64x32")
flags.DEFINE_enum(
    "mode", "train", list(commands.MODES), "what to do; train goes on where an earlier run of the same command stopped"
)
flags.DEFINE_string("workdir", None, "run folder: models, metrics, scores, page (default: runs/NAME of the recipe)")
flags.DEFINE_multi_string(
    "input", [], "predict: a NIfTI file, DICOM or BraTS case folder, or a folder of these; repeatable"
)
flags.DEFINE_string("output", "", "predict: folder for masks; score: the scores.json; evaluate: folder for scores")
flags.DEFINE_string(
    "series",
    "auto",
    "predict: which series of a DICOM study: auto (the one that suits best; the choice is said), all (axial CT), a "
    "SeriesNumber, a SeriesInstanceUID or how it begins, or a description, capitals or not, such as 'portal*'",
)
flags.DEFINE_bool("list", False, "predict: only print the table of DICOM series below --input and which are chosen")
flags.DEFINE_bool("probabilities", False, "predict: write probability maps too")
flags.DEFINE_bool(
    "uncertainty",
    False,
    "predict, evaluate: write the entropy of the folds' mean probability too (bits)",
)
flags.DEFINE_string(
    "prediction",
    "",
    "score: folder of predicted masks, whoever made them; with config.data.foreground, masks of this program count "
    "where they are 1, all others where they hold one of these labels, as the references do",
)
flags.DEFINE_string("reference", "", "score: folder of reference masks")
flags.DEFINE_string("compare", "", "another run folder; inspect: says what differs; report: pairs their scores")
flags.DEFINE_bool(
    "cost",
    False,
    "inspect, of a recipe: compile its train step and forward pass for this machine's platform, which takes a minute "
    "or more, and show their kernels, the bytes these touch, operations and memory",
)
flags.DEFINE_bool("json", False, "inspect, verify: print JSON")
flags.DEFINE_bool("debug", False, "show the traceback of every error")


def parse(arguments):
    """Flags and recipe; what cannot be parsed ends with a sentence."""
    try:
        if not saved_recipe.take(arguments):
            arguments = recipe_file.settled(arguments)
        sys.argv = arguments  # where ml_collections looks for the fields that are set
        return flags.FLAGS(sys.argv)
    except errors.UserError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        sys.exit(f"error: {error}")
    except flags.Error as error:
        hint = "configs/common.py lists all fields" if "--config." in str(error) else "--help lists all flags"
        sys.exit(f"error: {' '.join(str(error).split())}; {hint}")
    except (AttributeError, KeyError) as error:
        cause = error.args[0]  # ml_collections wraps its KeyError, whose text is quoted when it is printed
        said = str(cause.args[0] if isinstance(cause, KeyError) else cause)
        renamed = [
            f"{old} is {new} now" for old, new in recipe.RENAMED_FIELDS.items() if f".{old}=" in " ".join(arguments)
        ]
        hint = "; ".join(
            [*renamed, "configs/common.py lists all, those of a cascade's stage are config.stages.STAGE.FIELD"]
        )
        sys.exit(f"error: the recipe has no field {' '.join(said.split())}; {hint}")


def main(arguments) -> int:
    given = flags.FLAGS
    if arguments[1:]:
        print(f"error: {' '.join(arguments[1:])} belongs to no flag; write --input before each scan", file=sys.stderr)
        return 1
    logging.set_verbosity(logging.ERROR)  # JAX, Orbax and TFDS report each step of theirs
    if given.debug:
        os.environ[progress.DEBUG] = "1"  # also for the processes that this one starts
    progress.log_to_stderr()
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be what the terminal can show
    try:
        wanted = asked(given)
        if wanted.deterministic:
            startup.make_deterministic()  # before a mode's module imports JAX
        run = commands.load(given.mode, given.list)
        with signals.interrupted():
            status = run(wanted)
            sys.stdout.flush()  # here a full disk, or a reader that has ended, is told as an error
        return status
    except signals.Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_status
    except KeyboardInterrupt as interrupt:
        terminated = isinstance(interrupt, signals.Terminated)
        how = "stopped by SIGTERM" if terminated else "interrupted"
        print(f"{how}; the same command goes on from what is finished", file=sys.stderr)
        return 143 if terminated else 130
    except Exception as error:
        print(f"error: {failures.explain(error)}", file=sys.stderr)
        return failures.exit_status(error)


def asked(given) -> request.Request:
    paths = {name: os.path.expanduser(given[name].value) for name in ("output", "prediction", "reference", "compare")}
    others = {name: given[name].value for name in ("config", "probabilities", "uncertainty", "json", "series", "cost")}
    workdir = pathlib.Path(given.workdir).expanduser() if given.workdir else None
    inputs = [os.path.expanduser(path) for path in given.input]
    return request.Request(workdir=workdir, input=inputs, **paths, **others)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
