/* Products of a packed matrix with vectors, and its weights for products with many.
 *
 * A matrix has groups of weights, each a row or a part of one. Weight i of a group is
 *
 *     scale (values[code_i] - shift)          codes of up to 4 bits, `per` of them to a byte
 *     scale (code_i - shift)                  signed codes of 8 bits
 *     scale (values[code_i] - shift)          codes of 8 bits
 *
 * The weights are made in the order of planes: of each 16 bytes first all lowest digits, then all
 * second ones, and so on. planes_of brings a vector into the same order, with zeros where a
 * group's bytes do not fill the last 16.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16
enum { DIGITS, SIGNED, BYTES };

typedef struct {
    const uint8_t *codes;
    int64_t bytes;           /* of a group */
    int64_t groups;          /* of a row */
    int32_t kind, per, base; /* base: of the digits in a byte */
    int32_t count;           /* of values */
    const float *values;
    int64_t values_step; /* from one group to the next; 0: the same for all */
    const float *scale;
    int64_t scale_step;
    const float *shift;
    int64_t shift_step;
} Matrix;

#if defined(__AVX512F__)
#include <immintrin.h>
typedef __m512 Floats;
typedef __m512i Ints;
typedef struct { __m512 all; } Table;
static inline Table table(const float *v) { return (Table){_mm512_loadu_ps(v)}; }
static inline Floats look_up(Table t, Ints at) { return _mm512_permutexvar_ps(at, t.all); }
static inline Ints widen(const uint8_t *p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
}
static inline Floats signed_bytes(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
static inline Floats gather(const float *v, Ints at) { return _mm512_i32gather_ps(at, v, 4); }
static inline Ints shifted(Ints a, int by) { return _mm512_srli_epi32(a, by); }
static inline Ints times(Ints a, int b) { return _mm512_mullo_epi32(a, _mm512_set1_epi32(b)); }
static inline Ints minus(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
static inline Floats zeros(void) { return _mm512_setzero_ps(); }
static inline Floats all(float a) { return _mm512_set1_ps(a); }
static inline Floats less(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
static inline Floats product(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
static inline Floats plus_product(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
static inline Floats load(const float *p) { return _mm512_loadu_ps(p); }
static inline void store(float *p, Floats a) { _mm512_storeu_ps(p, a); }
static inline float total(Floats a) { return _mm512_reduce_add_ps(a); }
static inline Table moved(Table t, Floats by) { return (Table){less(t.all, by)}; }
#else /* plain C, for the compiler to vectorise */
typedef struct { float at[LANES]; } Floats;
typedef struct { int32_t at[LANES]; } Ints;
typedef Floats Table;
#define EACH for (int i = 0; i < LANES; i++)
static inline Floats load(const float *p) { Floats r; memcpy(&r, p, sizeof r); return r; }
static inline void store(float *p, Floats a) { memcpy(p, &a, sizeof a); }
static inline Table table(const float *v) { return load(v); }
static inline Floats look_up(Table t, Ints k) { Floats r; EACH r.at[i] = t.at[k.at[i] & 15]; return r; }
static inline Ints widen(const uint8_t *p) { Ints r; EACH r.at[i] = p[i]; return r; }
static inline Floats signed_bytes(const uint8_t *p) { Floats r; EACH r.at[i] = (int8_t)p[i]; return r; }
static inline Floats gather(const float *v, Ints k) { Floats r; EACH r.at[i] = v[k.at[i]]; return r; }
static inline Ints shifted(Ints a, int by) { EACH a.at[i] >>= by; return a; }
static inline Ints times(Ints a, int b) { EACH a.at[i] *= b; return a; }
static inline Ints minus(Ints a, Ints b) { EACH a.at[i] -= b.at[i]; return a; }
static inline Floats all(float a) { Floats r; EACH r.at[i] = a; return r; }
static inline Floats zeros(void) { return all(0); }
static inline Floats less(Floats a, Floats b) { EACH a.at[i] -= b.at[i]; return a; }
static inline Floats product(Floats a, Floats b) { EACH a.at[i] *= b.at[i]; return a; }
static inline Floats plus_product(Floats a, Floats b, Floats c) { EACH c.at[i] += a.at[i] * b.at[i]; return c; }
static inline float total(Floats a) { float s = 0; EACH s += a.at[i]; return s; }
static inline Table moved(Table t, Floats by) { return less(t, by); }
#endif

/* Digit j of each byte, for bases that are no power of two: divide, and keep what is left. */
static inline Ints divided(Ints a, int base) { return shifted(times(a, 65536 / base + 1), 16); }

/* The 16 weights of digit j of a block: `a` has its bytes, and loses each digit of a base that is
 * no power of two. kind and base are constants where this is inlined. */
static inline Floats digits(Table t, Ints *a, int base, int bits, int j) {
    if (bits) return look_up(t, shifted(*a, j * bits));
    Ints quotient = divided(*a, base);
    Floats w = look_up(t, minus(*a, times(quotient, base)));
    *a = quotient;
    return w;
}

/* The values, repeated to 16: a look-up takes 4 bits, of which those above a digit are another's. */
static inline Table repeated(const float *values, int count, int base) {
    float own[LANES];
    for (int i = 0; i < LANES; i++) own[i] = values[i % base < count ? i % base : 0];
    return table(own);
}

/* A group's block of 16 bytes, or a copy of the last one with zeros behind. */
static inline const uint8_t *block(const Matrix *m, const uint8_t *codes, int64_t at, uint8_t *own) {
    if (at + LANES <= m->bytes) return codes + at;
    memset(own, 0, LANES);
    memcpy(own, codes + at, m->bytes - at);
    return own;
}

/* The rows from `start` to `stop`: their products with x, or, where x is NULL, their weights; x and
 * the weights in the order of planes. kind, per and base are constants of each caller. */
static inline __attribute__((always_inline)) void rows(const Matrix *m, const float *x,
                                                       int64_t start, int64_t stop, float *out,
                                                       int kind, int per, int base) {
    const int bits = base == 2 ? 1 : base == 4 ? 2 : base == 16 ? 4 : 0;
    const int own_table = kind == DIGITS && (m->values_step || (m->shift && m->shift_step));
    Floats shift = all(m->shift ? *m->shift : 0), scale = all(m->scale ? *m->scale : 1);
    Table t = repeated(m->values, kind == DIGITS ? m->count : 1, kind == DIGITS ? base : 1);
    if (kind == DIGITS) t = moved(t, shift);
    for (int64_t row = start; row < stop; row++) {
        Floats sum = zeros();
        const float *at_x = x;
        for (int64_t part = 0; part < m->groups; part++) {
            int64_t g = row * m->groups + part;
            const uint8_t *codes = m->codes + g * m->bytes;
            if (m->shift && m->shift_step) shift = all(m->shift[g]);
            if (m->scale && m->scale_step) scale = all(m->scale[g]);
            if (own_table) t = moved(repeated(m->values + g * m->values_step, m->count, base), shift);
            Floats own[2] = {zeros(), zeros()};
            uint8_t rest[LANES];
            for (int64_t at = 0; at < m->bytes; at += LANES) {
                const uint8_t *p = block(m, codes, at, rest);
                Ints a = widen(p);
                for (int j = 0; j < per; j++) {
                    Floats w = kind == DIGITS   ? digits(t, &a, base, bits, j)
                               : kind == SIGNED ? less(signed_bytes(p), shift)
                                                : less(gather(m->values, a), shift);
                    if (x) {
                        own[j & 1] = plus_product(w, load(at_x), own[j & 1]);
                        at_x += LANES;
                    } else {
                        store(out, product(w, scale));
                        out += LANES;
                    }
                }
            }
            sum = plus_product(own[0], scale, plus_product(own[1], scale, sum));
        }
        if (x) *out++ = total(sum);
    }
}

#define ROWS(X)                                                                  \
    switch (m->kind == DIGITS ? m->base : -m->kind) {                            \
        case 2: rows(m, X, start, stop, out, DIGITS, 8, 2); break;               \
        case 3: rows(m, X, start, stop, out, DIGITS, 5, 3); break;               \
        case 4: rows(m, X, start, stop, out, DIGITS, 4, 4); break;               \
        case 6: rows(m, X, start, stop, out, DIGITS, 3, 6); break;               \
        case 16: rows(m, X, start, stop, out, DIGITS, 2, 16); break;             \
        case -SIGNED: rows(m, X, start, stop, out, SIGNED, 1, 256); break;       \
        default: rows(m, X, start, stop, out, BYTES, 1, 256); break;             \
    }

/* out[row - start] = sum_i w_i x_i */
static void leco_product(const Matrix *m, const float *x, int64_t start, int64_t stop,
                         float *out) {
    ROWS(x)
}

/* The weights of the rows. */
void leco_weights(const Matrix *m, int64_t start, int64_t stop, float *out) { ROWS(NULL) }

/* A vector of `columns` entries in the order of planes, as if zeros were behind it. */
static void planes_of(const Matrix *m, const float *x, int64_t columns, float *out) {
    int64_t first = 0;
    for (int64_t group = 0; group < m->groups; group++, first += m->bytes * m->per)
        for (int64_t at = 0; at < m->bytes; at += LANES) {
            const float *from = x + first + at * m->per;
            if (at + LANES <= m->bytes && first + (at + LANES) * m->per <= columns) {
                for (int j = 0; j < m->per; j++)
                    for (int k = 0; k < LANES; k++) *out++ = from[k * m->per + j];
                continue;
            }
            for (int j = 0; j < m->per; j++)
                for (int k = 0; k < LANES; k++) {
                    int64_t i = first + (at + k) * m->per + j;
                    *out++ = at + k < m->bytes && i < columns ? x[i] : 0;
                }
        }
}

void leco_planes(const Matrix *m, const float *x, int64_t count, int64_t columns, int64_t width,
                 float *out) {
    for (int64_t n = 0; n < count; n++) planes_of(m, x + n * columns, columns, out + n * width);
}

/* out[n, row] = bias[row] + sum_i w_i x[n, i] for `count` vectors and the rows from `start` to
 * `stop`; `out` has `all_rows` for each vector. Returns 0 where there is no memory. */
int leco_products(const Matrix *m, const float *x, int64_t count, int64_t columns, int64_t width,
                  int64_t start, int64_t stop, int64_t all_rows, const float *bias, float *out) {
    float *own = malloc(sizeof(float) * width);
    if (!own) return 0;
    for (int64_t n = 0; n < count; n++) {
        float *y = out + n * all_rows + start;
        planes_of(m, x + n * columns, columns, own);
        leco_product(m, own, start, stop, y);
        if (bias)
            for (int64_t row = start; row < stop; row++) y[row - start] += bias[row];
    }
    free(own);
    return 1;
}
