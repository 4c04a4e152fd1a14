/* The weights of a packed matrix, in their order. */
#include "packed.h"

#define CHUNK 480 /* digits: whole bytes of each base */

static uint64_t spread[5][256]; /* the digits of each byte, one byte each, by base */

INLINE int place(int base) { return base == 2 ? 0 : base == 3 ? 1 : base == 4 ? 2 : base == 6 ? 3 : 4; }

__attribute__((constructor)) static void fill(void) {
    const int bases[] = {2, 3, 4, 6, 16}, per[] = {8, 5, 4, 3, 2};
    for (int which = 0; which < 5; which++)
        for (int byte = 0; byte < 256; byte++)
            for (int j = 0, left = byte; j < per[which]; j++, left /= bases[which])
                spread[which][byte] |= (uint64_t)(left % bases[which]) << 8 * j;
}

/* `count` weights whose codes are whole bytes. */
INLINE void from_bytes(const Matrix *m, const Group *own, const uint8_t *codes, int64_t count,
                       float *out, int kind) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        Floats w = kind == SIGNED   ? levels(codes + i) - own->shift
                   : kind == DIGITS ? look_up(own->table, widened(codes + i))
                                    : gathered(m->values, widened(codes + i)) - own->shift;
        store(out + i, w * own->scale);
    }
    for (; i < count; i++) {
        float w = kind == SIGNED   ? (int8_t)codes[i] - own->shift
                  : kind == DIGITS ? own->table[codes[i] & 15]
                                   : m->values[codes[i]] - own->shift;
        out[i] = w * own->scale;
    }
}

/* `count` weights whose codes are the digits of bytes, but for the first `skip`. */
INLINE void from_digits(const Matrix *m, const Group *own, const uint8_t *codes, int skip,
                        int64_t count, float *out, int per, int base) {
    const int bits = base == 2 ? 1 : base == 4 ? 2 : base == 16 ? 4 : 0;
    if (bits && !skip)
        for (; count >= LANES; count -= LANES, codes += LANES / per, out += LANES)
            store(out, look_up(own->table, digits(codes, bits)) * own->scale);
    while (count) {
        uint8_t apart[CHUNK + 8];
        int64_t now = count < CHUNK - skip ? count : CHUNK - skip;
        for (int64_t at = 0; at < skip + now; at += per) memcpy(apart + at, spread[place(base)] + *codes++, 8);
        from_bytes(m, own, apart + skip, now, out, DIGITS);
        count -= now, out += now, skip = 0;
    }
}

/* kind, per and base are constants of each caller. */
INLINE void decode(const Matrix *m, int64_t row, int64_t from, int64_t count, float *out, int kind,
                   int per, int base) {
    int64_t part = from / m->group, end = (part + 1) * m->group, last = from + count;
    int64_t g = row * (m->columns / m->group) + part;
    for (; from < last; g++, end += m->group) {
        int64_t now = (end < last ? end : last) - from;
        int skip;
        const uint8_t *codes = codes_of(m, row, from, per, &skip);
        Group own = group_of(m, g, kind, base);
        if (kind == DIGITS)
            from_digits(m, &own, codes, skip, now, out, per, base);
        else
            from_bytes(m, &own, codes, now, out, kind);
        from += now, out += now;
    }
}

/* `count` weights of a row, from the one of column `from` on. */
void leco_decode(const Matrix *m, int64_t row, int64_t from, int64_t count, float *out) {
    switch (m->kind == DIGITS ? m->base : -m->kind) {
        case 2: decode(m, row, from, count, out, DIGITS, 8, 2); break;
        case 3: decode(m, row, from, count, out, DIGITS, 5, 3); break;
        case 4: decode(m, row, from, count, out, DIGITS, 4, 4); break;
        case 6: decode(m, row, from, count, out, DIGITS, 3, 6); break;
        case 16: decode(m, row, from, count, out, DIGITS, 2, 16); break;
        case -SIGNED: decode(m, row, from, count, out, SIGNED, 1, 256); break;
        default: decode(m, row, from, count, out, BYTES, 1, 256); break;
    }
}

/* All weights of the rows from `start` to `stop`. */
void leco_weights(const Matrix *m, int64_t start, int64_t stop, float *out) {
    for (int64_t row = start; row < stop; row++, out += m->columns)
        leco_decode(m, row, 0, m->columns, out);
}
