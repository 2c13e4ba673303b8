"""Our network on one device, as a campaign's jobs time it."""

import hashlib


class Ours:
    """A network of ours on one device: `once()` starts a step, or a forward pass with batch norm folded in."""

    def __init__(self, job: dict, network, variables: dict):
        import jax
        import jax.numpy as jnp
        import numpy as np

        from benchmarks import contenders
        from raunet_jax.networks.blocks import Settings
        from raunet_jax.networks.folding import as_argument, fold
        from raunet_jax.networks.packing import unpack_all
        from raunet_jax.networks.raunet import RAUNet
        from raunet_jax.training import step

        dtype = jnp.bfloat16 if job["precision"] == "bfloat16" else jnp.float32
        self.jax, self.train = jax, job["part"] == "train"
        image, mask = contenders.drawn_batch(network)
        options = {"lowering": job["lowering"], "remat": job.get("remat", "none")}
        options["products"] = "highest" if job["precision"] == "highest" else None
        if not self.train:
            net = RAUNet(*network.widths, Settings(dtype, folded=True, **options))
            self.variables, self.image = jax.device_put((as_argument(fold(variables)), image))
            self.apply = jax.jit(net.settings.traced(lambda variables, image: net.apply(unpack_all(variables), image)))
            return
        net = RAUNet(*network.widths, Settings(dtype, axis_name=step.reduction_axis(), **options))
        low = np.zeros((len(image), image.shape[-1]), np.float32)
        self.batch = jax.device_put(
            step.split_over_devices({"image": image, "mask": mask, "low": low, "high": low + 1})
        )
        self.fresh = lambda: contenders.make_state(variables)
        self.step = contenders.make_step(net)
        self.state = self.fresh()

    def once(self):
        if not self.train:
            return self.apply(self.variables, self.image)
        self.state, metrics = self.step(self.state, self.batch)
        return metrics["loss"]

    def wait(self, result) -> None:
        self.jax.block_until_ready((result, self.state) if self.train else result)

    def bits(self) -> list[list[str]]:
        """Hashes of the parameters after 4 and 8 steps from the first state, twice."""
        found = []
        for _ in range(2):
            self.state, hashes = self.fresh(), []
            for _ in range(2):
                for _ in range(4):
                    self.once()
                params = self.jax.device_get(self.state.params.vector)
                hashes.append(hashlib.sha256(params.tobytes()).hexdigest()[:12])
            found.append(hashes)
        return found
