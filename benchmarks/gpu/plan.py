"""What a campaign measures, in order of value."""

NHWC = "--xla_gpu_force_conv_nhwc=true"
CUBLAS = f"{NHWC} --xla_gpu_enable_triton_gemm=false"  # compiles sooner: no matrix product is tried in dozens of ways
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
REWRITES = ("dots", "pairwise_max_pool", "low_mask", "split", "subpixel")  # as networks.lowering has them for a GPU


def plan(rehearse: bool) -> list[dict]:
    """The jobs in order of value; `cap`: seconds until one is ended, its compilation included."""
    jobs = []

    def add(group, name, kind, cap, **spec):
        jobs.append({"group": group, "name": f"{group} {name}", "kind": kind, "cap": cap, **spec})

    def ours(group, network, batch, part="train", precision="bfloat16", lowering="auto", xla="best", cap=240, **more):
        label = {"auto": "ours", "plain": "ours plain"}.get(lowering, f"ours {more.pop('label', lowering)}")
        shown = {"best": "", "": ", XLA's own layout", NHWC: ", NHWC", CUBLAS: ", NHWC, cuBLAS"}.get(xla, f", {xla}")
        extra = "".join(f", {key} {value}" for key, value in more.items() if key in ("remat", "again"))
        extra += ", state in four vectors" * bool(more.get("flat"))
        name = f"{network} b{batch} {part} {precision}: {label}{shown}{extra}"
        add(
            group,
            name,
            "time",
            cap,
            library="ours",
            network=network,
            batch=batch,
            part=part,
            precision=precision,
            lowering=lowering,
            xla=xla,
            **more,
        )

    def torch(group, network, batch, part="train", precision="bfloat16", compiled="", last=True, cap=60):
        label = {"": "torch", "default": "torch.compile", "reduce-overhead": "torch.compile, CUDA graphs"}[compiled]
        name = f"{network} b{batch} {part} {precision}: {label}{', channels last' if last else ''}"
        add(
            group,
            name,
            "time",
            170 if compiled else cap,
            library="torch",
            network=network,
            batch=batch,
            part=part,
            precision=precision,
            compiled=compiled,
            channels_last=last,
        )

    add("A", "ceilings", "ceilings", 40)
    ours("B", "II-128", 2, xla=CUBLAS)
    ours("B", "II-128", 2, xla=NHWC)
    torch("B", "II-128", 2)
    ours("B", "II-128", 2, flat=True)
    ours("B", "II-128", 2, xla="")
    add("A", "II against the CPU", "sanity", 220, network="II-128")
    torch("B", "II-128", 2, compiled="default")
    ours("B", "II-128", 2, lowering="plain")
    ours("B", "II-224", 2)
    torch("B", "II-224", 2)
    ours("B", "I", 16)
    torch("B", "I", 16)
    ours("B", "I", 16, flat=True)
    add("A", "I against the CPU", "sanity", 200, network="I")
    ours("B", "BraTS", 2)
    torch("B", "BraTS", 2)
    add(
        "D",
        "II-128 b2 train bfloat16",
        "profile",
        150,
        network="II-128",
        batch=2,
        part="train",
        xla="best",
        precision="bfloat16",
        lowering="auto",
    )
    for network, batch in (("II-128", 1), ("II-128", 8), ("II-224", 1), ("BraTS", 2), ("I", 8)):
        ours("B", network, batch, "forward", cap=90)
        torch("B", network, batch, "forward", cap=45)
    add("F", "512x512x200 by 128x128x32", "windows", 150, network="II-128", xla="best", precision="bfloat16")
    ours("C", "II-128", 2, xla=f"{NHWC} {DETERMINISTIC}", again=1)
    ours("C", "II-128", 2, xla=f"{NHWC} {DETERMINISTIC}", again=2)
    ours("C", "II-128", 2, xla=NHWC, again=1)
    torch("B", "I", 16, compiled="default")
    torch("B", "BraTS", 2, compiled="default")
    ours("B", "II-128", 8)
    torch("B", "II-128", 8)
    ours("B", "I", 16, lowering="plain")
    ours("B", "BraTS", 2, lowering="plain")
    ours("B", "II-128", 2, precision="float32")
    torch("B", "II-128", 2, precision="float32")
    ours("B", "II-128", 2, precision="highest")
    for left_out in REWRITES:
        rest = [name for name in REWRITES if left_out not in (name, {"subpixel": "split"}.get(name))]
        ours("B", "II-128", 2, lowering=",".join(rest), label=f"without {left_out}")
    for added in ("shift_and_matmul", "slices", "slices,winograd", "tree_sum"):
        ours("B", "II-128", 2, lowering=",".join((*REWRITES, added)), label=f"with {added}")
    for flags in (
        f"{NHWC} --xla_gpu_enable_command_buffer=",
        f"{NHWC} --xla_gpu_enable_latency_hiding_scheduler=true",
        f"{NHWC} --xla_gpu_autotune_level=0",
        "--xla_gpu_experimental_enable_conv_fusion=true",
        f"{NHWC} --xla_gpu_enable_cublaslt=true",
        f"{NHWC} --xla_gpu_graph_min_graph_size=1",
    ):
        ours("C", "II-128", 2, xla=flags)
    for remat in ("blocks", "all"):
        ours("E", "II-224", 2, remat=remat, cap=170)
    ours("B", "II-224", 4)
    torch("B", "II-224", 4)
    ours("B", "I", 4)
    ours("B", "I", 32)
    torch("B", "I", 32)
    ours("B", "BraTS", 8)
    torch("B", "BraTS", 8)
    torch("B", "II-128", 2, compiled="reduce-overhead")
    add("A", "BraTS against the CPU", "sanity", 200, network="BraTS")
    for network, batch in (("I", 16), ("BraTS", 2), ("II-224", 2)):
        add(
            "D",
            f"{network} b{batch} train bfloat16",
            "profile",
            150,
            network=network,
            batch=batch,
            part="train",
            xla="best",
            precision="bfloat16",
            lowering="auto",
        )
    add("G", "run.py, liver_voi on phantoms", "train", 240)
    if rehearse:
        seen, fewer = set(), []
        for job in jobs:  # one of each kind, library, part and group
            mark = job["kind"], job.get("library"), job.get("part"), job["group"], bool(job.get("compiled"))
            job = job | {"network": "I"} if job["kind"] == "sanity" else job
            if mark not in seen and not job.get("compiled"):
                seen.add(mark)
                fewer.append(job | {"cap": 900, "xla": ""} | ({"part": "forward"} if job["kind"] == "profile" else {}))
        return fewer
    return jobs
