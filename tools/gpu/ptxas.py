#!/usr/bin/env python3
"""ptxas.py [--check] - what the compiler says of each CUDA kernel, as a table in Markdown.

Compiles kernels/cuda/*.cu for sm_80 and sm_90a with -Xptxas -v; needs nvcc (in PATH, $NVCC or
/usr/local/cuda/bin), g++ and binutils, no GPU. The table has, for the instances that a bf16 model
runs, registers a thread, shared memory a block, and how many warps of a multiprocessor's 64 find
room. Spills and stack frames are looked for in every instance: with any the exit code is 1.
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

# file, the beginning of an instance as c++filt writes it, threads and shared memory of its launch
# in the file's own words, what it is for
SHOWN = [
    ("attention_mma", "attention_mma_kernel<128, 64, false", "THREADS", "sizeof(mma_shared<128, 64>)"),
    ("attention_mma", "attention_mma_kernel<64, 64, false", "THREADS", "sizeof(mma_shared<64, 64>)"),
    ("attention_mma", "attention_mma_kernel<64, 64, true", "THREADS", "sizeof(mma_shared<64, 64>)"),
    ("attention_wgmma", "attention_wgmma_kernel<128, 2", "GROUP * 2", "sizeof(wgmma_shared<128, 2>) + BRICK"),
    ("attention_wgmma", "attention_wgmma_kernel<64, 3", "GROUP * 3", "sizeof(wgmma_shared<64, 3>) + BRICK"),
    ("attention_wide", "attention_wide_kernel<", "THREADS", "sizeof(wide_shared)"),
    ("attention", "attention_plain_kernel<", "THREADS", "sizeof(plain_shared)"),
    ("conv_mma", "conv_mma_kernel<128, void", "THREADS", "sizeof(conv_shared<128>)"),
    ("conv_mma", "conv_mma_kernel<64, void", "THREADS", "sizeof(conv_shared<64>)"),
    ("conv_mma", "conv_mma_kernel<32, void", "THREADS", "sizeof(conv_shared<32>)"),
    ("conv", "conv_f32_kernel<", "THREADS", "sizeof(tile_shared)"),
    ("group_norm", "measure_kernel<float, 4", "THREADS", "sizeof(parts_shared<4>)"),
    ("group_norm", "measure_kernel<__nv_bfloat16, 8", "THREADS", "sizeof(parts_shared<8>)"),
    ("group_norm", "join_kernel", "THREADS", "sizeof(join_shared)"),
    ("group_norm", "apply_kernel<__nv_bfloat16, __nv_bfloat16, 8", "THREADS", "0"),
    ("rows", "norm_modulate_kernel<__nv_bfloat16, float, 4, 128, true", "BLOCK", "sizeof(sums)"),
    ("rows", "gate_norm_kernel<__nv_bfloat16, 4, 128, true", "BLOCK", "sizeof(sums)"),
    ("rows", "gate_norm_kernel<e4m3, 4, 128, true", "BLOCK", "sizeof(sums)"),
    ("rows", "rms_norm_kernel<__nv_bfloat16, float, 4, 128, true", "BLOCK", "sizeof(sums)"),
    ("heads", "heads_kernel<__nv_bfloat16, 8, 16", "BLOCK", "0"),
    ("heads", "heads_kernel<__nv_bfloat16, 8, 8", "BLOCK", "0"),
    ("elementwise", "gate_add_kernel<__nv_bfloat16, 8", "THREADS", "0"),
    ("elementwise", "activate_kernel<__nv_bfloat16, __nv_bfloat16, 8", "THREADS", "0"),
    ("elementwise", "combine_kernel<float, float, false, 8", "THREADS", "0"),
    ("map", "upsample2_kernel<__nv_bfloat16, float", "THREADS", "0"),
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
        for i, (_, _, threads, shared) in enumerate(mine):
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


def main():
    tool, sources = nvcc(), sorted((ROOT / "kernels/cuda").glob("*.cu"))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {(s.stem, a): pool.submit(compile_one, tool, s, a) for s in sources for a in ARCHS}
        found = {key: job.result() for key, job in jobs.items()}
    lost = [(a, k) for (_, a), kernels in found.items() for k in kernels if k[2]]
    size = launches()
    if "--check" not in sys.argv:
        print("| kernel | threads | shared | registers sm_80 / sm_90a | warps of 64, sm_80 / sm_90a |")
        print("|---|---|---|---|---|")
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
            name += ">" if "<" in name else ""
            print(f"| `{name}` | {threads} | {shared / 1024:.1f} KiB | {registers[0]} / {registers[1]} | {full[0]} / {full[1]} |")
    total = sum(len(kernels) for kernels in found.values())
    print(f"\n{total} kernels of {len(sources)} files for {len(ARCHS)} architectures: {len(lost)} with spills or a stack frame.")
    for arch, kernel in lost:
        print(f"  {arch} {kernel[0]}: {kernel[2]} bytes")
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
