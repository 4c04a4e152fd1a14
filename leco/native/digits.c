/* Numbers below a base that share bytes, the first one lowest. */
#include "lanes.h"

/* per and base are constants of each caller. */
INLINE void join(const uint8_t *x, int64_t rows, int64_t length, uint8_t *out, int per, int base) {
    const int64_t whole = length / per;
    for (int64_t row = 0; row < rows; row++, x += length) {
        for (int64_t i = 0; i < whole; i++) {
            int byte = 0;
#pragma GCC unroll 8
            for (int j = per - 1; j >= 0; j--) byte = byte * base + x[i * per + j];
            *out++ = (uint8_t)byte;
        }
        if (whole * per == length) continue;
        int byte = 0;
        for (int64_t i = length - 1; i >= whole * per; i--) byte = byte * base + x[i];
        *out++ = (uint8_t)byte;
    }
}

/* Numbers of 8 bits from `planes` of one bit each, the lowest first; numbers go by eights. */
void leco_from_planes(const uint8_t *bits, int64_t planes, int64_t bytes, uint8_t *out) {
    uint64_t spread[256]; /* each bit of a byte in a byte of its own */
    for (int byte = 0; byte < 256; byte++) {
        spread[byte] = 0;
        for (int bit = 0; bit < 8; bit++) spread[byte] |= (uint64_t)(byte >> bit & 1) << 8 * bit;
    }
    for (int64_t i = 0; i < bytes; i++, out += 8) {
        uint64_t eight = 0;
        for (int64_t p = 0; p < planes; p++) eight |= spread[bits[p * bytes + i]] << p;
        memcpy(out, &eight, 8);
    }
}

/* Rows of `length` numbers below `base`, `per` to a byte, each row in whole bytes. */
void leco_join(const uint8_t *x, int64_t rows, int64_t length, int64_t base, uint8_t *out) {
    switch (base) {
        case 2: join(x, rows, length, out, 8, 2); break;
        case 4: join(x, rows, length, out, 4, 4); break;
        case 6: join(x, rows, length, out, 3, 6); break;
        case 16: join(x, rows, length, out, 2, 16); break;
    }
}
