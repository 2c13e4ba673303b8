"""What a campaign measures, in order of value."""

NHWC = "--xla_gpu_force_conv_nhwc=true"
OWN_LAYOUT = "--xla_gpu_force_conv_nhwc=false"  # said, since startup.py asks for the other
CUBLAS = f"{NHWC} --xla_gpu_enable_triton_gemm=false"  # compiles sooner: no matrix product is tried in dozens of ways
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
REWRITES = ("dots", "joint_sum", "flat_kernel_grad", "pairwise_max_pool", "low_mask", "split", "subpixel")
TRIALS = (  # what else might be worth a flag
    f"{NHWC} --xla_gpu_enable_command_buffer=",
    f"{NHWC} --xla_gpu_enable_latency_hiding_scheduler=true",
    f"{NHWC} --xla_gpu_autotune_level=0",
    f"{NHWC} --xla_gpu_experimental_enable_conv_fusion=true",
    f"{NHWC} --xla_gpu_enable_cublaslt=true",
    f"{NHWC} --xla_gpu_graph_min_graph_size=1",
)
BATCHES = {"I": 16, "II-128": 2, "II-224": 2, "BraTS": 2}  # of a train step, as compared with PyTorch


class _Jobs(list):
    """Rows of a plan: a dict each, with group, name, kind, cap and what the kind needs."""

    def add(self, group: str, name: str, kind: str, cap: int, **spec) -> None:
        self.append({"group": group, "name": f"{group} {name}", "kind": kind, "cap": cap, **spec})

    def ours(
        self, group, network, batch, part="train", precision="bfloat16", lowering="auto", xla="best", cap=240, **more
    ) -> None:
        label = {"auto": "ours", "plain": "ours plain"}.get(lowering, f"ours {more.pop('label', lowering)}")
        shown = {"best": "", OWN_LAYOUT: ", XLA's own layout", NHWC: ", NHWC", CUBLAS: ", NHWC, cuBLAS"}.get(
            xla, f", {xla}"
        )
        extra = "".join(f", {key} {value}" for key, value in more.items() if key in ("remat", "again"))
        name = f"{network} b{batch} {part} {precision}: {label}{shown}{extra}"
        spec = {"network": network, "batch": batch, "part": part, "precision": precision, "lowering": lowering}
        self.add(group, name, "time", cap, library="ours", xla=xla, **spec, **more)

    def torch(self, network, batch, part="train", precision="bfloat16", compiled="", last=True, cap=60) -> None:
        label = {"": "torch", "default": "torch.compile", "reduce-overhead": "torch.compile, CUDA graphs"}[compiled]
        name = f"{network} b{batch} {part} {precision}: {label}{', channels last' if last else ''}"
        spec = {"network": network, "batch": batch, "part": part, "precision": precision, "channels_last": last}
        self.add("B", name, "time", 170 if compiled else cap, library="torch", compiled=compiled, **spec)

    def profile(self, network, batch) -> None:
        spec = {"network": network, "batch": batch, "part": "train", "precision": "bfloat16", "lowering": "auto"}
        self.add("D", f"{network} b{batch} train bfloat16", "profile", 150, xla="best", **spec)


def plan(rehearse: bool) -> list[dict]:
    """The jobs in order of value; `cap`: seconds until one is ended, its compilation included."""
    jobs = _Jobs()
    jobs.add("A", "ceilings", "ceilings", 40)
    _targets(jobs)
    jobs.add("A", "II against the CPU", "sanity", 220, network="II-128")
    jobs.add("G", "run.py, liver_voi on phantoms", "train", 240)
    for deterministic in (False, True):
        title = "resume of a run that was killed" + ", deterministic" * deterministic
        jobs.add("G", title, "resume", 240, deterministic=deterministic)
    for network in ("II-128", "I"):
        jobs.add(
            "F", f"windows by their batch, {network}", "windows", 150, network=network, xla="best", precision="bfloat16"
        )
    _beside_pytorch(jobs)
    _choices(jobs)
    jobs.add("A", "I against the CPU", "sanity", 200, network="I")
    jobs.add("A", "BraTS against the CPU", "sanity", 200, network="BraTS")
    jobs.profile("I", BATCHES["I"])
    jobs.profile("BraTS", BATCHES["BraTS"])
    jobs.add("C", "flags that this jaxlib knows", "flags", 60)
    return rehearsal(jobs) if rehearse else list(jobs)


def _targets(jobs: _Jobs) -> None:
    """What targets.py judges, the slowest compilers first: what is compiled beside them costs no time of its own."""
    jobs.ours("B", "II-128", 2, xla=CUBLAS)
    jobs.torch("II-128", 2, compiled="default")
    jobs.ours("B", "II-128", 2, xla=NHWC)
    jobs.ours("B", "II-224", 4)
    jobs.add("H", "512x512x200 through the cascade", "cascade", 240, xla="best", window_batches={})
    jobs.ours("B", "I", 16)
    jobs.torch("I", 16, compiled="default")
    jobs.ours("B", "BraTS", 2)
    jobs.torch("BraTS", 2, compiled="default")
    jobs.profile("II-128", 2)
    jobs.profile("II-224", 4)
    jobs.ours("B", "II-224", 2)
    jobs.torch("II-224", 2, compiled="default")
    wide = {"coarse": 32, "voi": 8, "tumor": 8}
    jobs.add("H", "512x512x200 through the cascade, windows by 8", "cascade", 240, xla="best", window_batches=wide)


def _beside_pytorch(jobs: _Jobs) -> None:
    for network, batch in BATCHES.items():
        jobs.torch(network, batch)
    for network, batch in (("II-128", 1), ("II-128", 8), ("II-224", 1), ("BraTS", 2), ("I", 8)):
        jobs.ours("B", network, batch, "forward", cap=90)
        jobs.torch(network, batch, "forward", cap=45)
    jobs.torch("II-128", 2, compiled="reduce-overhead")
    jobs.torch("II-224", 4)
    jobs.ours("B", "II-128", 2, precision="float32")
    jobs.torch("II-128", 2, precision="float32")
    jobs.ours("B", "II-128", 2, precision="highest")


def _choices(jobs: _Jobs) -> None:
    """Flags, lowering, batch and what the gradient computes anew."""
    jobs.ours("C", "II-128", 2, xla=OWN_LAYOUT)
    for again in (1, 2):
        jobs.ours("C", "II-128", 2, xla=f"{NHWC} {DETERMINISTIC}", again=again)
    jobs.ours("C", "II-128", 2, xla=NHWC, again=1)
    for network, batch in (("II-128", 4), ("II-128", 8), ("II-224", 8), ("I", 4), ("I", 32), ("I", 64), ("BraTS", 8)):
        jobs.ours("S", network, batch)
    for network in ("II-128", "I", "BraTS"):
        jobs.ours("B", network, BATCHES[network], lowering="plain")
    for left_out in REWRITES:
        rest = [name for name in REWRITES if left_out not in (name, {"subpixel": "split"}.get(name))]
        jobs.ours("B", "II-128", 2, lowering=",".join(rest), label=f"without {left_out}")
    for added in ("slices", "tree_sum"):  # the others do nothing in bfloat16
        jobs.ours("B", "II-128", 2, lowering=",".join((*REWRITES, added)), label=f"with {added}")
    for flags in TRIALS:
        jobs.ours("C", "II-128", 2, xla=flags)
    for remat in ("blocks", "all"):
        jobs.ours("E", "II-224", 2, remat=remat, cap=170)


def rehearsal(jobs: list[dict]) -> list[dict]:
    """Of each kind of job the first, in 2D but for one of ours and of PyTorch's each and what only 3D has."""
    seen, fewer = set(), []
    for job in jobs:
        what = [job.get(key) for key in ("library", "part", "compiled", "remat", "again", "deterministic")]
        mark = job["kind"], *what, *_variant(job)
        if mark in seen:
            continue
        seen.add(mark)
        tiny = job | {"cap": 3600} | ({"xla": NHWC} if job.get("xla") == "best" else {})  # compiled already
        if job["kind"] == "sanity" or (job["kind"] in ("time", "profile") and fewer[1:] and job.get("compiled") != ""):
            tiny |= {"network": "I", "name": job["name"].replace(f"{job['network']} b{job.get('batch')}", "I b16")}
            tiny |= {"batch": BATCHES["I"]} if "batch" in job else {}
        fewer.append(tiny)
    return fewer


def _variant(job: dict) -> tuple:
    """What of flags and lowering is worth a rehearsal of its own."""
    flags = job.get("xla", "") if job["kind"] == "time" and job["library"] == "ours" else ""
    lowering = job["lowering"] if job.get("lowering") == "plain" else ""
    windows = job.get("network") if job["kind"] == "windows" else ""
    return flags if flags in (CUBLAS, f"{NHWC} {DETERMINISTIC}") else "", lowering, windows
