# shellcheck shell=bash
# cuda.sh - sourced by run: a CUDA compiler and cuBLASLt, from PyPI where the machine has none.
#
# need_cuda: sets CUDACXX for CMake and puts cuBLASLt where the program finds it. What is fetched
# (NVIDIA's own wheels, 1 GB) stays in build/cuda and nowhere else.
CUDA_WHEELS=("nvidia-cuda-nvcc>=13,<13.1" "nvidia-nvvm>=13,<13.1" "nvidia-cuda-crt>=13,<13.1"
    "nvidia-cuda-runtime>=13,<13.1" "nvidia-cuda-cccl>=13,<13.1"
    "nvidia-cublas>=13,<13.2")

need_cuda() {
    local toolkit
    if [ -z "${CUDACXX:-}" ]; then
        CUDACXX=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null || true)
    fi
    toolkit=$PWD/build/cuda/nvidia/cu13
    if [ -z "$CUDACXX" ]; then
        if [ ! -x "$toolkit/bin/nvcc" ]; then
            need_packages "fetch the CUDA compiler" python3 python3-venv
            echo "== fetching the CUDA compiler and cuBLASLt from PyPI (1 GB, into build/cuda)"
            python3 -m venv build/cuda/venv
            build/cuda/venv/bin/pip install --quiet --no-cache-dir --target build/cuda "${CUDA_WHEELS[@]}"
            ln -sfn lib "$toolkit/lib64" # where nvcc looks
        fi
        CUDACXX=$toolkit/bin/nvcc
    fi
    export CUDACXX
    [ ! -d "$toolkit/lib" ] || export LD_LIBRARY_PATH=$toolkit/lib:${LD_LIBRARY_PATH:-}
}
