"""Fields set on the command line, --config.data.repair=True, where no recipe is named: they are of the run's own."""

import pathlib
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from raunet_jax import recipe
from raunet_jax.run_folder import RunFolder

FLAG = "config"


def take(arguments: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> bool:
    """Have the fields that are set belong to the recipe saved in --workdir.

    Returns:
        Whether that was wanted: fields are set, no --config is given, and a --workdir is.

    Raises:
        NotFound: the folder holds no recipe.
    """
    names = [argument.lstrip("-").partition("=")[0] if argument.startswith("-") else "" for argument in arguments]
    fields = any(name.startswith((f"{FLAG}.", f"no{FLAG}.")) for name in names)
    workdir = _value(arguments, names, "workdir")
    if not fields or FLAG in names or not workdir:
        return False
    config = recipe.linked(RunFolder(pathlib.Path(workdir).expanduser()).load_recipe())
    delattr(values, FLAG)
    config_flags.DEFINE_config_dict(FLAG, config, "the run's own recipe", flag_values=values, sys_argv=list(arguments))
    return True


def _value(arguments: Sequence[str], names: Sequence[str], flag: str) -> str:
    """What the flag is set to, at last; "" where it is not."""
    value = ""
    for argument, name, following in zip(arguments, names, [*arguments[1:], ""], strict=True):
        if name == flag:
            value = argument.partition("=")[2] if "=" in argument else following
    return value
