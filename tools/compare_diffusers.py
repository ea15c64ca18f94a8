#!/usr/bin/env python3
"""One denoising step of taca and of diffusers, side by side on this CPU.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install torch diffusers safetensors
    /tmp/venv/bin/python tools/compare_diffusers.py --taca build/taca

Two transformers: models/demo, and the structure of SD3.5-medium with fewer blocks (--layers) and
random weights that are written once and read by both. A step is a forward of a CFG pair, as both
run it for every step of a picture: diffusers computes the modulations and the projected text
inside, taca has them from the start of the picture. Runs of both take turns, each in a process of
its own with the same number of threads; what is compared are the fastest runs, by the wall clock
and by CPU time, which other work on the machine lengthens less."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
MEDIUM = dict(sample_size=128, patch_size=2, in_channels=16, out_channels=16,
              attention_head_dim=64, num_attention_heads=24, joint_attention_dim=4096,
              caption_projection_dim=1536, pooled_projection_dim=2048, pos_embed_max_size=96,
              qk_norm="rms_norm")


def write_medium(path, layers):
    """Half of the blocks have a second attention, as in the original (13 of 24)."""
    import torch
    from diffusers import SD3Transformer2DModel

    dual = tuple(range((13 * layers + 23) // 24))
    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    model = SD3Transformer2DModel(num_layers=layers, dual_attention_layers=dual, **MEDIUM)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1:
                p.normal_(std=p[0].numel() ** -0.5)
            else:
                p.normal_(mean=float("norm" in name and name.endswith("weight")), std=0.1)
    model.save_pretrained(path)
    (path / "layers").write_text(str(layers))


def run_diffusers(args):
    """The child: times on stdout."""
    import torch
    from diffusers import SD3Transformer2DModel

    torch.set_num_threads(args.threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    model = SD3Transformer2DModel.from_pretrained(args.child, torch_dtype=dtype).eval()
    c = model.config
    torch.manual_seed(2)
    x = dict(hidden_states=torch.randn(2, c.in_channels, args.latent, args.latent),
             encoder_hidden_states=torch.randn(2, args.text, c.joint_attention_dim),
             pooled_projections=torch.randn(2, c.pooled_projection_dim))
    x = {k: v.to(dtype) for k, v in x.items()}
    wall, cpu = [], []
    with torch.no_grad():
        for _ in range(args.runs + 1):
            w, p = time.perf_counter(), time.process_time()
            model(**x, timestep=torch.tensor([500.0, 500.0]), return_dict=False)
            wall.append(1e3 * (time.perf_counter() - w))
            cpu.append(1e3 * (time.process_time() - p))
    print(json.dumps([min(wall[1:]), min(cpu[1:])]))


def diffusers_ms(args, path, latent, text, dtype):
    command = [sys.executable, __file__, "--child", str(path), "--latent", str(latent), "--text",
               str(text), "--dtype", dtype, "--runs", str(args.runs), "--threads", str(args.threads)]
    # waiting threads sleep: spinning would cost both sides on a busy machine, and flatter nobody
    env = dict(os.environ, OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS=str(args.threads))
    out = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])


def taca_ms(args, path, latent, text, dtype):
    command = [args.taca, "bench", "--json", "--no-ops", "--no-picture", "--transformer", str(path),
               "--latent", str(latent), "--text", str(text), "--precision", dtype, "--threads",
               str(args.threads), "--budget", str(250 * max(args.runs - 5, 1))]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    row = [json.loads(line) for line in out.splitlines() if line.startswith('{"group":"model"')][0]
    return [row["wall_ms"][0], row["cpu_ms"][0]]


def compare(args, name, path, latent, text):
    for dtype in ("f32", "bf16"):
        best = {"taca": [1e30, 1e30], "diffusers": [1e30, 1e30]}
        for _ in range(args.rounds):
            for who, ms in (("diffusers", diffusers_ms), ("taca", taca_ms)):
                best[who] = [min(*p) for p in zip(best[who], ms(args, path, latent, text, dtype))]
        d, t = best["diffusers"], best["taca"]
        print(f"{name:34} {dtype:5} {d[0]:10.2f} {t[0]:10.2f} {d[0] / t[0]:7.2f} "
              f"{d[1]:10.2f} {t[1]:10.2f} {d[1] / t[1]:7.2f}", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--taca", default=str(ROOT / "build/taca"))
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--runs", type=int, default=8, help="per process")
    p.add_argument("--rounds", type=int, default=2, help="processes of each kind")
    p.add_argument("--layers", type=int, default=12, help="blocks of SD3.5-medium's shape")
    p.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/tmp/taca-compare"))
    p.add_argument("--child", help=argparse.SUPPRESS)
    p.add_argument("--latent", type=int, help=argparse.SUPPRESS)
    p.add_argument("--text", type=int, help=argparse.SUPPRESS)
    p.add_argument("--dtype", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.child:
        return run_diffusers(args)
    medium = args.work / "medium"
    medium.mkdir(parents=True, exist_ok=True)
    stamp = medium / "layers"
    if not stamp.exists() or stamp.read_text() != str(args.layers):
        write_medium(medium, args.layers)
    print(f"{'a step of a CFG pair, ms':34} {'':5} {'diffusers':>10} {'taca':>10} {'ratio':>7} "
          f"{'cpu':>10} {'cpu':>10} {'ratio':>7}")
    compare(args, "models/demo, 128 x 128", ROOT / "models/demo/transformer", 16, 32)
    compare(args, f"SD3.5-medium, {args.layers} blocks, 256 x 256", medium, 32, 333)


if __name__ == "__main__":
    main()
