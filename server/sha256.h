/* sha256.h - FIPS 180-4, for telling bodies and keys apart. One call, whole messages. */
#ifndef TACA_SERVER_SHA256_H
#define TACA_SERVER_SHA256_H

#include <stddef.h>
#include <stdint.h>

enum { SHA256_BYTES = 32 };
void sha256(uint8_t out[SHA256_BYTES], const void *bytes, size_t len);

#endif
