#!/bin/sh
# seeds.sh SUBSTRING PROGRAM - the tests of PROGRAM that SUBSTRING names, on the bf16 CUDA backend
# under eight orders of the executor's threads: with its barriers right a kernel gives the same.
# Every other device has no wgmma, and half of those have less shared memory, so that these kernels
# and those in their place are all tried.
for seed in 1 2 3 4 5 6 7 8; do
    major=9
    [ $((seed % 4)) = 1 ] && major=8
    [ $((seed % 4)) = 3 ] && major=12
    TACA_CUDA_HOST_FAULT=major=$major TACA_CUDA_HOST_SEED=$seed TEST_ONLY=$1 TACA_TEST_DEVICE=cuda TACA_TEST_DTYPE=bf16 "$2" || {
        echo "failed under TACA_CUDA_HOST_SEED=$seed"
        exit 1
    }
done
