/* faults.h - what can go wrong with the make-believe device, on demand. */
#ifndef TACA_TESTS_CUDA_HOST_FAULTS_H
#define TACA_TESTS_CUDA_HOST_FAULTS_H

#ifdef __cplusplus
extern "C" {
#endif

struct cuda_host_faults {
    long long fail_alloc; /* this allocation fails, counted from 0; -1 = none */
    long long lost_at; /* from this call on every call fails, as after a bad address; -1 = none */
    long long memory;  /* bytes of the device */
    long long devices;
    long long major;       /* of the compute capability x.0: what it has; 0 = 9 */
    long long wgmma_wrong; /* 1: its products are wrong by something */
    long long bare_fp8;    /* 1: 8-bit products take no activation */
};
/* From now on; counts begin anew. */
void cuda_host_set_faults(const struct cuda_host_faults *f);
long long cuda_host_calls(void); /* since then */
int cuda_host_live_blocks(void); /* device allocations and graphs that were not freed */
struct cuda_host_counts {
    long long allocations; /* of device memory by the program, not by graphs */
    long long launches;    /* of kernels and library calls; not those of graphs */
    long long graph_launches;
};
struct cuda_host_counts cuda_host_counted(void); /* since the faults were set */

#ifdef __cplusplus
}
#endif

#endif
