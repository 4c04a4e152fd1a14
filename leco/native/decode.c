/* The weights of a packed matrix, in their order. */
#include <stddef.h>

#include "packed.h"

#define CHUNK 480 /* digits: whole bytes of each base */

static uint64_t spread[4][256]; /* the digits of each byte, one byte each, by base */

INLINE int place(int base) { return base == 2 ? 0 : base == 4 ? 1 : base == 6 ? 2 : 3; }

__attribute__((constructor)) static void fill(void) {
    const int bases[] = {2, 4, 6, 16}, per[] = {8, 4, 3, 2};
    for (int which = 0; which < 4; which++)
        for (int byte = 0; byte < 256; byte++)
            for (int j = 0, left = byte; j < per[which]; j++, left /= bases[which])
                spread[which][byte] |= (uint64_t)(left % bases[which]) << 8 * j;
}

/* `count` weights that are looked up among `values`, a constant of each caller, in registers. */
INLINE void from_table(const Matrix *m, const Group *own, const uint8_t *codes, int64_t count,
                       float *out, int values) {
    Floats table[LANES];
#pragma GCC unroll 16
    for (int k = 0; k < values / LANES; k++) table[k] = load(m->values + k * LANES) - own->shift;
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        store(out + i, look_up_among(table, widened(codes + i), values) * own->scale);
    for (; i < count; i++) out[i] = (m->values[codes[i]] - own->shift) * own->scale;
}

/* `count` weights whose codes are bytes of up to 256 values. */
static void from_values(const Matrix *m, const Group *own, const uint8_t *codes, int64_t count,
                        float *out) {
    if (!IN_REGISTERS || count < 2 * LANES) {
        leco_look_up(m->values, 0, codes, 1, count, out);
        for (int64_t i = 0; i < count; i++) out[i] = (out[i] - own->shift) * own->scale;
    } else if (m->count <= 64)
        from_table(m, own, codes, count, out, 64);
    else if (m->count <= 128)
        from_table(m, own, codes, count, out, 128);
    else if (m->count <= 224)
        from_table(m, own, codes, count, out, 224);
    else
        from_table(m, own, codes, count, out, 256);
}

/* `count` weights whose codes are bytes. */
INLINE void from_bytes(const Matrix *m, const Group *own, const uint8_t *codes, int64_t count,
                       float *out, int kind) {
    if (kind == BYTES) {
        from_values(m, own, codes, count, out);
        return;
    }
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        Floats w = kind == SIGNED ? levels(codes + i) - own->shift
                                  : look_up(own->table, widened(codes + i));
        store(out + i, w * own->scale);
    }
    for (; i < count; i++)
        out[i] = own->scale * (kind == SIGNED ? (int8_t)codes[i] - own->shift
                                              : own->table[codes[i] & (LANES - 1)]);
}

/* `count` weights whose codes are digits from a whole byte on. */
INLINE void from_bits(const Group *own, const uint8_t *codes, int64_t count, float *out, int per,
                      int bits) {
    for (; count >= LANES; count -= LANES, codes += LANES / per, out += LANES)
        store(out, look_up(own->table, digits(codes, bits)) * own->scale);
    for (int64_t i = 0; i < count; i++)
        out[i] = own->table[codes[i / per] >> (i % per * bits) & (LANES - 1)] * own->scale;
}

/* `count` digits, one to a byte; up to 7 bytes behind them are written. */
INLINE void unpack(const uint8_t *codes, int64_t count, uint8_t *out, int per, int base) {
    for (int64_t at = 0; at < count; at += per) memcpy(out + at, spread[place(base)] + *codes++, 8);
}

/* kind, per and base are constants of each caller. */
INLINE void decode(const Matrix *m, int64_t row, int64_t from, int64_t count, float *out, int kind,
                   int per, int base) {
    const int bits = base == 2 ? 1 : base == 4 ? 2 : base == 16 ? 4 : 0;
    int64_t end = (from / m->group + 1) * m->group, last = from + count, left = 0;
    int64_t g = row * (m->columns / m->group) + from / m->group;
    uint8_t apart[CHUNK + 8], *next = apart;
    int skip = 0;
    Group own = group_of(m, g, kind, base);
    while (from < last) {
        int64_t now = (end < last ? end : last) - from;
        const uint8_t *codes = left ? NULL : codes_of(m, row, from, per, &skip);
        if (kind != DIGITS) {
            from_bytes(m, &own, codes, now, out, kind);
        } else if (bits && !left && !skip) {
            from_bits(&own, codes, now, out, per, bits);
        } else {
            if (!left) { /* the digits of some bytes, apart */
                left = last - from < CHUNK - skip ? last - from : CHUNK - skip;
                unpack(codes, skip + left, apart, per, base);
                next = apart + skip;
            }
            now = now < left ? now : left;
            from_bytes(m, &own, next, now, out, kind);
            left -= now, next += now;
        }
        from += now, out += now;
        if (from == end && from < last) move_to(m, ++g, kind, base, &own), end += m->group;
    }
}

/* `count` weights of a row, from the one of column `from` on. */
void leco_decode(const Matrix *m, int64_t row, int64_t from, int64_t count, float *out) {
    switch (m->kind == DIGITS ? m->base : -m->kind) {
        case 2: decode(m, row, from, count, out, DIGITS, 8, 2); break;
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

/* The digits of a row, one to a byte, in `out` of columns + 16 bytes; returns the first. */
const uint8_t *leco_digits(const Matrix *m, int64_t row, uint8_t *out) {
    int skip = 0;
#define UNPACK(PER, BASE)                                                                         \
    do {                                                                                          \
        const uint8_t *codes = codes_of(m, row, 0, PER, &skip);                                   \
        unpack(codes, skip + m->columns, out, PER, BASE);                                         \
    } while (0)
    switch (m->base) {
        case 2: UNPACK(8, 2); break;
        case 4: UNPACK(4, 4); break;
        case 6: UNPACK(3, 6); break;
        default: UNPACK(2, 16); break;
    }
    return out + skip;
}
