#!/usr/bin/env python3
"""random_flux.py FOLDER - a FLUX.1 dev of random normal weights in its true shape (11.9 billion, 6.7 GB), to see
what all of it takes in time and memory without having it.

Writes flux.gguf (matrices in Q4_0, original names) and stand-ins for the text encoders, of their widths but one
layer each: clip_l.safetensors and t5.safetensors. The encoders and the autoencoder are no part of what is looked
at; the demo has one of as many channels:

    tools/random_flux.py /tmp/flux
    taca inspect /tmp/flux/flux.gguf --clip-l /tmp/flux/clip_l.safetensors --t5 /tmp/flux/t5.safetensors \\
        --vae models/demo/vae --precision int8 --size 256x256 --steps 1
    /usr/bin/time -v taca generate "a cat" -m /tmp/flux/flux.gguf ... # the same
"""
import array
import json
import os
import random
import struct
import sys

WIDTH, HEAD, DOUBLE, SINGLE = 3072, 128, 19, 38
JOINT, POOLED, CHANNELS, FEATURES = 4096, 768, 64, 256
F32, Q4_0 = 0, 2
BLOCKS = 40009  # of the pool; a prime, so that no row begins where another did


def flux_tensors():
    """(name, shape) of every tensor, in the order of the file."""
    d = WIDTH

    def linear(name, out, inner):
        yield f"{name}.weight", (out, inner)
        yield f"{name}.bias", (out,)

    yield from linear("img_in", d, CHANNELS)
    yield from linear("txt_in", d, JOINT)
    for name, inner in (("time_in", FEATURES), ("vector_in", POOLED), ("guidance_in", FEATURES)):
        yield from linear(f"{name}.in_layer", d, inner)
        yield from linear(f"{name}.out_layer", d, d)
    for i in range(DOUBLE):
        for side in ("img", "txt"):
            block = f"double_blocks.{i}.{side}"
            yield from linear(f"{block}_mod.lin", 6 * d, d)
            yield from linear(f"{block}_attn.qkv", 3 * d, d)
            yield from linear(f"{block}_attn.proj", d, d)
            for norm in ("query_norm", "key_norm"):
                yield f"{block}_attn.norm.{norm}.scale", (HEAD,)
            yield from linear(f"{block}_mlp.0", 4 * d, d)
            yield from linear(f"{block}_mlp.2", d, 4 * d)
    for i in range(SINGLE):
        block = f"single_blocks.{i}"
        yield from linear(f"{block}.linear1", 7 * d, d)
        yield from linear(f"{block}.linear2", d, 5 * d)
        for norm in ("query_norm", "key_norm"):
            yield f"{block}.norm.{norm}.scale", (HEAD,)
        yield from linear(f"{block}.modulation.lin", 3 * d, d)
    yield from linear("final_layer.linear", CHANNELS, d)
    yield from linear("final_layer.adaLN_modulation.1", 2 * d, d)


def q4_0_pool(rng, n, deviation):
    """n blocks of 32 normal values: a scale in f16, then nibbles, as GGUF has them."""
    out = bytearray()
    for _ in range(n):
        x = [rng.gauss(0, deviation) for _ in range(32)]
        most = max(x, key=abs)
        scale = most / -8
        q = [min(15, int(v / scale + 8.5)) for v in x]
        out += struct.pack("<e", scale) + bytes(q[i] | q[i + 16] << 4 for i in range(16))
    return bytes(out)


def count(shape):
    n = 1
    for d in shape:
        n *= d
    return n


def write_pool(f, pool, nbytes, at):
    """nbytes out of the pool from byte `at`, going round; returns where it ended."""
    while nbytes:
        n = f.write(pool[at:at + nbytes])
        nbytes -= n
        at = (at + n) % len(pool)
    return at


def write_gguf(path, rng):
    def text(s):
        return struct.pack("<Q", len(s)) + s.encode()

    tensors, at, offset = list(flux_tensors()), 0, []
    head = bytearray()
    for name, shape in tensors:
        kind = Q4_0 if len(shape) == 2 else F32
        head += text(name) + struct.pack("<I", len(shape))
        head += b"".join(struct.pack("<Q", d) for d in reversed(shape)) + struct.pack("<IQ", kind, at)
        size = count(shape) // 32 * 18 if kind == Q4_0 else count(shape) * 4
        offset.append((at, size, kind, name))
        at = (at + size + 31) // 32 * 32
    start = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 1)
    start += text("general.architecture") + struct.pack("<I", 8) + text("flux") + head
    pool = q4_0_pool(rng, BLOCKS, WIDTH ** -0.5)
    small = array.array("f", (rng.gauss(0, 0.02) for _ in range(4096))).tobytes()
    ones = array.array("f", [1.0] * HEAD).tobytes()
    where = 0
    with open(path, "wb") as f:
        f.write(start)
        f.write(b"\0" * (-len(start) % 32))
        for at, size, kind, name in offset:
            if kind == Q4_0:
                where = write_pool(f, pool, size, where)
            else:
                write_pool(f, ones if name.endswith("scale") else small, size, 0)
            f.write(b"\0" * (-size % 32))


def write_safetensors(path, rng, tensors):
    entries, at = {}, 0
    for name, shape in tensors:
        size = 2 * count(shape)
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    floats = array.array("f", (rng.gauss(0, 0.03) for _ in range(40009)))
    pool = array.array("H", (bits >> 16 for bits in array.array("I", floats.tobytes()))).tobytes()
    with open(path, "wb") as f:
        head = json.dumps(entries).encode()
        f.write(struct.pack("<Q", len(head)) + head)
        write_pool(f, pool, at, 0)


def clip_tensors(width=768, vocabulary=49408, positions=77):
    yield "text_model.embeddings.token_embedding.weight", (vocabulary, width)
    yield "text_model.embeddings.position_embedding.weight", (positions, width)
    layer = "text_model.encoder.layers.0."
    linears = [(f"{layer}self_attn.{x}_proj", width, width) for x in ("q", "k", "v", "out")]
    linears += [(f"{layer}mlp.fc1", 4 * width, width), (f"{layer}mlp.fc2", width, 4 * width)]
    for name, out, inner in linears:
        yield f"{name}.weight", (out, inner)
        yield f"{name}.bias", (out,)
    for norm in (f"{layer}layer_norm1", f"{layer}layer_norm2", "text_model.final_layer_norm"):
        yield f"{norm}.weight", (width,)
        yield f"{norm}.bias", (width,)


def t5_tensors(width=JOINT, vocabulary=32128, heads=64, ff=1024):
    yield "shared.weight", (vocabulary, width)
    block = "encoder.block.0.layer."
    yield f"{block}0.SelfAttention.relative_attention_bias.weight", (32, heads)
    for x in ("q", "k", "v"):
        yield f"{block}0.SelfAttention.{x}.weight", (64 * heads, width)
    yield f"{block}0.SelfAttention.o.weight", (width, 64 * heads)
    yield f"{block}0.layer_norm.weight", (width,)
    for x in ("wi_0", "wi_1"):
        yield f"{block}1.DenseReluDense.{x}.weight", (ff, width)
    yield f"{block}1.DenseReluDense.wo.weight", (width, ff)
    yield f"{block}1.layer_norm.weight", (width,)
    yield "encoder.final_layer_norm.weight", (width,)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder, rng = sys.argv[1], random.Random(1)
    os.makedirs(folder, exist_ok=True)
    write_safetensors(os.path.join(folder, "clip_l.safetensors"), rng, clip_tensors())
    write_safetensors(os.path.join(folder, "t5.safetensors"), rng, t5_tensors())
    write_gguf(os.path.join(folder, "flux.gguf"), rng)


main()
