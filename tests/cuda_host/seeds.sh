#!/bin/sh
# seeds.sh SUBSTRING PROGRAM - the tests of PROGRAM that SUBSTRING names, on the CUDA backend under
# eight orders of the executor's threads: a kernel whose barriers are right gives the same each time.
for seed in 1 2 3 4 5 6 7 8; do
    TACA_CUDA_HOST_SEED=$seed TEST_ONLY=$1 TACA_TEST_DEVICE=cuda "$2" || {
        echo "failed under TACA_CUDA_HOST_SEED=$seed"
        exit 1
    }
done
