/* Streams of symbols: the decoder of an asymmetric numeral system, in the form of constriction's
 * AnsCoder (words of 32 bits, a state of 64, frequencies that sum to 2^24); and look-ups.
 */
#include <stdint.h>
#include <string.h>

#define PRECISION 24
#define BUCKET 13 /* the symbols of 2^13 neighbouring quantiles are found from one entry */

/* An entry: the sum of the frequencies before a symbol (24 bits), its frequency (24), the symbol. */
static inline uint64_t entry(const uint32_t *left, uint64_t symbol) {
    return left[symbol] | (uint64_t)(left[symbol + 1] - left[symbol]) << 24 | symbol << 48;
}

/* Decode `count` symbols into `out`, each as `group` digits of `itemsize` 1 or 2 bytes.
 *
 * words: one unused word, then `length` words.
 * left: the sums of the frequencies before each symbol, and 2^24 behind the last.
 * first: for each run of 2^13 quantiles, the symbol of its first one.
 * entries: memory for 2^11 of them.
 * digits: the digits of each symbol, one byte each; unused for a group of 1.
 * Returns 1 where the words hold exactly the symbols (the state ends at 2^24), else 0.
 */
int leco_symbols(const uint32_t *words, int64_t length, const uint32_t *left,
                 const uint16_t *first, uint64_t *entries, const uint8_t *digits, int64_t count,
                 int group, int itemsize, void *out) {
    uint64_t state = 0;
    uint8_t *narrow = out;
    uint16_t *wide = out;
    for (int k = 0; k < 1 << (PRECISION - BUCKET); k++) entries[k] = entry(left, first[k]);
    while (length && state < (1ull << 32)) state = state << 32 | words[length--];
    for (int64_t i = 0; i < count; i++) {
        uint32_t quantile = state & ((1u << PRECISION) - 1);
        uint64_t e = entries[quantile >> BUCKET];
        uint32_t within = quantile - (e & 0xFFFFFF), frequency = e >> 24 & 0xFFFFFF;
        while (within >= frequency) {
            e = entry(left, (e >> 48) + 1);
            within = quantile - (e & 0xFFFFFF), frequency = e >> 24 & 0xFFFFFF;
        }
        state = (state >> PRECISION) * frequency + within;
        /* the next word, without a branch: whether one is needed can't be foreseen */
        uint64_t fed = state << 32 | words[length];
        int64_t need = (state >> 32 == 0) & (length > 0);
        state = need ? fed : state;
        length -= need;
        if (group == 2) {
            memcpy(narrow + 2 * i, digits + 2 * (e >> 48), 2);
        } else if (group > 1) {
            for (int j = 0; j < group; j++) narrow[i * group + j] = digits[(e >> 48) * group + j];
        } else if (itemsize == 1) {
            narrow[i] = (uint8_t)(e >> 48);
        } else {
            wide[i] = (uint16_t)(e >> 48);
        }
    }
    return !length && state == 1ull << PRECISION;
}

/* out[p, i] = values[p, indices[p, i]] for `problems` of `n` indices; `step` is from the values of
 * one problem to the next, 0 where they are the same for all. Gathers of a processor are slower than
 * loads one by one, but compilers choose them. */
__attribute__((optimize("no-tree-vectorize"))) void leco_look_up(const float *values, int64_t step, const uint8_t *indices, int64_t problems,
                  int64_t n, float *out) {
    for (int64_t p = 0; p < problems; p++, values += step)
        for (int64_t i = 0; i < n; i++) *out++ = values[*indices++];
}

/* out[p, i] = (indices[p, i] - zero[p]) scale[p] for `problems` of `n` indices. */
void leco_grid(const uint8_t *indices, const float *scale, const uint8_t *zero, int64_t problems,
               int64_t n, float *out) {
    for (int64_t p = 0; p < problems; p++)
        for (int64_t i = 0; i < n; i++) *out++ = ((float)*indices++ - zero[p]) * scale[p];
}
