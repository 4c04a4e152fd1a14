/* Values that indices stand for. */
#include <stdint.h>
#include <string.h>

/* out[p, i] = values[p, indices[p, i]] for `problems` of `n` indices; `step` is from the values of
 * one problem to the next, 0 where they are the same for all. Eight indices are read at once, since
 * a processor loads only two numbers at a time. A processor's gathers are slower than single loads,
 * but compilers choose them. */
__attribute__((optimize("no-tree-vectorize"))) void
leco_look_up(const float *values, int64_t step, const uint8_t *indices, int64_t problems, int64_t n,
             float *out) {
    for (int64_t p = 0; p < problems; p++, values += step) {
        int64_t i = 0;
        for (; i + 8 <= n; i += 8, indices += 8) {
            uint64_t word;
            memcpy(&word, indices, 8);
            for (int k = 0; k < 8; k++, word >>= 8) *out++ = values[(uint8_t)word];
        }
        for (; i < n; i++) *out++ = values[*indices++];
    }
}

/* out[p, i] = (indices[p, i] - zero[p]) scale[p] for `problems` of `n` indices. */
void leco_grid(const uint8_t *indices, const float *scale, const uint8_t *zero, int64_t problems,
               int64_t n, float *out) {
    for (int64_t p = 0; p < problems; p++)
        for (int64_t i = 0; i < n; i++) *out++ = ((float)*indices++ - zero[p]) * scale[p];
}
