/* Products of a packed matrix with few vectors: each vector reads all codes. */
#include <stdlib.h>

#include "packed.h"

#define ROWS 4 /* that are multiplied side by side */

/* Some rows times x, without the weights in memory: groups of a multiple of 16 weights, or rows of
 * one group. The arguments from `kind` on are constants of each caller.
 *
 *   codes   those of each row: levels (SIGNED), bytes of up to `base` values (BYTES), or digits of
 *           `bits` (DIGITS)
 *   one     all groups have the same values and shift, as they always have with BYTES
 */
INLINE void fused(const Matrix *m, const float *x, int64_t row, const uint8_t **codes, float *out,
                  int kind, int base, int bits, int rows, int one) {
    const int64_t parts = m->columns / m->group, whole = m->group / LANES * LANES;
    Floats sum[ROWS];
    float rest[ROWS];
    Group own[ROWS];
    const float *scale[ROWS];
    Floats table[LANES]; /* of BYTES */
    for (int r = 0; r < rows; r++) {
        sum[r] = all(0), rest[r] = 0;
        own[r] = group_of(m, (row + r) * parts, kind, base);
        scale[r] = m->scale && m->scale_step ? m->scale + (row + r) * parts : &own[r].scale;
    }
    if (kind == BYTES)
#pragma GCC unroll 16
        for (int k = 0; k < base / LANES; k++)
            table[k] = load(m->values + k * LANES) - own[0].shift;
    const float *at_x = x;
    for (int64_t part = 0; part < parts; part++) {
        Floats now[ROWS];
        for (int r = 0; r < rows; r++) {
            if (part && !one) move_to(m, (row + r) * parts + part, kind, base, own + r);
            now[r] = all(0);
        }
        for (int64_t at = 0; at < whole; at += LANES, at_x += LANES) {
            Floats by = load(at_x);
            for (int r = 0; r < rows; r++) {
                const Group *g = own + (one ? 0 : r);
                Floats w = kind == SIGNED  ? levels(codes[r]) - g->shift
                           : kind == BYTES ? look_up_among(table, widened(codes[r]), base)
                           : bits == 8     ? look_up(g->table, widened(codes[r]))
                                           : look_up(g->table, digits(codes[r], bits));
                now[r] += w * by;
                codes[r] += LANES * bits / 8;
            }
        }
        for (int r = 0; r < rows; r++) sum[r] += now[r] * scale[r][m->scale_step * part];
    }
    /* the columns behind the last 16 */
    for (int64_t i = whole; i < m->group && parts == 1; i++)
        for (int r = 0; r < rows; r++) {
            float w;
            leco_decode(m, row + r, i, 1, &w);
            rest[r] += w * x[i];
        }
    for (int r = 0; r < rows; r++) out[r] = total(sum[r]) + rest[r];
}

static float dot(const float *weights, const float *x, int64_t columns) {
    Floats sum[4] = {};
    int64_t i = 0;
    for (; i + 4 * LANES <= columns; i += 4 * LANES)
        for (int k = 0; k < 4; k++)
            sum[k] += load(weights + i + k * LANES) * load(x + i + k * LANES);
    float rest = 0;
    for (; i < columns; i++) rest += weights[i] * x[i];
    return total((sum[0] + sum[1]) + (sum[2] + sum[3])) + rest;
}

/* Where the codes of some rows are: in the matrix, or, unpacked, in `own`. */
INLINE void find(const Matrix *m, int64_t row, int rows, const uint8_t **codes, int bits,
                 uint8_t *own) {
    int skip;
    for (int r = 0; r < rows; r++)
        codes[r] = own ? leco_digits(m, row + r, own + r * (m->columns + 16))
                       : codes_of(m, row + r, 0, 8 / bits, &skip);
}

#define EACH_ROW(KIND, BASE, BITS, ONE, ROWS_)                                                    \
    for (; row + ROWS_ <= stop; row += ROWS_) {                                                   \
        find(m, row, ROWS_, codes, BITS, own);                                                    \
        for (int64_t n = 0; n < count; n++) {                                                     \
            const uint8_t *at[ROWS];                                                              \
            memcpy(at, codes, sizeof at);                                                         \
            fused(m, x + n * m->columns, row, at, out + n * all_rows + row, KIND, BASE, BITS,     \
                  ROWS_, ONE);                                                                    \
        }                                                                                         \
    }
#define FUSED(KIND, BASE, BITS)                                                                   \
    if (m->shift_step || (KIND == DIGITS && m->values_step)) {                                    \
        EACH_ROW(KIND, BASE, BITS, 0, ROWS)                                                       \
        EACH_ROW(KIND, BASE, BITS, 0, 1)                                                          \
    } else {                                                                                      \
        EACH_ROW(KIND, BASE, BITS, 1, ROWS)                                                       \
        EACH_ROW(KIND, BASE, BITS, 1, 1)                                                          \
    }                                                                                             \
    break

/* The products by way of the codes; `own` has memory for those of some rows where they are unpacked
 * first. */
static void direct(const Matrix *m, const float *x, int64_t count, int64_t start, int64_t stop,
                   uint8_t *own, int64_t all_rows, float *out) {
    int64_t row = start;
    const uint8_t *codes[ROWS] = {};
    switch (m->kind == SIGNED ? SIGNED : m->kind == BYTES ? m->count : own ? 0 : -m->base) {
        case SIGNED: FUSED(SIGNED, 256, 8);
        case 2 ... 64: EACH_ROW(BYTES, 64, 8, 1, 1) break;
        case 65 ... 128: EACH_ROW(BYTES, 128, 8, 1, 1) break;
        case 129 ... 224: EACH_ROW(BYTES, 224, 8, 1, 1) break;
        case 225 ... 256: EACH_ROW(BYTES, 256, 8, 1, 1) break;
        case -2: FUSED(DIGITS, 2, 1);
        case -4: FUSED(DIGITS, 4, 2);
        case -16: FUSED(DIGITS, 16, 4);
        default: FUSED(DIGITS, m->base, 8);
    }
}

/* Likewise by way of the weights of each row: codes of 256 values without registers for a table,
 * small groups. */
static void decoded(const Matrix *m, const float *x, int64_t count, int64_t start, int64_t stop,
                    float *weights, int64_t all_rows, float *out) {
    for (int64_t row = start; row < stop; row++) {
        leco_decode(m, row, 0, m->columns, weights);
        for (int64_t n = 0; n < count; n++)
            out[n * all_rows + row] = dot(weights, x + n * m->columns, m->columns);
    }
}

/* out[n, row] = bias[row] + sum_i w_i x[n, i] for `count` vectors and the rows from `start` to
 * `stop`; `out` has `all_rows` for each vector. Returns 0 where there is no memory. */
int leco_few(const Matrix *m, const float *x, int64_t count, int64_t start, int64_t stop,
             int64_t all_rows, const float *bias, float *out) {
    const int whole = m->group == m->columns || m->group % LANES == 0;
    const int bytes = m->row_bytes || m->columns % m->per == 0; /* rows begin with whole bytes */
    const int apart = m->kind == DIGITS && (m->base == 6 || !bytes);
    void *own = NULL; /* weights of a row, or codes of some */
    if (!whole || (m->kind == BYTES && (!IN_REGISTERS || m->shift_step))) {
        if (!(own = malloc(sizeof(float) * m->columns))) return 0;
        decoded(m, x, count, start, stop, own, all_rows, out);
    } else {
        if (apart && !(own = malloc(ROWS * (m->columns + 16)))) return 0;
        direct(m, x, count, start, stop, own, all_rows, out);
    }
    free(own);
    for (int64_t n = 0; bias && n < count; n++)
        for (int64_t row = start; row < stop; row++) out[n * all_rows + row] += bias[row];
    return 1;
}
