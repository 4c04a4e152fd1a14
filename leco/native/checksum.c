/* The crc32 of zlib, 64 bytes at a time by products without carries.
 *
 * V. Gopal et al., "Fast CRC computation for generic polynomials using PCLMULQDQ instruction",
 * Intel, 2009: the constants are powers of x modulo the polynomial, bits reversed.
 */
#include "lanes.h"

#if defined(__PCLMUL__) && defined(__SSE4_1__)
#include <immintrin.h>

/* a times the two halves of `by`, plus b */
INLINE __m128i folded(__m128i a, __m128i by, __m128i b) {
    __m128i low = _mm_clmulepi64_si128(a, by, 0x00), high = _mm_clmulepi64_si128(a, by, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), b);
}

INLINE __m128i loaded(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)p); }

/* 128 bits to 32, by Barrett's reduction */
static uint32_t reduced(__m128i x) {
    const __m128i by64 = _mm_set_epi64x(0, 0x0163cd6124);
    const __m128i poly = _mm_set_epi64x(0x01f7011641, 0x01db710641);
    const __m128i mask = _mm_setr_epi32(~0, 0, ~0, 0);
    const __m128i by96 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
    /* to 64 bits */
    __m128i y = _mm_clmulepi64_si128(x, by96, 0x10);
    x = _mm_xor_si128(_mm_srli_si128(x, 8), y);
    y = _mm_srli_si128(x, 4);
    x = _mm_xor_si128(_mm_clmulepi64_si128(_mm_and_si128(x, mask), by64, 0x00), y);
    /* to 32 bits */
    y = _mm_clmulepi64_si128(_mm_and_si128(x, mask), poly, 0x10);
    y = _mm_clmulepi64_si128(_mm_and_si128(y, mask), poly, 0x00);
    return (uint32_t)_mm_extract_epi32(_mm_xor_si128(x, y), 1);
}

/* The crc32 of the first `*done` bytes, whole blocks of 16; `*done` is 0 where there are few. */
uint32_t leco_crc32(const uint8_t *data, int64_t length, int64_t *done) {
    *done = 0;
    if (length < 64) return 0;
    const __m128i by512 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4);
    const __m128i by128 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
    __m128i x[4];
    for (int k = 0; k < 4; k++) x[k] = loaded(data + 16 * k);
    x[0] = _mm_xor_si128(x[0], _mm_cvtsi32_si128(-1));
    int64_t at = 64;
    for (; at + 64 <= length; at += 64)
        for (int k = 0; k < 4; k++) x[k] = folded(x[k], by512, loaded(data + at + 16 * k));
    __m128i all = x[0];
    for (int k = 1; k < 4; k++) all = folded(all, by128, x[k]);
    for (; at + 16 <= length; at += 16) all = folded(all, by128, loaded(data + at));
    *done = at;
    return ~reduced(all);
}
#else
uint32_t leco_crc32(const uint8_t *data, int64_t length, int64_t *done) { return *done = 0; }
#endif
