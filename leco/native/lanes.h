/* Vectors of 16 floats or integers: AVX-512, or plain C for the compiler to vectorise. */
#ifndef LECO_LANES
#define LECO_LANES
#include <stdint.h>
#include <string.h>

#define LANES 16
#define EACH for (int i = 0; i < LANES; i++)
#define INLINE static inline __attribute__((always_inline))

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));

INLINE Floats load(const float *p) { Floats a; memcpy(&a, p, sizeof a); return a; }
INLINE void store(float *p, Floats a) { memcpy(p, &a, sizeof a); }
INLINE Floats all(float a) { return a - (Floats){}; }

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
/* table[at], of which the lowest 4 bits count */
INLINE Floats look_up(Floats table, Ints at) {
    return (Floats)_mm512_permutexvar_ps((__m512i)at, (__m512)table);
}
/* Likewise among `values`, a multiple of 32 and a constant of each caller: a look-up for every 32
 * of them, between which the higher bits of `at` choose. */
INLINE Floats look_up_among(const Floats *table, Ints at, int values) {
    __m512 found[8];
    int left = values / 32;
#pragma GCC unroll 8
    for (int k = 0; k < left; k++) {
        __m512 low = (__m512)table[2 * k], high = (__m512)table[2 * k + 1];
        found[k] = _mm512_permutex2var_ps(low, (__m512i)at, high);
    }
#pragma GCC unroll 3
    for (int bit = 32; bit < values; bit *= 2, left = (left + 1) / 2) {
        __mmask16 high = _mm512_test_epi32_mask((__m512i)at, _mm512_set1_epi32(bit));
#pragma GCC unroll 4
        for (int k = 0; k < (left + 1) / 2; k++)
            found[k] = 2 * k + 1 < left
                           ? _mm512_mask_blend_ps(high, found[2 * k], found[2 * k + 1])
                           : found[2 * k];
    }
    return (Floats)found[0];
}
INLINE Ints widened(const uint8_t *p) {
    return (Ints)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
}
INLINE Floats levels(const uint8_t *p) {
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
/* `low` in the first 8 lanes, `high` in the others */
INLINE Words halves(uint32_t low, uint32_t high) {
    return (Words)_mm512_mask_set1_epi32(_mm512_set1_epi32((int)low), 0xFF00, (int)high);
}
INLINE float total(Floats a) { return _mm512_reduce_add_ps((__m512)a); }
#define TILE_VECTORS 4
#define IN_REGISTERS 1 /* a table of 256 values */
#else
INLINE Floats look_up(Floats t, Ints at) { Floats r; EACH r[i] = t[at[i] & 15]; return r; }
INLINE Floats look_up_among(const Floats *table, Ints at, int values) {
    Floats r;
    EACH r[i] = table[at[i] / LANES][at[i] % LANES];
    return r;
}
INLINE Ints widened(const uint8_t *p) { Ints r; EACH r[i] = p[i]; return r; }
INLINE Floats levels(const uint8_t *p) { Floats r; EACH r[i] = (int8_t)p[i]; return r; }
INLINE Words halves(uint32_t low, uint32_t high) {
    Words r;
    EACH r[i] = i < LANES / 2 ? low : high;
    return r;
}
INLINE float total(Floats a) { float s = 0; EACH s += a[i]; return s; }
#define TILE_VECTORS 1
#define IN_REGISTERS 0
#endif

/* The 16 digits of 1, 2 or 4 bits from a whole byte on, in the lowest bits of the lanes. */
INLINE Ints digits(const uint8_t *codes, int bits) {
    static const Words places = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    uint32_t low = 0, high = 0;
    memcpy(&low, codes, bits == 1 ? 2 : 4);
    if (bits == 4) {
        memcpy(&high, codes + 4, 4);
        return (Ints)(halves(low, high) >> (4 * (places & 7)));
    }
    return (Ints)(((Words){} + low) >> ((uint32_t)bits * places));
}
#endif
