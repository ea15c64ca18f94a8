#!/usr/bin/env python3
"""fit_preview.py - the latent-to-RGB factors of a model, for its taca.json.

A preview pixel is one latent: rgb = sum_c x[c] F[c] + bias. F and bias are the least-squares fit of
that to the model's own pictures, averaged over the pixels that one latent stands for:

    ninja -C build/release preview_data
    build/release/preview_data models/demo data.safetensors 72 16 < prompts.txt
    tools/fit_preview.py data.safetensors models/demo/taca.json

Every fourth picture is kept out of the fit; the PSNR (of values in 0..1, clipped) is told for both
parts. Needs numpy. Without a second argument the factors are only printed."""
import json
import struct
import sys

import numpy as np


def load(path):
    with open(path, "rb") as f:
        (size,) = struct.unpack("<Q", f.read(8))
        header, data = json.loads(f.read(size)), f.read()
    out = {}
    for name, t in header.items():
        if name != "__metadata__":
            first, end = t["data_offsets"]
            out[name] = np.frombuffer(data[first:end], "<f4").reshape(t["shape"])
    return out


def psnr(x, y, fit):
    got, want = (np.clip((v + 1) / 2, 0, 1) for v in (x @ fit, y))
    return -10 * np.log10(np.mean((got - want) ** 2))


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    d = load(sys.argv[1])
    latent, rgb = d["latent"].astype(np.float64), d["rgb"].astype(np.float64)
    n, c = latent.shape[:2]
    held = np.arange(n) % 4 == 3
    x = np.concatenate([latent.transpose(0, 2, 3, 1), np.ones((n, *latent.shape[2:], 1))], axis=3)

    def rows(v, which):
        return v[which].reshape(-1, v.shape[-1])

    fit, *_ = np.linalg.lstsq(rows(x, ~held), rows(rgb, ~held), rcond=None)
    print(f"{n} pictures: PSNR {psnr(rows(x, ~held), rows(rgb, ~held), fit):.2f} dB in the fit, "
          f"{psnr(rows(x, held), rows(rgb, held), fit):.2f} dB held out")
    fit = fit.round(4).tolist()
    latent_rgb = {"factors": fit[:c], "bias": fit[c]}
    if len(sys.argv) == 2:
        print(json.dumps(latent_rgb))
        return
    with open(sys.argv[2]) as f:
        taca = json.load(f)
    taca.pop("latent_rgb", None)
    lines = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in taca.items()]
    table = ",\n".join("      " + json.dumps(row) for row in latent_rgb["factors"])
    lines.append('  "latent_rgb": {\n    "factors": [\n' + table + '\n    ],\n'
                 f'    "bias": {json.dumps(latent_rgb["bias"])}\n  }}')
    with open(sys.argv[2], "w") as f:
        f.write("{\n" + ",\n".join(lines) + "\n}\n")


main()
