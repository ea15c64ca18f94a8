#!/usr/bin/env python3
"""plan_command.py TACA MODEL GOLDEN - the memory that `taca inspect` plans, against what `taca generate` takes.

The kernel's own figure (ru_maxrss) of a child that makes the picture must be at most a tenth above the plan and
not a fifth below it: for the demo model and small ones at every precision, several pictures at once, from a
picture with a mask, with an adapter; and for a model of half a gigabyte, as wide as SD3.5-medium, where weights are
all that counts. It is written on the spot."""
import array
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile

TACA, DEMO, GOLDEN = sys.argv[1:4]
ABOVE, BELOW = 1.10, 0.80
failed = []


def plan(model, options):
    out = subprocess.run([TACA, "inspect", model, "--json", *options], stdout=subprocess.PIPE, check=True).stdout
    return json.loads(out)["plan"]


def has(precision):
    p = subprocess.run([TACA, "inspect", DEMO, "--precision", precision], stdout=subprocess.DEVNULL,
                       stderr=subprocess.PIPE, text=True)
    if p.returncode:
        print(f"{precision}: skipped: {p.stderr.strip()}")
    return p.returncode == 0


def measured(model, options, out):
    """Peak resident bytes of a child: its own process, so that nothing of ours counts."""
    argv = [TACA, "generate", "a red cube", "-m", model, "--seed", "1", "-q", "-o", out, *options]
    pid = os.posix_spawn(TACA, argv, os.environ)
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"FAILED: {' '.join(argv)}: status {status}")
    return usage.ru_maxrss * 1024


def compare(name, model, inspect, generate, out):
    p, took = plan(model, inspect), measured(model, generate, out)
    ratio = took / p["memory"]["peak"]
    print(f"{name:44} planned {p['memory']['peak'] / 1e6:7.1f} MB, took {took / 1e6:7.1f} MB: {ratio:.3f}", flush=True)
    if not BELOW <= ratio <= ABOVE:
        failed.append(name)
    return p, took


def normal_block(n):
    """n bf16 values around 0 with a deviation of a fortieth."""
    rng = random.Random(1)
    floats = array.array("f", (rng.gauss(0, 0.025) for _ in range(n)))
    return array.array("H", (bits >> 16 for bits in array.array("I", floats.tobytes()))).tobytes()


def write_values(f, nbytes, block):
    while nbytes > 0:
        nbytes -= f.write(block[:nbytes])


def widen(source, target, times, blocks):
    """The transformer of `source` with every width taken `times`, and that many blocks."""
    with open(os.path.join(source, "diffusion_pytorch_model.safetensors"), "rb") as f:
        head = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
    with open(os.path.join(source, "config.json")) as f:
        config = json.load(f)
    width, last = config["caption_projection_dim"], config["num_layers"] - 1
    shapes = {}
    for name, t in head.items():
        if name == "__metadata__":
            continue
        shape = [d * times if d % width == 0 else d for d in t["shape"]]
        part = name.split(".")
        if part[0] != "transformer_blocks":
            shapes[name] = (t["dtype"], shape)
        elif part[1] == "0":
            for i in range(blocks - 1):
                shapes[".".join([part[0], str(i), *part[2:]])] = (t["dtype"], shape)
        elif part[1] == str(last):
            shapes[".".join([part[0], str(blocks - 1), *part[2:]])] = (t["dtype"], shape)
    config.update(num_layers=blocks, num_attention_heads=config["num_attention_heads"] * times,
                  caption_projection_dim=width * times, dual_attention_layers=list(range(blocks - 1)))
    with open(os.path.join(target, "config.json"), "w") as f:
        json.dump(config, f)
    entries, at = {}, 0
    for name, (dtype, shape) in shapes.items():
        size = 4 if dtype == "F32" else 2
        for d in shape:
            size *= d
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    block = normal_block(1 << 18)
    with open(os.path.join(target, "diffusion_pytorch_model.safetensors"), "wb") as f:
        text = json.dumps(entries).encode()
        f.write(struct.pack("<Q", len(text)) + text)
        write_values(f, at, block)
    return at


def large_model(folder):
    model = os.path.join(folder, "large")
    shutil.copytree(DEMO, model, ignore=shutil.ignore_patterns("transformer"))
    os.mkdir(os.path.join(model, "transformer"))
    return model, widen(os.path.join(DEMO, "transformer"), os.path.join(model, "transformer"), 8, 3)


def adapter(path):
    """Rank 64 on the demo's first block: half a megabyte of bf16."""
    name, shapes, entries, at = "transformer.transformer_blocks.0.", {}, {}, 0
    for module, out, width in (("ff.net.0.proj", 768, 192), ("ff.net.2", 192, 768)):
        shapes[f"{name}{module}.lora_A.weight"] = [64, width]
        shapes[f"{name}{module}.lora_B.weight"] = [out, 64]
    for key, shape in shapes.items():
        size = 2 * shape[0] * shape[1]
        entries[key] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    with open(path, "wb") as f:
        text = json.dumps(entries).encode()
        f.write(struct.pack("<Q", len(text)) + text)
        write_values(f, at, normal_block(1 << 12))
    return path


def check_figures(p):
    """What the plan says beside memory, against figures worked out here: the demo's 8 x 8 patches and 32 + 0 text
    tokens, twice for guidance; a product is 2 operations per weight and row."""
    weights, memory = p["flops"], p["memory"]
    parts = sum(memory[k] for k in ("process", "transformer", "vae", "text", "taesd", "adapters", "sequences",
                                    "scratch", "work", "pixels"))
    assert memory["peak"] == max(parts, memory["opening"]), memory
    assert p["tokens"] == 2 * (64 + 32), p["tokens"]
    assert 2 * 2 * 64 * 5e6 < weights["step"] < 2 * 2 * 96 * 12e6, weights
    s = p["seconds"]
    assert 0 < s["step"] < s["all"] and 0 < s["decode"] < s["all"], s
    assert abs(s["text"] + s["encode"] + s["admission"] + s["decode"] + 28 * s["step"] - s["all"]) < 1e-3 * s["all"], s


def main():
    folder = tempfile.mkdtemp()
    try:
        picture = os.path.join(folder, "a.png")
        p, _ = compare("demo", DEMO, [], [], picture)
        check_figures(p)
        precisions = [x for x in ("f32", "bf16", "int8") if has(x)]
        for precision in precisions:
            o = ["--precision", precision]
            compare(f"demo {precision}", DEMO, o, o, picture)
            for tiny in ("sd35_tiny", "sd35_tiny_t5"):
                few = o + ["--steps", "2"]
                compare(f"{tiny} {precision}", os.path.join(GOLDEN, "pipelines", tiny), few, few, picture)
        several = ["--size", "256x256", "--count", "4", "--steps", "4"]
        compare("demo, 4 of 256 x 256", DEMO, several, several, os.path.join(folder, "n.png"))
        few = ["--size", "512x512", "--steps", "2"]
        compare("demo, 512 x 512", DEMO, few, few, picture)
        # its last picture has 512 x 512 pixels
        compare("demo, from a picture", DEMO, few + ["--image"], ["--image", picture, "--steps", "2"],
                os.path.join(folder, "b.png"))
        compare("demo, from a picture and a mask", DEMO, few + ["--mask"],
                ["--image", picture, "--mask", picture, "--steps", "2"], os.path.join(folder, "b.png"))
        lora = ["--lora", adapter(os.path.join(folder, "lora.safetensors"))]
        p, _ = compare("demo, with an adapter", DEMO, lora, lora, picture)
        assert p["memory"]["adapters"] > 2 * 2 * 64 * (768 + 192), p["memory"]
        model, weights = large_model(folder)
        for precision in precisions:
            o = ["--precision", precision, "--steps", "1", "--cfg", "1"]
            _, took = compare(f"half a gigabyte, {precision}", model, o, o, picture)
            if not weights // 2 < took:
                failed.append("the large model is not in memory")
    finally:
        shutil.rmtree(folder)
    for name in failed:
        print("FAILED:", name)
    sys.exit(bool(failed))


main()
