/* Pictures to tiles: bicubic resampling in Pillow's fixed-point arithmetic, bit for bit, written straight into tiles.
 *
 * Pillow resamples one direction after the other and rounds to 8 bits in between. Each value is a sum of input x weight
 * in 32-bit integers, weights having 22 bits, so the order of summation does not matter and vectors may be used. Here
 * rows stream through: a row goes through the first pass, waits in a ring just large enough for the second one, and
 * finished rows leave at once as planar tiles. The stretched picture never exists as a whole, and what of it lies
 * outside the tiles (a centre crop) is never computed.
 *
 * The file needs no Python headers: mmft/data/pictures/tiling.py loads it with ctypes (which releases the GIL during calls).
 * A pixel is four bytes here: red, green, blue, unused.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define HAVE_AVX2 1
#include <immintrin.h>
#endif

#define BATCH 4       /* rows that go through the horizontal pass together and share the loads of weights */
#define SHARED 32     /* rows that the parts take in turn */
#define WEIGHT_BITS 22
#define HALF (1 << (WEIGHT_BITS - 1))
#define LOW_BITS 12   /* a weight is split as high * 2^12 + low, both within 16 bits, for _mm256_madd_epi16 */

typedef struct {
    int out, taps;    /* output length; weights per output, even (for `across`) where the input is long enough */
    int *first;       /* per output: first input it reads; first + taps never passes the end of the input */
    int32_t *weight;  /* out x taps */
    int16_t *split;   /* the weights again, by twos: two high halves, then two low halves */
} Axis;

typedef struct {
    int width, vertical_first, avx2;
    int columns, size;
    int left, top;            /* of the first pixel of the outputs on the canvas of the tiles */
    uint8_t *tiles;           /* (tiles, 3, size, size), row by row of the grid */
    Axis across, down;
    int ring_width, capacity; /* the ring holds `capacity` rows of ring_width pixels, input row y at y % capacity */
    uint8_t *ring;
    const uint8_t **window;   /* the rows of one output row, and one more */
    uint8_t *line[BATCH], *done[BATCH]; /* rows that come out of the ring, and finished ones (vertical first) */
    int pushed, next;         /* input rows taken, output rows written */
} Stretch;

/* Where the stretched picture comes to lie; tiling.py fills it in, so the order of the fields matters. */
typedef struct {
    int width, height, left, top; /* its size, and its corner on the canvas: negative where it is cropped */
    int columns, rows;            /* the canvas, in tiles */
    int flags;                    /* 1: the vertical pass first; 2: plain C, for tests */
} Place;

typedef struct {
    int width, height, fed; /* of the picture; rows that have come */
    int count;
    Stretch part[2]; /* the grid and, perhaps, the whole picture as one tile */
} Tiler;

/* ---- weights ---------------------------------------------------------------------------------------------------- */

static double bicubic(double x) {
    x = fabs(x);
    if (x < 1.0) return (1.5 * x - 2.5) * x * x + 1.0;
    if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5;
    return 0.0;
}

/* The inputs [from, to) that output o depends on; scale is input / output length. */
static void reach(int o, double scale, int in, int *from, int *to) {
    double centre = (o + 0.5) * scale, support = 2.0 * (scale < 1.0 ? 1.0 : scale);
    *from = (int)(centre - support + 0.5);
    *to = (int)(centre + support + 0.5);
    if (*from < 0) *from = 0;
    if (*to > in) *to = in;
}

/* Outputs [skip, skip + out) of `whole`; `multiple` is what taps are rounded up to, if the input is long enough. */
static int axis_init(Axis *axis, int in, int whole, int skip, int out, int multiple) {
    double scale = (double)in / whole, unit = 1.0 / (scale < 1.0 ? 1.0 : scale);
    int from, to, most = 0;
    for (int o = 0; o < out; o++) {
        reach(skip + o, scale, in, &from, &to);
        if (to - from > most) most = to - from;
    }
    int taps = (most + multiple - 1) / multiple * multiple;
    if (taps > in) taps = most;
    axis->out = out;
    axis->taps = taps;
    axis->first = malloc(sizeof(int) * out);
    axis->weight = calloc((size_t)out * taps, sizeof(int32_t));
    axis->split = calloc((size_t)out * (taps + 1) * 2, sizeof(int16_t));
    double *raw = malloc(sizeof(double) * most);
    int fine = axis->first && axis->weight && axis->split && raw;
    int16_t *split = axis->split;
    for (int o = 0; fine && o < out; o++) {
        reach(skip + o, scale, in, &from, &to);
        double sum = 0.0, centre = (skip + o + 0.5) * scale;
        for (int i = from; i < to; i++) sum += raw[i - from] = bicubic((i - centre + 0.5) * unit);
        /* Zero weights fill the window: behind the used ones, or before them where the input ends. */
        int first = axis->first[o] = from + taps > in ? in - taps : from;
        int32_t *weight = axis->weight + (size_t)o * taps;
        for (int i = from; i < to; i++) {
            double w = raw[i - from] / sum * (1 << WEIGHT_BITS);
            weight[i - first] = (int)(w < 0 ? w - 0.5 : w + 0.5);
        }
        for (int i = 0; i < taps; i++) {
            split[i / 2 * 4 + i % 2] = (int16_t)(weight[i] >> LOW_BITS);
            split[i / 2 * 4 + 2 + i % 2] = (int16_t)(weight[i] & ((1 << LOW_BITS) - 1));
        }
        split += (taps + 1) / 2 * 4;
    }
    free(raw);
    return fine;
}

/* ---- the two passes and the cut, in plain C --------------------------------------------------------------------- */

static inline uint8_t rounded(int32_t sum) {
    sum >>= WEIGHT_BITS;
    return sum < 0 ? 0 : sum > 255 ? 255 : (uint8_t)sum;
}

static void across_plain(const Axis *axis, const uint8_t *in, uint8_t *out) {
    for (int o = 0; o < axis->out; o++) {
        const uint8_t *pixel = in + (size_t)axis->first[o] * 4;
        const int32_t *weight = axis->weight + (size_t)o * axis->taps;
        for (int channel = 0; channel < 4; channel++) {
            int32_t sum = HALF;
            for (int i = 0; i < axis->taps; i++) sum += pixel[4 * i + channel] * weight[i];
            out[4 * o + channel] = rounded(sum);
        }
    }
}

/* bytes [from, to) of one output row out of `taps` input rows */
static void down_plain(const uint8_t *const *rows, const int32_t *weight, int taps, uint8_t *out, int from, int to) {
    for (int x = from; x < to; x++) {
        int32_t sum = HALF;
        for (int i = 0; i < taps; i++) sum += rows[i][x] * weight[i];
        out[x] = rounded(sum);
    }
}

static void planes(const uint8_t *restrict in, uint8_t *restrict r, uint8_t *restrict g, uint8_t *restrict b, int n) {
    for (int x = 0; x < n; x++) {
        r[x] = in[4 * x];
        g[x] = in[4 * x + 1];
        b[x] = in[4 * x + 2];
    }
}

/* ---- the same with AVX2 ----------------------------------------------------------------------------------------- */

#ifdef HAVE_AVX2
#define AVX2 __attribute__((target("avx2")))
#define WHOLE(high, low) _mm256_add_epi32(_mm256_slli_epi32(high, LOW_BITS), low)

/* The weights of taps i and i + 1, i even, as a pair of 16-bit halves in every 32 bits */
static inline AVX2 void weights(const int16_t *split, int i, __m256i *high, __m256i *low) {
    int32_t pair[2];
    memcpy(pair, split + 2 * i, sizeof(pair));
    *high = _mm256_set1_epi32(pair[0]);
    *low = _mm256_set1_epi32(pair[1]);
}

static inline AVX2 void accumulate(__m256i pairs, __m256i wh, __m256i wl, __m256i *high, __m256i *low) {
    *high = _mm256_add_epi32(*high, _mm256_madd_epi16(pairs, wh));
    *low = _mm256_add_epi32(*low, _mm256_madd_epi16(pairs, wl));
}

/* Four rows at once, one in each half of two vectors, two taps at a time. Needs an even number of taps. */
static AVX2 void across_avx2(const Axis *axis, const uint8_t *const in[BATCH], uint8_t *const out[BATCH]) {
    /* pixels 0 and 1 -> 16-bit pairs r0 r1 g0 g1 b0 b1 x0 x1, and so pixels 2 and 3 */
    const __m256i first = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, -1, 4, -1, 1, -1, 5, -1, 2, -1, 6, -1, 3, -1, 7, -1));
    const __m256i second = _mm256_or_si256(first, _mm256_set1_epi16(8));
    const int16_t *split = axis->split;
    for (int o = 0; o < axis->out; o++, split += 2 * axis->taps) {
        __m256i zero = _mm256_setzero_si256(), half = _mm256_set1_epi32(HALF), wh, wl;
        __m256i high[BATCH / 2] = {zero, zero}, low[BATCH / 2] = {half, half};
        size_t at = (size_t)axis->first[o] * 4;
        int i = 0;
        for (; i + 4 <= axis->taps; i += 4, at += 16) {
            __m256i wh2, wl2;
            weights(split, i, &wh, &wl);
            weights(split, i + 2, &wh2, &wl2);
            for (int k = 0; k < BATCH / 2; k++) {
                __m256i p = _mm256_set_m128i(_mm_loadu_si128((const void *)(in[2 * k + 1] + at)),
                                             _mm_loadu_si128((const void *)(in[2 * k] + at)));
                accumulate(_mm256_shuffle_epi8(p, first), wh, wl, &high[k], &low[k]);
                accumulate(_mm256_shuffle_epi8(p, second), wh2, wl2, &high[k], &low[k]);
            }
        }
        if (i < axis->taps) weights(split, i, &wh, &wl);
        for (int k = 0; i < axis->taps && k < BATCH / 2; k++) {
            __m256i p = _mm256_set_m128i(_mm_loadl_epi64((const void *)(in[2 * k + 1] + at)),
                                         _mm_loadl_epi64((const void *)(in[2 * k] + at)));
            accumulate(_mm256_shuffle_epi8(p, first), wh, wl, &high[k], &low[k]);
        }
        for (int k = 0; k < BATCH / 2; k++) low[k] = _mm256_srai_epi32(WHOLE(high[k], low[k]), WEIGHT_BITS);
        __m256i sum = _mm256_packs_epi32(low[0], low[1]); /* rows 0 and 2, then rows 1 and 3 */
        sum = _mm256_packus_epi16(sum, sum);
        uint64_t even = (uint64_t)_mm256_extract_epi64(sum, 0), odd = (uint64_t)_mm256_extract_epi64(sum, 2);
        uint32_t pixel[BATCH] = {(uint32_t)even, (uint32_t)odd, (uint32_t)(even >> 32), (uint32_t)(odd >> 32)};
        for (int r = 0; r < BATCH; r++) memcpy(out[r] + (size_t)o * 4, &pixel[r], 4);
    }
}

/* 32 bytes at a time, two rows at a time; returns how many bytes are done. rows[taps] must be readable, too. */
static AVX2 int down_avx2(const uint8_t *const *rows, const int16_t *split, int taps, uint8_t *out, int bytes) {
    __m256i zero = _mm256_setzero_si256(), half = _mm256_set1_epi32(HALF), wh, wl;
    int x = 0;
    for (; x + 32 <= bytes; x += 32) {
        __m256i high[4] = {zero, zero, zero, zero}, low[4] = {half, half, half, half};
        for (int i = 0; i < taps; i += 2) {
            weights(split, i, &wh, &wl);
            __m256i a = _mm256_loadu_si256((const __m256i *)(rows[i] + x));
            __m256i b = _mm256_loadu_si256((const __m256i *)(rows[i + 1] + x));
            __m256i front = _mm256_unpacklo_epi8(a, b), back = _mm256_unpackhi_epi8(a, b);
            __m256i p[4] = {_mm256_unpacklo_epi8(front, zero), _mm256_unpackhi_epi8(front, zero),
                            _mm256_unpacklo_epi8(back, zero), _mm256_unpackhi_epi8(back, zero)};
            for (int k = 0; k < 4; k++) accumulate(p[k], wh, wl, &high[k], &low[k]);
        }
        for (int k = 0; k < 4; k++) low[k] = _mm256_srai_epi32(WHOLE(high[k], low[k]), WEIGHT_BITS);
        __m256i done = _mm256_packus_epi16(_mm256_packs_epi32(low[0], low[1]), _mm256_packs_epi32(low[2], low[3]));
        _mm256_storeu_si256((__m256i *)(out + x), done);
    }
    return x;
}
#endif

/* ---- one stretched picture -------------------------------------------------------------------------------------- */

/* `count` <= BATCH rows; out[] must have BATCH distinct rows, of which the first `count` matter */
static void across(const Stretch *s, const uint8_t *const in[BATCH], uint8_t *const out[BATCH], int count) {
#ifdef HAVE_AVX2
    if (s->avx2 && s->across.taps % 2 == 0) {
        across_avx2(&s->across, in, out);
        return;
    }
#endif
    for (int r = 0; r < count; r++) across_plain(&s->across, in[r], out[r]);
}

static void down(const Stretch *s, int y, uint8_t *out) {
    const Axis *axis = &s->down;
    const int32_t *weight = axis->weight + (size_t)y * axis->taps;
    int from = 0, bytes = s->ring_width * 4; /* of the row; vectors do the first `from` */
    for (int i = 0; i < axis->taps; i++)
        s->window[i] = s->ring + (size_t)((axis->first[y] + i) % s->capacity) * bytes;
    s->window[axis->taps] = s->window[0]; /* an odd number of taps is rounded up with a weight of zero */
#ifdef HAVE_AVX2
    const int16_t *split = axis->split + (size_t)y * ((axis->taps + 1) / 2 * 4);
    if (s->avx2) from = down_avx2(s->window, split, axis->taps, out, bytes);
#endif
    down_plain(s->window, weight, axis->taps, out, from, bytes);
}

static void cut(const Stretch *s, int y, const uint8_t *line) {
    size_t plane = (size_t)s->size * s->size;
    int row = s->top + y, end = s->left + s->across.out;
    for (int x = s->left, n; x < end; x += n, line += (size_t)n * 4) {
        n = s->size - x % s->size; /* up to the end of this tile */
        if (n > end - x) n = end - x;
        size_t tile = (size_t)(row / s->size) * s->columns + x / s->size;
        uint8_t *red = s->tiles + tile * 3 * plane + (size_t)(row % s->size) * s->size + x % s->size;
        planes(line, red, red + plane, red + 2 * plane, n);
    }
}

/* Writes every output row whose input rows are all there. */
static void drain(Stretch *s) {
    while (1) {
        const uint8_t *in[BATCH];
        int count = 0, y = s->next;
        for (; count < BATCH && y < s->down.out && s->down.first[y] + s->down.taps <= s->pushed; y++)
            down(s, y, s->line[count++]);
        if (count == 0) return;
        for (int r = 0; r < BATCH; r++) in[r] = s->line[r < count ? r : 0];
        if (s->vertical_first) across(s, in, s->done, count);
        for (int r = 0; r < count; r++) cut(s, s->next++, s->vertical_first ? s->done[r] : in[r]);
    }
}

static void push(Stretch *s, const uint8_t *pixels, int rows) {
    size_t stride = (size_t)s->width * 4, ring_stride = (size_t)s->ring_width * 4;
    while (rows > 0 && s->next < s->down.out) {
        const uint8_t *in[BATCH];
        uint8_t *out[BATCH];
        int count = rows < BATCH ? rows : BATCH;
        for (int r = 0; r < BATCH; r++) { /* the slots from `pushed` on hold nothing that is still needed */
            in[r] = pixels + (r < count ? r : 0) * stride;
            out[r] = s->ring + (size_t)((s->pushed + r) % s->capacity) * ring_stride;
        }
        if (s->pushed + count <= s->down.first[s->next])
            ; /* above all that is shown */
        else if (s->vertical_first)
            for (int r = 0; r < count; r++) memcpy(out[r], in[r], stride);
        else
            across(s, in, out, count);
        s->pushed += count;
        pixels += count * stride;
        rows -= count;
        drain(s);
    }
}

/* How much of [at, at + length) lies in [0, room): its first index, counted from `at`, and how many. */
static int visible(int at, int length, int room, int *skip) {
    *skip = at < 0 ? -at : 0;
    int end = length < room - at ? length : room - at;
    return end - *skip;
}

static int stretch_init(Stretch *s, const Tiler *tiler, const Place *place, int size, uint8_t *tiles) {
    int skip_x, skip_y;
    int wide = visible(place->left, place->width, place->columns * size, &skip_x);
    int high = visible(place->top, place->height, place->rows * size, &skip_y);
    *s = (Stretch){.width = tiler->width, .vertical_first = place->flags & 1, .columns = place->columns, .size = size,
                   .left = place->left + skip_x, .top = place->top + skip_y, .tiles = tiles};
    if (wide < 1 || high < 1) return 0;
#ifdef HAVE_AVX2
    s->avx2 = __builtin_cpu_supports("avx2") && !(place->flags & 2);
#endif
    if (!axis_init(&s->across, tiler->width, place->width, skip_x, wide, 2) ||
        !axis_init(&s->down, tiler->height, place->height, skip_y, high, 1))
        return 0;
    s->ring_width = s->vertical_first ? s->width : s->across.out;
    s->capacity = s->down.taps + BATCH;
    s->ring = malloc((size_t)s->capacity * s->ring_width * 4);
    s->window = malloc(sizeof(*s->window) * (s->down.taps + 1));
    int fine = s->ring && s->window;
    for (int r = 0; r < BATCH; r++) {
        s->line[r] = malloc((size_t)s->ring_width * 4);
        s->done[r] = malloc((size_t)s->across.out * 4);
        fine = fine && s->line[r] && s->done[r];
    }
    return fine;
}

static void stretch_free(Stretch *s) {
    for (int r = 0; r < BATCH; r++) {
        free(s->line[r]);
        free(s->done[r]);
    }
    free(s->window), free(s->ring);
    free(s->across.first), free(s->across.weight), free(s->across.split);
    free(s->down.first), free(s->down.weight), free(s->down.split);
}

/* ---- what tiling.py calls: open, feed all rows from top to bottom in as many parts as it likes, close ------------ */

void mmft_tiler_close(Tiler *tiler) {
    for (int i = 0; tiler && i < tiler->count; i++) stretch_free(&tiler->part[i]);
    free(tiler);
}

/* One or two places, whose tiles follow one another in `tiles`. NULL: out of memory, or a picture beside its canvas. */
Tiler *mmft_tiler_place(int width, int height, const Place *places, int count, int size, uint8_t *tiles) {
    Tiler *tiler = calloc(1, sizeof(Tiler));
    if (!tiler) return NULL;
    tiler->width = width, tiler->height = height;
    for (int i = 0; i < count && i < 2; i++) {
        tiler->count = i + 1;
        if (!stretch_init(&tiler->part[i], tiler, &places[i], size, tiles)) {
            mmft_tiler_close(tiler);
            return NULL;
        }
        tiles += (size_t)places[i].columns * places[i].rows * 3 * size * size;
    }
    return tiler;
}

/* pixels: `rows` rows of `width` four-byte pixels, without gaps */
void mmft_tiler_feed(Tiler *tiler, const uint8_t *pixels, int rows) {
    if (rows > tiler->height - tiler->fed) rows = tiler->height - tiler->fed;
    tiler->fed += rows;
    for (int row = 0; row < rows; row += SHARED) { /* few enough rows that the second part finds them in the cache */
        const uint8_t *from = pixels + (size_t)row * tiler->width * 4;
        for (int i = 0; i < tiler->count; i++) push(&tiler->part[i], from, rows - row < SHARED ? rows - row : SHARED);
    }
}
