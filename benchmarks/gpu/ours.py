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
        from raunet_jax.networks.folding import fold
        from raunet_jax.networks.raunet import RAUNet
        from raunet_jax.training import step

        if job["precision"] == "highest":
            jax.config.update("jax_default_matmul_precision", "highest")
        dtype = jnp.bfloat16 if job["precision"] == "bfloat16" else jnp.float32
        self.jax, self.train = jax, job["part"] == "train"
        image, mask = contenders.drawn_batch(network)
        options = {"lowering": job["lowering"], "remat": job.get("remat", "none")}
        if not self.train:
            net = RAUNet(*network.widths, Settings(dtype, folded=True, **options))
            self.variables, self.image = jax.device_put((fold(variables), image))
            self.apply = jax.jit(net.apply)
            return
        if job.get("flat"):
            self._flat(RAUNet(*network.widths, Settings(dtype, **options)), variables, image, mask)
            return
        net = RAUNet(*network.widths, Settings(dtype, axis_name=step.reduction_axis(), **options))
        low = np.zeros((len(image), image.shape[-1]), np.float32)
        self.batch = jax.device_put(
            step.split_over_devices({"image": image, "mask": mask, "low": low, "high": low + 1})
        )
        self.fresh = lambda: contenders.make_state(variables)
        self.step = contenders.make_step(net)
        self.state = self.fresh()

    def _flat(self, net, variables, image, mask):
        """The same step on a state of four vectors, not of 2,586 arrays: a trial of what that would be worth."""
        import jax
        import jax.numpy as jnp
        import numpy as np

        from benchmarks.contenders import LEARNING_RATE
        from raunet_jax.training.losses import dice_loss

        def packing(tree):
            leaves, form = jax.tree.flatten(tree)
            ends = np.cumsum([leaf.size for leaf in leaves]).tolist()

            def unpack(vector):
                parts = (
                    vector[end - leaf.size : end].reshape(leaf.shape) for end, leaf in zip(ends, leaves, strict=True)
                )
                return jax.tree.unflatten(form, parts)

            return lambda tree: jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)]), unpack

        (pack, unpack), (pack_statistics, unpack_statistics) = map(
            packing, (variables["params"], variables["batch_stats"])
        )

        def step(state, batch):
            held = {"batch_stats": unpack_statistics(state["statistics"])}

            def objective(params):
                logits, updates = net.apply({"params": params, **held}, batch[0], train=True, mutable=["batch_stats"])
                return dice_loss(jax.nn.sigmoid(logits), batch[1]), updates["batch_stats"]

            (loss, statistics), gradients = jax.value_and_grad(objective, has_aux=True)(unpack(state["params"]))
            gradient, count = pack(gradients), state["count"] + 1
            mean = 0.9 * state["mean"] + 0.1 * gradient
            square = 0.999 * state["square"] + 0.001 * gradient**2
            moved = mean / (1 - 0.9**count) / (jnp.sqrt(square / (1 - 0.999**count)) + 1e-8)
            kept = {"params": state["params"] - LEARNING_RATE * moved, "statistics": pack_statistics(statistics)}
            return kept | {"mean": mean, "square": square, "count": count}, {"loss": loss}

        def fresh():
            params = pack(variables["params"])
            zeros = {name: jnp.zeros_like(params) for name in ("mean", "square")}
            statistics = pack_statistics(variables["batch_stats"])
            return zeros | {"params": params, "statistics": statistics, "count": jnp.zeros((), jnp.float32)}

        self.fresh, self.step = fresh, jax.jit(step, donate_argnums=0)
        self.state, self.batch = fresh(), jax.device_put((image, mask))

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
                digest = hashlib.sha256()
                params = self.state["params"] if isinstance(self.state, dict) else self.state.params
                for leaf in self.jax.tree.leaves(self.jax.device_get(params)):
                    digest.update(leaf.tobytes())
                hashes.append(digest.hexdigest()[:12])
            found.append(hashes)
        return found
