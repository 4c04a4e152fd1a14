/* Products of a packed matrix with few vectors: each vector reads all codes. */
#include <stdlib.h>

#include "packed.h"

#define ROWS 4 /* that are multiplied side by side */

/* Four rows times x, without the weights in memory: whole groups of a multiple of 16, or rows of one
 * group, whose codes begin with a byte. `one`: all groups have the same values and shift. The arguments from
 * `kind` on are constants of each caller. */
INLINE void fused(const Matrix *m, const float *x, int64_t row, float *out, int kind, int per,
                  int base, int bits, int rows, int one) {
    const int64_t parts = m->columns / m->group, whole = m->group / LANES * LANES;
    const uint8_t *codes[ROWS];
    Floats sum[ROWS];
    float rest[ROWS];
    int skip;
    for (int r = 0; r < rows; r++) {
        codes[r] = codes_of(m, row + r, 0, per, &skip);
        sum[r] = all(0), rest[r] = 0;
    }
    Group own[ROWS];
    const float *scale[ROWS];
    for (int r = 0; r < rows; r++) {
        own[r] = group_of(m, (row + r) * parts, kind, base);
        scale[r] = m->scale && m->scale_step ? m->scale + (row + r) * parts : &own[r].scale;
    }
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
                Floats w = kind == SIGNED ? levels(codes[r]) - g->shift
                                          : look_up(g->table, digits(codes[r], bits));
                now[r] += w * by;
                codes[r] += LANES / per;
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

#define EACH_ROW(KIND, PER, BASE, BITS, ONE)                                                      \
    do {                                                                                          \
        for (; row + ROWS <= stop; row += ROWS, out += ROWS)                                      \
            fused(m, x, row, out, KIND, PER, BASE, BITS, ROWS, ONE);                              \
        for (; row < stop; row++) fused(m, x, row, out++, KIND, PER, BASE, BITS, 1, ONE);         \
    } while (0)
#define FUSED(KIND, PER, BASE, BITS)                                                              \
    if (m->shift_step || (KIND == DIGITS && m->values_step))                                      \
        EACH_ROW(KIND, PER, BASE, BITS, 0);                                                       \
    else                                                                                          \
        EACH_ROW(KIND, PER, BASE, BITS, 1);                                                       \
    return 1

/* y[row] = sum_i w_i x_i for the rows from `start` to `stop`; returns 0 where the codes are in no
 * order for that. */
static int direct(const Matrix *m, const float *x, int64_t start, int64_t stop, float *y) {
    int64_t row = start;
    float *out = y + start;
    if (m->group != m->columns && m->group % LANES) return 0;
    if (m->kind == DIGITS && !m->row_bytes && m->columns % m->per) return 0;
    switch (m->kind == DIGITS ? m->base : -m->kind) {
        case 2: FUSED(DIGITS, 8, 2, 1);
        case 4: FUSED(DIGITS, 4, 4, 2);
        case 16: FUSED(DIGITS, 2, 16, 4);
        case -SIGNED: FUSED(SIGNED, 1, 256, 8);
        default: return 0;
    }
}

/* out[n, row] = bias[row] + sum_i w_i x[n, i] for `count` vectors and the rows from `start` to
 * `stop`; `out` has `all_rows` for each vector. Returns 0 where there is no memory. */
int leco_few(const Matrix *m, const float *x, int64_t count, int64_t start, int64_t stop,
             int64_t all_rows, const float *bias, float *out) {
    int64_t done = 0;
    while (done < count && direct(m, x + done * m->columns, start, stop, out + done * all_rows))
        done++;
    if (!done) {
        float *weights = malloc(sizeof(float) * m->columns);
        if (!weights) return 0;
        for (int64_t row = start; row < stop; row++) {
            leco_decode(m, row, 0, m->columns, weights);
            for (int64_t n = 0; n < count; n++)
                out[n * all_rows + row] = dot(weights, x + n * m->columns, m->columns);
        }
        free(weights);
    }
    for (int64_t n = 0; bias && n < count; n++)
        for (int64_t row = start; row < stop; row++) out[n * all_rows + row] += bias[row];
    return 1;
}
