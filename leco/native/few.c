/* Products of a packed matrix with few vectors: each vector reads all codes. */
#include <stdlib.h>

#include "packed.h"

#define ROWS 4 /* that are multiplied side by side */

/* Four rows times x, without the weights in memory: whole groups of a multiple of 16, or rows of one
 * group, whose codes begin with a byte. kind, base, bits and rows are constants of each caller. */
INLINE void fused(const Matrix *m, const float *x, int64_t row, float *out, int kind, int per,
                  int base, int bits, int rows) {
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
    const float *at_x = x;
    for (int64_t part = 0; part < parts; part++) {
        Floats now[ROWS];
        for (int r = 0; r < rows; r++) {
            own[r] = group_of(m, (row + r) * parts + part, kind, base);
            now[r] = all(0);
        }
        for (int64_t at = 0; at < whole; at += LANES, at_x += LANES) {
            Floats by = load(at_x);
            for (int r = 0; r < rows; r++) {
                Floats w = kind == SIGNED ? levels(codes[r]) - own[r].shift
                                          : look_up(own[r].table, digits(codes[r], bits));
                now[r] += w * by;
                codes[r] += LANES / per;
            }
        }
        for (int r = 0; r < rows; r++) sum[r] += now[r] * own[r].scale;
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

/* A row times x, by way of its weights. */
static float decoded(const Matrix *m, const float *x, int64_t row, float *weights) {
    leco_decode(m, row, 0, m->columns, weights);
    Floats sum[4] = {};
    int64_t i = 0;
    for (; i + 4 * LANES <= m->columns; i += 4 * LANES)
        for (int k = 0; k < 4; k++)
            sum[k] += load(weights + i + k * LANES) * load(x + i + k * LANES);
    float rest = 0;
    for (; i < m->columns; i++) rest += weights[i] * x[i];
    return total((sum[0] + sum[1]) + (sum[2] + sum[3])) + rest;
}

#define FUSED(KIND, PER, BASE, BITS)                                                              \
    do {                                                                                          \
        for (; row + ROWS <= stop; row += ROWS, out += ROWS)                                      \
            fused(m, x, row, out, KIND, PER, BASE, BITS, ROWS);                                   \
        for (; row < stop; row++) fused(m, x, row, out++, KIND, PER, BASE, BITS, 1);              \
    } while (0)

/* out[row - start] = sum_i w_i x_i */
static void product(const Matrix *m, const float *x, int64_t start, int64_t stop, float *weights,
                    float *out) {
    int64_t row = start;
    int aligned = m->group == m->columns || m->group % LANES == 0;
    if (m->kind == DIGITS && !m->row_bytes) aligned &= m->columns % m->per == 0;
    switch (!aligned ? 0 : m->kind == DIGITS ? m->base : -m->kind) {
        case 2: FUSED(DIGITS, 8, 2, 1); break;
        case 4: FUSED(DIGITS, 4, 4, 2); break;
        case 16: FUSED(DIGITS, 2, 16, 4); break;
        case -SIGNED: FUSED(SIGNED, 1, 256, 8); break;
        default:
            for (; row < stop; row++) *out++ = decoded(m, x, row, weights);
    }
}

/* out[n, row] = bias[row] + sum_i w_i x[n, i] for `count` vectors and the rows from `start` to
 * `stop`; `out` has `all_rows` for each vector. Returns 0 where there is no memory. */
int leco_few(const Matrix *m, const float *x, int64_t count, int64_t start, int64_t stop,
             int64_t all_rows, const float *bias, float *out) {
    float *weights = malloc(sizeof(float) * m->columns);
    if (!weights) return 0;
    for (int64_t n = 0; n < count; n++) {
        float *y = out + n * all_rows;
        product(m, x + n * m->columns, start, stop, weights, y + start);
        for (int64_t row = start; bias && row < stop; row++) y[row] += bias[row];
    }
    free(weights);
    return 1;
}
