#!/usr/bin/env python3
"""baseline.py - the same transformers in PyTorch, eager and compiled, for figures beside ours.

Our own short model, not anybody's pipeline: FLUX blocks (two streams, then one) and SD3.5 blocks with
the shapes of `taca bench --models --device cuda`, normal weights, no text encoder, no VAE. Prints one
JSON object a line: ceilings first (a matrix product of 8192 and a copy), then each model, with the
same number of text tokens and steps of guidance. Needs torch with CUDA; exits 77 without.
"""
import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn


def modulate(x, shift, scale):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def rms(x, gain):
    return F.rms_norm(x, x.shape[-1:], gain, 1e-6)


def rotate(x, cos, sin):
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2).to(x.dtype)


class Stream(nn.Module):
    """The rows of one stream in a block of two: modulation, q k v, out, MLP."""

    def __init__(self, d, heads, chunks=6):
        super().__init__()
        self.heads, self.chunks = heads, chunks
        self.mod = nn.Linear(d, chunks * d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.q_gain, self.k_gain = nn.Parameter(torch.ones(d // heads)), nn.Parameter(torch.ones(d // heads))

    def split(self, x, qkv=None):
        q, k, v = (qkv or self.qkv)(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return rms(q, self.q_gain), rms(k, self.k_gain), v

    def finish(self, x, o, m):
        x = x + m[2] * self.out(o)
        return x + m[5] * self.down(F.gelu(self.up(modulate(x, m[3], m[4])), approximate="tanh"))


class Double(nn.Module):
    def __init__(self, d, heads, dual=False):
        super().__init__()
        self.img, self.txt = Stream(d, heads, 9 if dual else 6), Stream(d, heads)
        self.qkv2, self.out2 = (nn.Linear(d, 3 * d), nn.Linear(d, d)) if dual else (None, None)

    def forward(self, img, txt, vec, rope):
        mi = self.img.mod(F.silu(vec)).unsqueeze(1).chunk(self.img.chunks, -1)
        mt = self.txt.mod(F.silu(vec)).unsqueeze(1).chunk(6, -1)
        qi, ki, vi = self.img.split(modulate(img, mi[0], mi[1]))
        qt, kt, vt = self.txt.split(modulate(txt, mt[0], mt[1]))
        q, k, v = torch.cat((qi, qt), 2), torch.cat((ki, kt), 2), torch.cat((vi, vt), 2)
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        o = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        n = img.shape[1]
        if self.qkv2 is not None:
            q, k, v = self.img.split(modulate(img, mi[6], mi[7]), self.qkv2)
            o2 = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            img = img + mi[8] * self.out2(o2)
        return self.img.finish(img, o[:, :n], mi), self.txt.finish(txt, o[:, n:], mt)


class Single(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads, self.d = heads, d
        self.mod, self.up, self.down = nn.Linear(d, 3 * d), nn.Linear(d, 7 * d), nn.Linear(5 * d, d)
        self.q_gain, self.k_gain = nn.Parameter(torch.ones(d // heads)), nn.Parameter(torch.ones(d // heads))

    def forward(self, x, vec, rope):
        shift, scale, gate = self.mod(F.silu(vec)).unsqueeze(1).chunk(3, -1)
        qkv, mlp = self.up(modulate(x, shift, scale)).split((3 * self.d, 4 * self.d), -1)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = rotate(rms(q, self.q_gain), *rope), rotate(rms(k, self.k_gain), *rope)
        o = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + gate * self.down(torch.cat((o, F.gelu(mlp, approximate="tanh")), -1))


class Transformer(nn.Module):
    def __init__(self, d, heads, doubles, singles, dual=0):
        super().__init__()
        self.head = d // heads
        self.doubles = nn.ModuleList(Double(d, heads, i < dual) for i in range(doubles))
        self.singles = nn.ModuleList(Single(d, heads) for _ in range(singles))
        self.last = nn.Linear(d, 64)

    def forward(self, img, txt, vec, rope):
        for block in self.doubles:
            img, txt = block(img, txt, vec, rope)
        n = img.shape[1]
        if self.singles:
            x = torch.cat((img, txt), 1)
            for block in self.singles:
                x = block(x, vec, rope)
            img = x[:, :n]
        return self.last(F.layer_norm(img, img.shape[-1:]))


MODELS = {
    "FLUX.1-dev": (dict(d=3072, heads=24, doubles=19, singles=38), 1, 512, (128, 64, 32)),
    "SD3.5-large, CFG pair": (dict(d=2432, heads=38, doubles=38, singles=0), 2, 333, (128,)),
    "SD3.5-medium, CFG pair": (dict(d=1536, heads=24, doubles=24, singles=0, dual=13), 2, 333, (128,)),
}


def time_ms(run, seconds, least=5):
    """Milliseconds of single runs by CUDA events, after a warm-up."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    times, end = [], time.monotonic() + seconds
    while len(times) < least or time.monotonic() < end:
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        run()
        b.record()
        b.synchronize()
        times.append(a.elapsed_time(b))
    return times


def put(name, times, **more):
    quarter = sorted(times)[len(times) // 4]
    row = dict(name=name, n=len(times), ms=dict(min=min(times), q1=quarter, median=statistics.median(times)), **more)
    print(json.dumps(row), flush=True)


def ceilings(seconds):
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    put("a cube of 8192", time_ms(lambda: a @ b, seconds), way="torch", gflop=2 * 8192**3 * 1e-9)
    x = torch.randn(1 << 30, device="cuda", dtype=torch.float32)
    y = torch.empty_like(x)
    put("copy", time_ms(lambda: y.copy_(x), seconds), way="torch", gbyte=2 * x.nbytes * 1e-9)
    q, k, v = (torch.randn(1, 24, 4608, 128, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    put("attention, 24 heads of 128, 4608", time_ms(lambda: F.scaled_dot_product_attention(q, k, v), seconds),
        way="torch", gflop=4 * 24 * 4608**2 * 128 * 1e-9)


@torch.inference_mode()
def run_model(name, shape, items, text, sides, ways, seconds):
    torch.manual_seed(1)
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        model = Transformer(**shape)
        for p in model.parameters():
            if p.dim() == 2:
                p.normal_(0, p.shape[1] ** -0.5)
    forms = {"eager": model}
    if "compiled" in ways:
        forms["compiled"] = torch.compile(model, mode="max-autotune-no-cudagraphs")
    for side in sides:
        n, d = side * side // 4, shape["d"]
        img, txt = torch.randn(items, n, d, device="cuda"), torch.randn(items, text, d, device="cuda")
        vec = torch.randn(items, d, device="cuda")
        rope = None
        if shape["singles"]:
            angles = torch.rand(n + text, model.head // 2, device="cuda", dtype=torch.float32) * 6.28
            rope = angles.cos(), angles.sin()
        for way in ways:
            size = f"{side * 8} x {side * 8}"
            put(f"{name}, {size}", time_ms(lambda: forms[way](img, txt, vec, rope), seconds), way=way)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--seconds", type=float, default=2, help="for each figure")
    p.add_argument("--ways", default="eager,compiled")
    p.add_argument("--only", default="", help="part of a model's name")
    a = p.parse_args()
    if not torch.cuda.is_available():
        sys.exit(77)
    ceilings(a.seconds)
    for way in a.ways.split(","):  # compiling may take all the time there is: the other way comes first
        for name, (shape, items, text, sides) in MODELS.items():
            if a.only in name:
                run_model(name, shape, items, text, sides, [way], a.seconds)
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
