/* Products of a packed matrix with many vectors: some weights are decoded at a time, which stay in
 * the processor's cache, and are multiplied with all vectors. */
#include <stdlib.h>

#include "packed.h"

#define DEPTH 512           /* columns that are decoded at a time */
#define STRIDE (DEPTH + 16) /* no power of two: rows would stand in the same lines of the cache */
#define BLOCK 48            /* rows likewise: whole tiles */

/* Vectors come in blocks of up to TILE_VECTORS * LANES, each with its entries side by side for
 * every column, and zeros for vectors that there are not. */
static inline int64_t width_of(int64_t left) {
    int64_t most = TILE_VECTORS * LANES, whole = (left + LANES - 1) / LANES * LANES;
    return whole < most ? whole : most;
}

void leco_blocked(const float *x, int64_t count, int64_t columns, float *out) {
    for (int64_t first = 0, width; first < count; first += width, out += width * columns) {
        width = width_of(count - first);
        for (int64_t n = 0; n < width; n += LANES)
            for (int64_t at = 0; at < columns; at += LANES) {
                int64_t most = columns - at < LANES ? columns - at : LANES;
                float own[LANES][LANES] = {};
                for (int64_t k = 0; k < LANES && first + n + k < count; k++)
                    memcpy(own[k], x + (first + n + k) * columns + at, sizeof(float) * most);
                for (int64_t i = 0; i < most; i++) {
                    Floats column;
                    for (int k = 0; k < LANES; k++) column[k] = own[k][i];
                    store(out + (at + i) * width + n, column);
                }
            }
    }
}

/* out (rows, vectors) += w (rows, depth) x (depth, vectors); `rows` and `vectors`, in LANES, are
 * constants of each caller. */
INLINE void tile(const float *w, const float *x, int64_t depth, float *out, int64_t step,
                 int rows, int vectors) {
    Floats sum[12][4];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[r][v] = load(out + r * step + v * LANES);
    for (int64_t i = 0; i < depth; i++, x += vectors * LANES) {
        Floats own[4];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) own[v] = load(x + v * LANES);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            Floats by = all(w[r * STRIDE + i]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sum[r][v] += by * own[v];
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) store(out + r * step + v * LANES, sum[r][v]);
}

#define TILES(ROWS, VECTORS)                                            \
    for (int r = 0; r < BLOCK; r += ROWS)                               \
        tile(w + r * STRIDE, x, depth, out + r * step, step, ROWS, VECTORS)

/* A block of rows times a block of vectors. */
static void multiply(const float *w, const float *x, int64_t depth, int64_t width, float *out,
                     int64_t step) {
#if TILE_VECTORS == 1
    TILES(6, 1);
#else
    switch (width / LANES) {
        case 1: TILES(12, 1); break;
        case 2: TILES(12, 2); break;
        case 3: TILES(8, 3); break;
        default: TILES(6, 4); break;
    }
#endif
}

/* out[n, row] = bias[row] + sum_i w_i x[n, i] for `count` vectors, by leco_blocked, and the rows
 * from `start` to `stop`; `out` has `all_rows` for each vector. Returns 0 where there is no
 * memory. */
int leco_many(const Matrix *m, const float *x, int64_t count, int64_t start, int64_t stop,
              int64_t all_rows, const float *bias, float *out) {
    int64_t step = (count + LANES - 1) / LANES * LANES;
    float *w = calloc(BLOCK * STRIDE, sizeof(float)), *y = malloc(sizeof(float) * BLOCK * step);
    int enough = w && y;
    for (int64_t row = start; enough && row < stop; row += BLOCK) {
        int64_t rows = stop - row < BLOCK ? stop - row : BLOCK;
        memset(y, 0, sizeof(float) * BLOCK * step);
        for (int64_t at = 0; at < m->columns; at += DEPTH) {
            int64_t depth = m->columns - at < DEPTH ? m->columns - at : DEPTH;
            for (int64_t r = 0; r < rows; r++) leco_decode(m, row + r, at, depth, w + r * STRIDE);
            const float *block = x;
            for (int64_t first = 0, width; first < count; first += width) {
                width = width_of(count - first);
                multiply(w, block + at * width, depth, width, y + first, step);
                block += width * m->columns;
            }
        }
        for (int64_t n = 0; n < count; n++)
            for (int64_t r = 0; r < rows; r++)
                out[n * all_rows + row + r] = y[r * step + n] + (bias ? bias[row + r] : 0);
    }
    free(w);
    free(y);
    return enough;
}
