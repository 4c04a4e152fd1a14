/* A packed matrix, and its weights.
 *
 * Weight i of a row belongs to the group i / group of the row, and is
 *
 *     scale (values[code_i] - shift)          DIGITS, codes of up to 4 bits, `per` to a byte
 *     scale (code_i - shift)                  SIGNED, signed codes of 8 bits
 *     scale (values[code_i] - shift)          BYTES, codes of 8 bits
 *
 * with the values, the scale and the shift of its group.
 */
#ifndef LECO_PACKED
#define LECO_PACKED
#include "lanes.h"

enum { DIGITS, SIGNED, BYTES };

typedef struct {
    const uint8_t *codes;
    int64_t row_bytes;       /* from one row to the next; 0: rows follow each other without a gap */
    int64_t columns, group;  /* weights of a row, of a group */
    int32_t kind, per, base; /* base: of the digits in a byte */
    int32_t count;           /* of values */
    const float *values;     /* at least LANES or, of BYTES, 256 where they are the same for all */
    int64_t values_step;     /* from one group to the next; 0: the same for all */
    const float *scale;
    int64_t scale_step;      /* 0 or 1 */
    const float *shift;
    int64_t shift_step;      /* 0 or 1 */
} Matrix;

typedef struct {
    Floats table; /* values[i] - shift */
    float scale, shift;
} Group;

/* What the weights of a group are made with. The values are repeated to 16: a look-up takes 4 bits,
 * of which those above a digit are another's. */
INLINE Group group_of(const Matrix *m, int64_t g, int kind, int base) {
    Group found = {.scale = m->scale ? m->scale[g * m->scale_step] : 1,
                   .shift = m->shift ? m->shift[g * m->shift_step] : 0};
    if (kind != DIGITS) return found;
    const float *values = m->values + g * m->values_step;
    if (m->values_step && (base != LANES || m->count != LANES)) {
        EACH found.table[i] = values[i % base < m->count ? i % base : 0];
    } else
        found.table = load(values);
    found.table -= found.shift;
    return found;
}

/* Likewise for a later group: `own` is that of an earlier one. */
INLINE void move_to(const Matrix *m, int64_t g, int kind, int base, Group *own) {
    if ((kind == DIGITS && m->values_step) || m->shift_step)
        *own = group_of(m, g, kind, base);
    else if (m->scale_step)
        own->scale = m->scale[g];
}

/* Where the code of column `from` is: a byte, and a digit of it. */
INLINE const uint8_t *codes_of(const Matrix *m, int64_t row, int64_t from, int per, int *skip) {
    uint64_t at = (m->row_bytes ? 0 : row * m->columns) + from;
    *skip = (int)(at % per);
    return m->codes + row * m->row_bytes + at / per;
}

void leco_look_up(const float *values, int64_t step, const uint8_t *indices, int64_t problems,
                  int64_t n, float *out);
void leco_decode(const Matrix *m, int64_t row, int64_t from, int64_t count, float *out);
const uint8_t *leco_digits(const Matrix *m, int64_t row, uint8_t *out);
#endif
