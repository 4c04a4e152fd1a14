/* Streams of symbols: the decoder of an asymmetric numeral system, in the form of constriction's
 * AnsCoder (words of 32 bits, a state of 64, frequencies that sum to 2^24).
 *
 * Each symbol waits for the one before it, so three streams are decoded side by side. A step
 * takes at most one word: as long as each stream has as many words as there are steps to go, no
 * step checks whether there is one.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "lanes.h"

#define PRECISION 24
#define MASK ((1u << PRECISION) - 1)
#define MOST_BITS 14 /* of a table of runs of quantiles */
#define LEAST_BITS 8
#define RUNS 8       /* for each symbol: then few runs have two */
#define SIDE_BY_SIDE 3
#define CHUNK 512    /* symbols at a time */
#define FEW 16       /* steps, for which a round is not worth it */
#define MOST_SYMBOLS 4096

typedef struct {
    const uint8_t *words; /* little-endian; the zero bytes at their end may be left out */
    int64_t bytes;
    const uint32_t *left;  /* the sums of the frequencies before each symbol, and 2^24 */
    const uint8_t *digits; /* `group` of each symbol, where a symbol stands for more than one */
    int64_t count;         /* of symbols */
    uint8_t *out;          /* count times group digits, or count symbols of `itemsize` bytes */
    int32_t symbols, group, itemsize;
    int32_t exact; /* out: whether the words hold exactly the symbols: the state ends at 2^24 */
} Stream;

typedef struct {
    uint32_t left, frequency;
} Range;

/* For each run of 2^shift quantiles, the symbol of its first one; four digits of each symbol. */
typedef struct {
    Range ranges[1 << MOST_BITS];
    uint16_t symbols[1 << MOST_BITS];
    uint32_t digits[MOST_SYMBOLS];
} Table;

typedef struct {
    Stream *stream;
    uint64_t state;
    const uint8_t *words;  /* behind the next one */
    int64_t length, count; /* of words and of symbols to come */
    uint8_t *out;
    int shift;
} Lane;

INLINE uint32_t word(const uint8_t *at) {
    uint32_t found;
    memcpy(&found, at, 4);
    return found;
}

INLINE Range range_of(const uint32_t *left, uint32_t symbol) {
    return (Range){left[symbol], left[symbol + 1] - left[symbol]};
}

/* The symbol of a quantile, which is not before `symbol`. */
static __attribute__((noinline)) uint32_t found_from(const uint32_t *left, uint32_t symbol,
                                                     uint32_t quantile) {
    while (quantile >= left[symbol + 1]) symbol++;
    return symbol;
}

static void begin(Lane *lane, Stream *s, Table *table) {
    /* the first words: the last one may be cut */
    int64_t length = (s->bytes + 3) / 4;
    uint32_t last = 0;
    if (length) memcpy(&last, s->words + 4 * (length - 1), s->bytes - 4 * (length - 1)), length--;
    uint64_t state = last;
    while (length && state >> 32 == 0) state = state << 32 | word(s->words + 4 * --length);
    *lane = (Lane){s, state, s->words + 4 * length, length, s->count, s->out, 0};
    /* a table of a size that the stream is worth */
    int bits = LEAST_BITS;
    while (bits < MOST_BITS && 1 << bits < RUNS * s->symbols && 1 << bits < s->count) bits++;
    lane->shift = PRECISION - bits;
    for (uint32_t run = 0, symbol = 0; run < 1u << bits; run++) {
        symbol = found_from(s->left, symbol, run << lane->shift);
        table->ranges[run] = range_of(s->left, symbol);
        table->symbols[run] = symbol;
    }
    if (s->group == 3 || s->group == 4)
        for (int i = 0; i < s->symbols; i++)
            table->digits[i] = 0, memcpy(table->digits + i, s->digits + i * s->group, s->group);
}

/* Append the next word to a state below 2^32, without a branch: which states are can't be
 * foreseen. Compilers make a branch of plain C. */
INLINE void take_word(uint64_t *state, const uint8_t **words) {
    const uint8_t *before = *words - 4;
    uint64_t fed = *state << 32 | word(before);
#if defined(__x86_64__)
    __asm__("cmp %[one], %[state]\n\tcmovb %[fed], %[state]\n\tcmovb %[before], %[words]"
            : [state] "+&r"(*state), [words] "+&r"(*words)
            : [one] "r"(1ull << 32), [fed] "r"(fed), [before] "r"(before)
            : "cc");
#else
    uint64_t needed = -(uint64_t)(*state >> 32 == 0);
    *state = (fed & needed) | (*state & ~needed);
    *words += 4 * (int64_t)needed;
#endif
}

/* `n` symbols of each of K lanes, which have as many words. */
INLINE void steps(Lane *lanes, const Table *tables, uint16_t (*symbols)[CHUNK], int n,
                  const int K) {
    uint64_t state[SIDE_BY_SIDE];
    const uint8_t *words[SIDE_BY_SIDE];
    int shift[SIDE_BY_SIDE];
    for (int k = 0; k < K; k++)
        state[k] = lanes[k].state, words[k] = lanes[k].words, shift[k] = lanes[k].shift;
    for (int i = 0; i < n; i++) {
#pragma GCC unroll 8
        for (int k = 0; k < K; k++) {
            uint32_t quantile = state[k] & MASK, run = quantile >> shift[k];
            uint32_t symbol = tables[k].symbols[run];
            Range own = tables[k].ranges[run];
            if (__builtin_expect(quantile - own.left >= own.frequency, 0)) {
                symbol = found_from(lanes[k].stream->left, symbol + 1, quantile);
                own = range_of(lanes[k].stream->left, symbol);
            }
            uint64_t next = (state[k] >> PRECISION) * own.frequency + (quantile - own.left);
            take_word(&next, words + k);
            state[k] = next;
            symbols[k][i] = symbol;
        }
    }
    for (int k = 0; k < K; k++) {
        lanes[k].length -= (lanes[k].words - words[k]) / 4;
        lanes[k].state = state[k], lanes[k].words = words[k];
    }
}

/* Likewise for one lane, which may run out of words. */
static void last_steps(Lane *lane, const Table *table, uint16_t *symbols, int n) {
    const uint32_t *left = lane->stream->left;
    for (int i = 0; i < n; i++) {
        uint32_t quantile = lane->state & MASK;
        symbols[i] = found_from(left, table->symbols[quantile >> lane->shift], quantile);
        Range own = range_of(left, symbols[i]);
        lane->state = (lane->state >> PRECISION) * own.frequency + (quantile - own.left);
        if (lane->state >> 32 == 0 && lane->length) {
            lane->words -= 4, lane->length--;
            lane->state = lane->state << 32 | word(lane->words);
        }
    }
}

/* Write `n` symbols, or their digits. */
static void put(Lane *lane, const Table *table, const uint16_t *symbols, int n) {
    const Stream *s = lane->stream;
    const int group = s->group;
    uint8_t *out = lane->out;
    if (group == 1 && s->itemsize == 1) {
        for (int i = 0; i < n; i++) out[i] = (uint8_t)symbols[i];
    } else if (group == 1) {
        memcpy(out, symbols, 2 * n);
    } else if (group == 2) {
        for (int i = 0; i < n; i++) memcpy(out + 2 * i, s->digits + 2 * symbols[i], 2);
    } else if (group <= 4) { /* four bytes; of the last symbol, those that are its own */
        for (int i = 0; i < n - 1; i++) memcpy(out + group * i, table->digits + symbols[i], 4);
        memcpy(out + group * (n - 1), table->digits + symbols[n - 1], group);
    } else {
        for (int i = 0; i < n; i++)
            for (int j = 0; j < group; j++) out[group * i + j] = s->digits[group * symbols[i] + j];
    }
    lane->out += (int64_t)n * group * s->itemsize;
    lane->count -= n;
}

/* The lanes that are not done, of `used`; the streams of others are. */
static int kept(Lane *lanes, Table *tables, int used) {
    for (int k = 0; k < used;) {
        if (lanes[k].count) {
            k++;
            continue;
        }
        lanes[k].stream->exact = !lanes[k].length && lanes[k].state == 1ull << PRECISION;
        if (k != --used) lanes[k] = lanes[used], tables[k] = tables[used];
    }
    return used;
}

/* Decode those of `count` streams that no other thread takes; `taken` counts them. Returns 0 where
 * there is no memory. */
int leco_streams(Stream *streams, int64_t count, int64_t *taken) {
    Table *tables = malloc(SIDE_BY_SIDE * sizeof *tables);
    if (!tables) return 0;
    uint16_t symbols[SIDE_BY_SIDE][CHUNK];
    Lane lanes[SIDE_BY_SIDE];
    for (int used = 0, open = 1; used || open; used = kept(lanes, tables, used)) {
        /* further streams */
        while (used < SIDE_BY_SIDE && open) {
            int64_t next = __atomic_fetch_add(taken, 1, __ATOMIC_RELAXED);
            open = next < count;
            if (open) begin(lanes + used, streams + next, tables + used), used++;
        }
        /* so many steps, and so many that need no look at the words that are left */
        int64_t n = CHUNK, safe = CHUNK;
        for (int k = 0; k < used; k++) {
            n = lanes[k].count < n ? lanes[k].count : n;
            safe = lanes[k].length < safe ? lanes[k].length : safe;
        }
        if (safe >= FEW && safe < n) n = safe;
        if (safe < n) {
            for (int k = 0; k < used; k++) last_steps(lanes + k, tables + k, symbols[k], (int)n);
        } else {
            switch (used) {
                case 3: steps(lanes, tables, symbols, (int)n, 3); break;
                case 2: steps(lanes, tables, symbols, (int)n, 2); break;
                case 1: steps(lanes, tables, symbols, (int)n, 1); break;
            }
        }
        for (int k = 0; k < used && n; k++) put(lanes + k, tables + k, symbols[k], (int)n);
    }
    free(tables);
    return 1;
}
