/* blocks.h - quantised blocks to floats, private to engine/io: storage.c chooses among them. */
#ifndef TACA_ENGINE_IO_BLOCKS_H
#define TACA_ENGINE_IO_BLOCKS_H

#include <stddef.h>

/* n consecutive blocks at src; dst takes all their elements. */
typedef void io_blocks_fn(float *dst, const unsigned char *src, size_t n);

io_blocks_fn io_q4_0, io_q4_1, io_q5_0, io_q5_1, io_q8_0, io_iq4_nl;
io_blocks_fn io_q2_k, io_q3_k, io_q4_k, io_q5_k, io_q6_k, io_iq4_xs;

float io_half(const unsigned char *p); /* little-endian IEEE half */

#endif
