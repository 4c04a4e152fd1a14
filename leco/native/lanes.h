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
#else
INLINE Floats look_up(Floats t, Ints at) { Floats r; EACH r[i] = t[at[i] & 15]; return r; }
INLINE Ints widened(const uint8_t *p) { Ints r; EACH r[i] = p[i]; return r; }
INLINE Floats levels(const uint8_t *p) { Floats r; EACH r[i] = (int8_t)p[i]; return r; }
INLINE Words halves(uint32_t low, uint32_t high) {
    Words r;
    EACH r[i] = i < LANES / 2 ? low : high;
    return r;
}
INLINE float total(Floats a) { float s = 0; EACH s += a[i]; return s; }
#define TILE_VECTORS 1
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
