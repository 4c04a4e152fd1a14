/* Floats from planes of bytes, in whose upper 16 bits the sign stands below the exponent. */
#include "lanes.h"

/* The upper 16 bits with the sign in the highest one. */
INLINE uint16_t sign_first(uint16_t h, int mantissa) {
    uint16_t low = (1 << mantissa) - 1;
    return (h >> 1 & 0x7FFF >> mantissa << mantissa) | (h >> mantissa & 1) << 15 | (h & low);
}

/* out[i]: byte j of number i is planes[j][i]; `size` bytes a number. */
void leco_floats(const uint8_t *const *planes, int64_t count, int64_t size, int64_t mantissa,
                 uint8_t *out) {
    const uint8_t *low = planes[size - 2], *high = planes[size - 1];
    if (size == 4) { /* float32 */
        const uint8_t *first = planes[0], *second = planes[1];
        for (int64_t i = 0; i < count; i++) {
            uint32_t top = sign_first((uint16_t)(low[i] | high[i] << 8), (int)mantissa);
            uint32_t number = first[i] | (uint32_t)second[i] << 8 | top << 16;
            memcpy(out + 4 * i, &number, 4);
        }
        return;
    }
    for (int64_t i = 0; i < count; i++, out += size) {
        uint16_t top = sign_first((uint16_t)(low[i] | high[i] << 8), (int)mantissa);
        for (int64_t j = 0; j < size - 2; j++) out[j] = planes[j][i];
        memcpy(out + size - 2, &top, 2);
    }
}
