"""The suite and the processes that its tests start compute as run.py does, and keep compiled networks between runs."""

from raunet_jax import startup

startup.set_environment()
