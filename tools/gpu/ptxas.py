#!/usr/bin/env python3
"""ptxas.py [--check] - what the compiler says of each CUDA kernel, as a table in Markdown.

Compiles kernels/cuda/*.cu for sm_80 and sm_90a with -Xptxas -v; needs nvcc (in PATH, $NVCC or
/usr/local/cuda/bin), g++ and binutils, no GPU. The table has, for every kernel in the instances that
a bf16 model runs, registers a thread, shared memory a block, how many warps of a multiprocessor's 64
find room, and a launch of it with its floor: the larger of the times that its arithmetic and its
bytes take. Spills and stack frames are looked for in every instance: with any the exit code is 1.
"""
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Shared memory of a multiprocessor and of a block, bytes.
ARCHS = {"sm_80": ("compute_80", 164 << 10), "sm_90a": ("compute_90a", 228 << 10)}

# What a launch costs at least, on an H100 SXM: FLOP of bf16 on its tensor cores and bytes/s, both
# measured; FLOP of f32 as the data sheet has them.
TENSOR, F32, MEMORY = 798e12, 67e12, 3.0e12
ROWS, WIDTH, MAP = 4608, 3072, 1024 * 1024  # FLUX.1-dev at 1024²; pixels


def flux(bytes_of_value, width=WIDTH):
    return (f"{ROWS} × {width}", 0, ROWS * width * bytes_of_value)


def attention(what, tokens, width):
    return (what, 4 * tokens * tokens * width / TENSOR, 4 * tokens * width * 2)


def conv(what, c_in, c_out, bytes_in, bytes_out, rate=TENSOR):
    return (f"{what}, {c_in} to {c_out} channels at 1024²", 2 * MAP * c_in * c_out * 9 / rate,
            MAP * (c_in * bytes_in + c_out * bytes_out))


def moved(what, count, bytes_of_value):
    return (what, 0, count * bytes_of_value)


FLUX_HEADS = attention("FLUX, 4608 tokens, 24 heads", ROWS, WIDTH)
MEDIUM_HEADS = attention("SD3.5-medium, 4429 tokens, 24 heads", 4429, 1536)
VAE_HEAD = attention("VAE, 16384 tokens", 16384, 512)
LATENT = 16 * 128 * 128

# file, the beginning of an instance as c++filt writes it, threads and shared memory of its launch
# in the file's own words, a launch of it: what it is for, seconds of arithmetic, bytes
SHOWN = [
    ("attention_mma", "attention_mma_kernel<128, 64, false", "THREADS", "sizeof(mma_shared<128, 64>)", FLUX_HEADS),
    ("attention_mma", "attention_mma_kernel<64, 64, false", "THREADS", "sizeof(mma_shared<64, 64>)", MEDIUM_HEADS),
    ("attention_mma", "attention_mma_kernel<64, 64, true", "THREADS", "sizeof(mma_shared<64, 64>)",
     attention("T5, 512 tokens, 64 heads", 512, 4096)),
    ("attention_wgmma", "attention_wgmma_kernel<128, 2", "GROUP * 2", "sizeof(wgmma_shared<128, 2>) + BRICK", FLUX_HEADS),
    ("attention_wgmma", "attention_wgmma_kernel<64, 3", "GROUP * 3", "sizeof(wgmma_shared<64, 3>) + BRICK", MEDIUM_HEADS),
    ("attention_wide", "attention_wide_kernel<wide_shape<64, 32, 8>", "large_shape::THREADS",
     "sizeof(large_shape::shared)", VAE_HEAD),
    ("attention_wide", "attention_wide_kernel<wide_shape<32, 16, 4>", "small_shape::THREADS",
     "sizeof(small_shape::shared)", VAE_HEAD),
    ("attention", "attention_plain_kernel<", "THREADS", "sizeof(plain_shared)",
     attention("CLIP-L, 77 tokens, 12 heads", 77, 768)),
    ("attention_check", "fill_kernel", "256", "0", None),
    ("conv_mma", "conv_mma_kernel<128, void", "THREADS", "sizeof(conv_shared<128>)", conv("VAE with the sum", 128, 128, 2, 8)),
    ("conv_mma", "conv_mma_kernel<64, void", "THREADS", "sizeof(conv_shared<64>)", conv("tiny decoder", 64, 64, 2, 2)),
    ("conv_mma", "conv_mma_kernel<32, void", "THREADS", "sizeof(conv_shared<32>)", conv("VAE's last", 128, 3, 2, 4)),
    ("conv", "conv_f32_kernel<", "THREADS", "sizeof(tile_shared)", conv("VAE in f32 with the sum", 128, 128, 4, 8, F32)),
    ("group_norm", "measure_kernel<float, 4", "THREADS", "sizeof(parts_shared<4>)", moved("1024² × 128", MAP * 128, 4)),
    ("group_norm", "measure_kernel<__nv_bfloat16, 8", "THREADS", "sizeof(parts_shared<8>)", moved("1024² × 128", MAP * 128, 2)),
    ("group_norm", "join_kernel", "THREADS", "sizeof(join_shared)", moved("528 parts × 128", 528 * 128, 8)),
    ("group_norm", "apply_kernel<__nv_bfloat16, float, 4", "THREADS", "0", moved("1024² × 128", MAP * 128, 6)),
    ("group_norm", "apply_kernel<__nv_bfloat16, __nv_bfloat16, 8", "THREADS", "0", moved("1024² × 128", MAP * 128, 4)),
    ("rows", "layer_norm_kernel<__nv_bfloat16, float, 4, 128, true", "BLOCK", "sizeof(sums)", moved("CLIP-G, 77 × 1280", 77 * 1280, 6)),
    ("rows", "norm_modulate_kernel<__nv_bfloat16, float, 4, 128, true", "BLOCK", "sizeof(sums)", flux(6)),
    ("rows", "gate_norm_kernel<__nv_bfloat16, 4, 128, true", "BLOCK", "sizeof(sums)", flux(14)),
    ("rows", "gate_norm_kernel<e4m3, 4, 128, true", "BLOCK", "sizeof(sums)", flux(13)),
    ("rows", "rms_norm_kernel<__nv_bfloat16, float, 4, 128, true", "BLOCK", "sizeof(sums)", moved("T5, 512 × 4096", 512 * 4096, 6)),
    ("heads", "heads_kernel<__nv_bfloat16, 8, 16", "BLOCK", "0",
     (f"q and k of {ROWS} × {WIDTH}", 0, 2 * ROWS * WIDTH * 4 + ROWS * 128 * 4)),
    ("heads", "heads_kernel<__nv_bfloat16, 8, 8", "BLOCK", "0", moved("q and k of 4429 × 1536", 2 * 4429 * 1536, 4)),
    ("heads", "any_heads_kernel<__nv_bfloat16", "BLOCK", "0", None),
    ("elementwise", "gate_add_kernel<__nv_bfloat16, 8", "THREADS", "0", flux(10)),
    ("elementwise", "activate_kernel<__nv_bfloat16, __nv_bfloat16, 8", "THREADS", "0", flux(4, 4 * WIDTH)),
    ("elementwise", "combine_kernel<float, float, false, 8", "THREADS", "0", moved("VAE's attention, 16384 × 512", 16384 * 512, 12)),
    ("elementwise", "combine_kernel<__nv_bfloat16, __nv_bfloat16, true, 8", "THREADS", "0", moved("T5, 512 × 10240", 512 * 10240, 6)),
    ("elementwise", "cfg_euler_kernel", "THREADS", "0", moved("latent of 1024²", LATENT, 20)),
    ("elementwise", "affine_kernel", "THREADS", "0", moved("latent of 1024²", LATENT, 8)),
    ("elementwise", "blend_kernel", "THREADS", "0", moved("latent of 1024²", LATENT, 12)),
    ("fp8", "quantise_kernel<__nv_bfloat16", "WARPS * LANES", "0", flux(3, 4 * WIDTH)),
    ("fp8", "scales_kernel", "256", "0", moved(f"{ROWS} scales", ROWS, 8)),
    ("tokens", "embed_kernel<float, float", "THREADS", "0", moved("T5, 512 × 4096", 512 * 4096, 8)),
    ("tokens", "patchify_kernel<__nv_bfloat16", "THREADS", "0", moved("latent of 1024²", LATENT, 6)),
    ("tokens", "unpatchify_kernel<float", "THREADS", "0", moved("latent of 1024²", LATENT, 8)),
    ("tokens", "add_position_kernel<float, float", "THREADS", "0", moved("SD3.5-medium, 4096 × 1536", 4096 * 1536, 12)),
    ("map", "chw_to_map_kernel<__nv_bfloat16", "THREADS", "0", moved("latent of 1024²", LATENT, 6)),
    ("map", "map_to_chw_kernel<float", "THREADS", "0", moved("latent of 1024²", LATENT, 8)),
    ("map", "upsample2_kernel<__nv_bfloat16, float", "THREADS", "0", moved("512² to 1024² × 256", MAP * 256, 3)),
    ("map", "rgb8_kernel<float", "THREADS", "0", moved("1024²", MAP * 3, 5)),
    ("stage", "convert_kernel<__nv_bfloat16", "256", "0", None),
]
# Files whose kernels have no body below sm_90a.
ONLY_90 = {"attention_wgmma"}


def nvcc():
    path = os.environ.get("NVCC") or shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not os.access(path, os.X_OK):
        sys.exit("ptxas: no nvcc; name it in $NVCC")
    return path


def compile_one(tool, source, arch):
    """[(kernel, registers, spilled bytes + stack bytes)] of one file"""
    virtual = ARCHS[arch][0]
    command = [tool, "-std=c++17", f"-gencode=arch={virtual},code={arch}", f"-I{ROOT}",
               f"-I{ROOT}/kernels/cuda/device", "-Xptxas", "-v", "-c", str(source), "-o", "/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    text = subprocess.run(["c++filt"], input=done.stdout + done.stderr, capture_output=True, text=True).stdout
    found = []
    for part in text.split("Compiling entry function '")[1:]:
        name = re.sub(r"^void ", "", part.split("'")[0])
        lost = sum(int(n) for n in re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", part))
        found.append((name, int(re.search(r"Used (\d+) registers", part).group(1)), lost))
    return found


def launches():
    """{entry of SHOWN: (threads, shared bytes)}, asked of the sources as the host executor compiles
    them: the sizes of arrays in an object file"""
    results = {}
    for file in {s[0] for s in SHOWN}:
        mine = [s for s in SHOWN if s[0] == file]
        text = f'#include "kernels/cuda/{file}.cu"\n'
        for i, (_, _, threads, shared, _) in enumerate(mine):
            text += f'extern "C" {{ char size_{i}_t[{threads}], size_{i}_s[({shared}) + 1]; }}\n'
        with tempfile.TemporaryDirectory() as folder:
            command = ["g++", "-std=c++17", "-D_GNU_SOURCE", f"-I{ROOT}", f"-I{ROOT}/tests/cuda_host",
                       f"-I{ROOT}/tests/cuda_host/include", "-x", "c++", "-", "-c", "-o", f"{folder}/sizes.o"]
            subprocess.run(command, input=text, text=True, check=True)
            symbols = subprocess.run(["nm", "-S", f"{folder}/sizes.o"], capture_output=True, text=True, check=True).stdout
        bytes_of = {m[1]: int(m[0], 16) for m in re.findall(r"^\w+ (\w+) \w (size_\d+_\w)$", symbols, re.M)}
        for i, entry in enumerate(mine):
            results[entry] = (bytes_of[f"size_{i}_t"], bytes_of[f"size_{i}_s"] - 1)
    return results


def warps(registers, threads, shared, per_multiprocessor):
    """resident warps: registers come in 256s a warp, shared memory with 1 KiB for each block"""
    of_block = threads // 32
    by_registers = 65536 // (-(-registers * 32 // 256) * 256) // of_block
    by_shared = per_multiprocessor // (shared + 1024)
    return min(by_registers, by_shared, 64 // of_block, 32) * of_block


def floor(launch):
    if not launch:
        return "– | –"
    what, arithmetic, moves = launch
    us = max(arithmetic, moves / MEMORY) * 1e6
    return f"{what} | {us:.0f}" if us >= 1000 else f"{what} | {us:.3g}"


def base(kernel):
    return re.match(r"\w+", kernel).group()


def main():
    tool, sources = nvcc(), sorted((ROOT / "kernels/cuda").glob("*.cu"))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {(s.stem, a): pool.submit(compile_one, tool, s, a) for s in sources for a in ARCHS}
        found = {key: job.result() for key, job in jobs.items()}
    missing = {base(k[0]) for kernels in found.values() for k in kernels} - {base(s[1]) for s in SHOWN}
    if missing:
        sys.exit(f"ptxas: not in the table: {', '.join(sorted(missing))}")
    lost = [(a, k) for (_, a), kernels in found.items() for k in kernels if k[2]]
    size = launches()
    if "--check" not in sys.argv:
        print("| kernel | threads | shared | registers sm_80 / sm_90a | warps of 64, sm_80 / sm_90a | a launch | floor, µs |")
        print("|---|---|---|---|---|---|---|")
    for entry in SHOWN:
        threads, shared = size[entry]
        registers = []
        for arch in ARCHS:
            instances = [k for k in found[entry[0], arch] if k[0].startswith(entry[1])]
            if not instances:
                sys.exit(f"ptxas: {entry[0]}.cu has no kernel {entry[1]}")
            registers.append(max(k[1] for k in instances))
        full = [warps(r, threads, shared, ARCHS[a][1]) for r, a in zip(registers, ARCHS)]
        if entry[0] in ONLY_90:
            registers[0] = full[0] = "–"
        if "--check" not in sys.argv:
            name = entry[1].replace("__nv_bfloat16", "bf16").rstrip("<")
            name += ">" * (name.count("<") - name.count(">"))
            print(f"| `{name}` | {threads} | {shared / 1024:.1f} KiB | {registers[0]} / {registers[1]} | {full[0]} / {full[1]} | {floor(entry[4])} |")
    total = sum(len(kernels) for kernels in found.values())
    print(f"\n{total} kernels of {len(sources)} files for {len(ARCHS)} architectures: {len(lost)} with spills or a stack frame.")
    for arch, kernel in lost:
        print(f"  {arch} {kernel[0]}: {kernel[2]} bytes")
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
