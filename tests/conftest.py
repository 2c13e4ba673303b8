"""The suite and the processes that its tests start compute and speak as run.py does, and keep compiled networks."""

from raunet_jax import progress, startup

startup.set_environment()
progress.log_to_stderr()
