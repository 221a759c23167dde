/* Made by featherweight $version; do not edit.
 *
 * It uses integers only. Layers are computed row by row. Each keeps only the rows of its input that
 * one row of its output needs, in a ring buffer.
 *
 * With weights of 2 and 4 bits, two output channels share a 32-bit word, w0 + w1 * 2^16: one
 * multiplication by an activation gives both products, and a sum of such words holds two sums of 16
 * bits, its lanes. They are taken apart before they can overflow: after as many rows of a filter, or
 * parts of a row, as the exporter has found safe for every image. A depthwise layer does the same
 * with two neighbouring outputs. With 8 bits a word holds one weight. */
#include "digit.h"

/* Processors of 8 and 16 bits are refused: too little RAM, and sums of int would overflow. */
typedef char int_has_at_least_32_bits[sizeof(int) >= 4 ? 1 : -1];

#define LAYERS $layers
#define FEATURES $features /* channels of the last layer */
#define FILTER $filter /* words of the filters that are computed together, at most */
#define PARTS $parts /* of the input rows of a layer's receptive field, at most */
#define ROWS $rows /* bytes of the ring buffers of all layers */
#define BITS $bits /* bits of a layer's weight */
#define HARDSWISH $hardswish /* 1: the activation is hardswish; 0: ReLU */
#define POOLS $pools /* 1: there are layers that only pool */
$first_steps
$depthwise_steps
#define WIDE $wide /* 1: products need 64 bits */
#define SPLIT $split /* low bits of a sum that are multiplied apart, so that 32 bits suffice */
#define FIRST_SHIFT $first_shift /* smallest shift of the image in pixels, down and to the right */
#define SHIFTS $shifts /* number of shifts in each direction; features are added over all pairs */
#define BORDER $border /* value of a pixel that stands for 0 */

#define LANES $lanes /* sums in a word */
#define BLOCK 4 /* output channels that are computed together */
#define WORDS (BLOCK / LANES) /* words that hold a weight of each of them */
#define BATCH 14 /* outputs in a row whose sums are kept; even */
#if LANES == 2 && !defined(__ARM_ARCH_6M__)
#define PIXELS 2 /* outputs in a row that are computed together: as many as registers allow */
#else
#define PIXELS 1
#endif
#if BITS == 8 && defined(__ARM_FEATURE_DSP)
#include <arm_acle.h>
#define DSP 1 /* two products in one instruction: a word holds weights of two inputs, 16 bits each */
#else
#define DSP 0
#endif

#ifdef __GNUC__
#define NOINLINE __attribute__((noinline)) /* inlined, an inner loop runs out of registers */
#define INLINE __attribute__((always_inline)) inline
#define KEEP(a, b) __asm__("" : "+r"(a), "+r"(b)) /* holds the compiler to the order written */
#else
#define NOINLINE
#define INLINE inline
#define KEEP(a, b)
#endif

/* REPEAT: the block uses the weights of the block before it. */
enum { CONVOLUTION, DEPTHWISE, MAX_POOL, KINDS = 3, REPEAT = 4, GROUP = 8 };

/* kind is one of the above, plus REPEAT, plus GROUP times the parts after which lanes are taken
 * apart. fraction is below 16, plus 16 times one less than the parts of a filter's row. */
typedef struct {
    uint8_t kind, kernel, stride, padding, pool, outputs, shift, fraction, out_shift, zero_point;
    uint16_t out_multiplier;
} Layer;

static const Layer layers[LAYERS] = {
$layer_rows
};
static const uint8_t weights[] = {
$weights
};
static const int16_t multipliers[] = {
$multipliers
};
static const int16_t biases[] = {
$biases
};
static const int8_t head[DIGIT_CLASSES * FEATURES] = {
$head
};
static const int32_t head_biases[DIGIT_CLASSES] = {
$head_biases
};

/* Progress of a layer through an image. */
typedef struct {
    uint16_t weight, channel;  /* indices of its first byte of weights and of its first multiplier */
    uint16_t rows;             /* start of its ring buffer in scratch.rows */
    uint16_t size;             /* bytes of an input row, padding included */
    uint16_t inputs;           /* input channels */
    uint8_t width, height;     /* of the input, padding included */
    uint8_t rows_in, rows_out; /* rows received and rows produced so far */
} State;

static struct {
    int32_t features[FEATURES];
    State states[LAYERS];
    uint32_t filter[FILTER];
    uint8_t rows[ROWS];
} scratch;

typedef char scratch_is_as_large_as_promised[sizeof scratch == DIGIT_RAM ? 1 : -1];

/* Returns floor(value / 2^shift). C leaves >> of a negative number to the compiler. */
#define SHIFTED(value, shift) \
    (-1 >> 1 == -1 || (value) >= 0 ? (value) >> (shift) : ~(~(value) >> (shift)))

/* Returns value limited to 0 to high. */
static int32_t clamped(int32_t value, int32_t high)
{
    return value < 0 ? 0 : value > high ? high : value;
}

/* Returns the side of the receptive field of one output. */
static unsigned window_of(const Layer *layer)
{
    return (unsigned)layer->kernel + (layer->pool - 1u) * layer->stride;
}

/* Returns a row of a layer's input in the ring buffer; rows of padding count. */
static uint8_t *row_of(const State *state, const Layer *layer, unsigned row)
{
    return scratch.rows + state->rows + row % window_of(layer) * state->size;
}

/* Returns the side of the output from the side of the padded input. */
static unsigned outputs_across(unsigned side, const Layer *layer)
{
    return (side - window_of(layer)) / ((unsigned)layer->pool * layer->stride) + 1;
}

/* Returns the number of parts of a row of a filter. */
static unsigned split_of(const Layer *layer)
{
    return layer->fraction / 16u + 1;
}

static void fill(uint8_t *to, uint8_t value, unsigned n)
{
    while (n-- > 0)
        *to++ = value;
}

/* Returns true if this 1x1 layer can read a depthwise layer's output in place. The depthwise layer
 * then overwrites its oldest input row, which no later output needs: an output needs nothing to its
 * left in that row, and the next output row starts below it. */
static int in_place(unsigned l)
{
    return l > 0 && (layers[l - 1].kind & KINDS) == DEPTHWISE && window_of(&layers[l]) == 1;
}

/* Puts every layer before its first row. */
static void reset_layers(void)
{
    unsigned l, height = DIGIT_HEIGHT, width = DIGIT_WIDTH, channels = 1;
    unsigned weight = 0, channel = 0, rows = 0;
    uint8_t border = BORDER;

    for (l = 0; l < LAYERS; l++) {
        const Layer *layer = &layers[l];
        State *state = &scratch.states[l];
        unsigned kind = layer->kind & KINDS;
        unsigned inputs = kind == CONVOLUTION ? channels : 1;
        unsigned filter = (unsigned)layer->kernel * layer->kernel * inputs;

        if (layer->kind & REPEAT) /* a block that begins with a depthwise layer has two layers */
            weight = scratch.states[l - (kind == DEPTHWISE ? 2 : 1)].weight;
        state->weight = (uint16_t)weight;
        state->channel = (uint16_t)channel;
        state->rows = (uint16_t)rows;
        state->inputs = (uint16_t)channels;
        height += 2u * layer->padding;
        width += 2u * layer->padding;
        state->height = (uint8_t)height;
        state->width = (uint8_t)width;
        state->size = (uint16_t)(width * channels);
        state->rows_in = layer->padding;
        state->rows_out = 0;
        if (!in_place(l)) {
            fill(scratch.rows + rows, border, window_of(layer) * state->size);
            rows += window_of(layer) * state->size;
        }
        if (kind != MAX_POOL) /* bytes of all blocks of channels */
            weight += (layer->outputs + BLOCK - 1u) / BLOCK * filter * (BLOCK * BITS / 8);
        if (kind == CONVOLUTION)
            channel += layer->outputs;
        channels = layer->outputs;
        height = outputs_across(height, layer);
        width = outputs_across(width, layer);
        border = layer->zero_point;
    }
}

/* Returns the weight in the lowest BITS bits of a number, its sign extended. */
static uint32_t weight_in(unsigned bits)
{
    return ((bits & ((1u << BITS) - 1)) ^ 1u << (BITS - 1)) - (uint32_t)(1u << (BITS - 1));
}

#if LANES == 2
/* Returns the word of the weights in the lowest BITS bits of either half of a number. */
static uint32_t weights_in(uint32_t bits)
{
    uint32_t sign = 0x00010001u << (BITS - 1);

    return ((bits & (0x00010001u * ((1u << BITS) - 1))) ^ sign) - sign;
}
#else
/* Returns weight i of those in an array. */
static INLINE uint32_t weight_at(const uint8_t *from, unsigned i)
{
    if (BITS == 8)
        return (uint32_t)*((const int8_t *)from + i);
    return weight_in((unsigned)from[i * BITS / 8] >> i * BITS % 8);
}
#endif

#if DSP
/* Unpacks four weights in a row of a channel. */
static INLINE void unpack_four(const uint8_t *from, uint32_t *to)
{
    uint32_t four;

    __builtin_memcpy(&four, from, 4);
    to[0] = (uint32_t)__sxtb16((int8x4_t)four);
    to[1] = (uint32_t)__sxtb16((int8x4_t)(four >> 8));
}

/* Unpacks the filters of a block of channels, n rows of `run` weights. Of four weights in a row, one
 * word holds the first and the third, the next one the second and the fourth. */
static NOINLINE void unpack_block(const uint8_t *from, unsigned n, unsigned run)
{
    uint32_t *to = scratch.filter;
    unsigned i, k;

    for (; n > 0; n--) {
        for (i = run; i >= 4; i -= 4, from += 4 * BLOCK, to += 2 * BLOCK) {
            unpack_four(from, to);
            unpack_four(from + 4, to + 2);
            unpack_four(from + 8, to + 4);
            unpack_four(from + 12, to + 6);
        }
        if (i == 0)
            continue;
        for (k = 0; k < BLOCK; k++, from++, to += 2) {
            to[0] = weight_at(from, 0) & 0xFFFF;
            to[1] = i > 1 ? weight_at(from, BLOCK) & 0xFFFF : 0;
            to[0] |= i > 2 ? weight_at(from, 2 * BLOCK) << 16 : 0;
        }
        from += (i - 1) * BLOCK;
    }
}
#elif LANES == 2
/* Unpacks the filters of a block of channels, n rows of `run` weights: two words for each weight. */
static NOINLINE void unpack_block(const uint8_t *from, unsigned n, unsigned run)
{
    uint32_t *to = scratch.filter;

    for (n *= run; n > 0; n--, to += 2) {
#if BITS == 4
        unsigned low = *from++, high = *from++;

        to[0] = weights_in(low | low << 12);
        to[1] = weights_in(high | high << 12);
#else
        unsigned four = *from++;

        to[0] = weights_in(four | four << 14);
        to[1] = weights_in(four >> 4 | four << 10);
#endif
    }
}
#else
/* Unpacks the filters of a block of channels, n rows of `run` weights: four words for each weight. */
static NOINLINE void unpack_block(const uint8_t *from, unsigned n, unsigned run)
{
    uint32_t *to = scratch.filter;
    unsigned i, k;

    for (; n > 0; n--) {
        for (i = run; i >= 4; i -= 4, to += 4 * BLOCK - BLOCK)
            for (k = 0; k < BLOCK; k++, from += 4 * BITS / 8, to++) {
                to[0] = weight_at(from, 0);
                to[BLOCK] = weight_at(from, 1);
                to[2 * BLOCK] = weight_at(from, 2);
                to[3 * BLOCK] = weight_at(from, 3);
            }
        for (; i > 0; i--, from += BLOCK * BITS / 8)
            for (k = 0; k < BLOCK; k++)
                *to++ = weight_at(from, k);
    }
}
#endif

/* Unpacks the filter of a depthwise layer's channel. With two lanes a word is the weight of an input
 * for an output and for the next one, `stride` to the right. */
static NOINLINE void unpack_depthwise(const Layer *layer, const uint8_t *from, unsigned channel)
{
    unsigned kernel = layer->kernel, stride = layer->stride, shift = channel % BLOCK * BITS, x, y;
    uint32_t *to = scratch.filter;

    from += channel / BLOCK * kernel * kernel * (BLOCK * BITS / 8) + shift / 8;
    for (y = 0; y < kernel; y++) {
        if (LANES == 2)
            for (x = 0; x < stride; x++)
                to[x] = 0;
        for (x = 0; x < kernel; x++, to++, from += BLOCK * BITS / 8) {
            uint32_t weight = weight_in((unsigned)*from >> shift % 8);

            if (LANES == 2) {
                to[0] += weight;
                to[stride] = weight << 16;
            } else
                to[0] = weight;
        }
        to += LANES == 2 ? stride : 0;
    }
}

/* Where the windows of a row of outputs lie in the input. */
typedef struct {
    const uint8_t *const *parts;  /* first input row, each row in parts of equal length */
    unsigned n_parts;             /* of a window */
    unsigned eights, rest;        /* inputs of a part: a multiple of 8, and the rest */
    unsigned hop;                 /* bytes from a window to the next */
    unsigned group;               /* parts after which lanes are taken apart */
    int32_t start;                /* what makes up for the 2^15 in each lane whenever they are */
    int replace;                  /* 1: sums are written; 0: where they are larger than before */
} Windows;

#define NO_SUMS (LANES == 2 ? 0x80008000u : 0u) /* lanes hold sums plus 2^15: never negative */
#define LOW_LANE(sums) ((int32_t)((sums) & 0xFFFF))
#define HIGH_LANE(sums) ((int32_t)((sums) >> 16))

#if LANES == 2
/* Adds the sums in the lanes of two words. */
static INLINE void take_apart(uint32_t *one, uint32_t *other, int32_t *sums)
{
    sums[0] += LOW_LANE(*one);
    sums[1] += HIGH_LANE(*one);
    sums[2] += LOW_LANE(*other);
    sums[3] += HIGH_LANE(*other);
    *one = *other = NO_SUMS;
}
#endif

/* Puts the sums of a window, or the larger of each and of what is there. */
static INLINE void put_sums(const int32_t *sums, int32_t *to, int replace)
{
    unsigned k;

    if (replace)
        for (k = 0; k < BLOCK; k++)
            to[k * BATCH] = sums[k];
    else
        for (k = 0; k < BLOCK; k++)
            if (sums[k] > to[k * BATCH])
                to[k * BATCH] = sums[k];
}

#if DSP
/* Adds the products of four activations in a row, for one channel and for all. */
#define STEP(sum, k) \
    { \
        uint32_t one = filter[2 * (k)], other = filter[2 * (k) + 1]; \
        KEEP(one, other); /* one instruction loads both */ \
        sum = __smlad((int16x2_t)even, (int16x2_t)one, sum); \
        sum = __smlad((int16x2_t)odd, (int16x2_t)other, sum); \
    }
#define FOUR_STEPS \
    { \
        uint32_t odd, even; \
        __builtin_memcpy(&odd, from, 4); \
        even = __uxtb16(odd); \
        odd = __uxtb16(odd >> 8); \
        STEP(a, 0) STEP(b, 1) STEP(c, 2) STEP(d, 3) \
        from += 4; \
        filter += 2 * BLOCK; \
        KEEP(from, filter); \
    }

/* Computes the sums of n outputs in a row for a block of channels: equation (1). The first window
 * begins at index `at` of its parts. Up to three bytes are read behind a part, for weights of 0. */
static NOINLINE void add_windows(const Windows *windows, unsigned at, unsigned n, int32_t *sums)
{
    unsigned x;

    for (x = 0; x < n; x++, at += windows->hop) {
        const uint8_t *const *part = windows->parts, *const *end = part + windows->n_parts;
        const uint32_t *filter = scratch.filter;
        int32_t totals[BLOCK], a = 0, b = 0, c = 0, d = 0;

        while (part < end) {
            const uint8_t *from = *part++ + at, *stop = from + windows->eights;

            while (from < stop) {
                FOUR_STEPS
                FOUR_STEPS
            }
            stop += windows->rest;
            while (from < stop)
                FOUR_STEPS
        }
        totals[0] = a;
        totals[1] = b;
        totals[2] = c;
        totals[3] = d;
        put_sums(totals, &sums[x], windows->replace);
    }
}
#else
/* Adds the products of one activation for each of PIXELS windows. */
#if LANES == 1
#define STEP(i) \
    { \
        uint32_t activation = from[i]; \
        a += activation * filter[4 * (i)]; \
        b += activation * filter[4 * (i) + 1]; \
        KEEP(a, b); \
        c += activation * filter[4 * (i) + 2]; \
        d += activation * filter[4 * (i) + 3]; \
        KEEP(c, d); \
    }
#elif PIXELS == 2
#define STEP(i) \
    { \
        uint32_t left = from[i], right = from[(i) + hop], one = filter[2 * (i)]; \
        uint32_t other = filter[2 * (i) + 1]; \
        a += left * one; \
        b += left * other; \
        KEEP(a, b); \
        c += right * one; \
        d += right * other; \
        KEEP(c, d); \
    }
#else
#define STEP(i) \
    { \
        uint32_t activation = from[i]; \
        a += activation * filter[2 * (i)]; \
        b += activation * filter[2 * (i) + 1]; \
        KEEP(a, b); \
    }
#endif

/* Computes the sums of n outputs in a row for a block of channels: equation (1). The first window
 * begins at index `at` of its parts. */
static INLINE void add_each(const Windows *windows, unsigned at, unsigned n, int32_t *sums,
                            int is_first)
{
    unsigned x;

    for (x = 0; x < n; x += PIXELS, at += PIXELS * windows->hop) {
        const uint8_t *const *part = windows->parts, *const *end = part + windows->n_parts;
        const uint32_t *filter = scratch.filter;
        uint32_t a = NO_SUMS, b = NO_SUMS;
#if LANES == 1 || PIXELS == 2
        uint32_t c = NO_SUMS, d = NO_SUMS;
#endif
#if LANES == 2
        int32_t start = windows->start, totals[PIXELS][BLOCK];
        unsigned group = windows->group, k;

        for (k = 0; k < BLOCK; k++)
            totals[0][k] = totals[PIXELS - 1][k] = start;
#endif
#if PIXELS == 2
        unsigned hop = x + 1 < n ? windows->hop : 0; /* the last of an odd number is alone */
#endif

        while (part < end) {
            const uint8_t *from = *part++ + at;

            if (is_first) {
#ifdef FIRST_STEPS
                FIRST_STEPS
                filter += WORDS * FIRST_RUN;
#endif
            } else {
                const uint8_t *stop = from + windows->eights;

                while (from < stop) {
                    STEP(0) STEP(1) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6) STEP(7)
                    from += 8;
                    filter += 8 * WORDS;
                    KEEP(from, filter);
                }
                stop += windows->rest;
                while (from < stop) {
                    STEP(0)
                    from++;
                    filter += WORDS;
                    KEEP(from, filter);
                }
            }
#if LANES == 2
            if (--group == 0 || part == end) {
                take_apart(&a, &b, totals[0]);
#if PIXELS == 2
                take_apart(&c, &d, totals[1]);
#endif
                group = windows->group;
            }
#endif
        }
#if LANES == 2
        put_sums(totals[0], &sums[x], windows->replace);
#if PIXELS == 2
        put_sums(totals[1], &sums[x + 1], windows->replace);
#endif
#else
        {
            int32_t totals[BLOCK] = {(int32_t)a, (int32_t)b, (int32_t)c, (int32_t)d};

            put_sums(totals, &sums[x], windows->replace);
        }
#endif
    }
}

#ifdef FIRST_STEPS
static NOINLINE void add_windows_of_first(const Windows *windows, unsigned at, unsigned n,
                                          int32_t *sums)
{
    add_each(windows, at, n, sums, 1);
}
#endif

static NOINLINE void add_windows(const Windows *windows, unsigned at, unsigned n, int32_t *sums)
{
    add_each(windows, at, n, sums, 0);
}
#endif

#if WIDE
/* Writes the results of n sums, 0 to 255: equations (2) to (4) of the Python reference, of a
 * depthwise layer (4). They go to to[0], to[hop] ... */
static NOINLINE void put_results(int32_t *sums, unsigned n, const Layer *layer, unsigned channel,
                                 uint8_t *to, unsigned hop)
{
    int64_t most = (int64_t)6 << (layer->fraction & 15), half = (int64_t)1 << layer->out_shift >> 1;

    for (; n > 0; n--, to += hop) {
        int64_t value = *sums++;

        if ((layer->kind & KINDS) == CONVOLUTION) {
            value = SHIFTED(value * multipliers[channel], layer->shift) + biases[channel];
            if (HARDSWISH) {
                int64_t gate = value + most / 2;

                value *= gate < 0 ? 0 : gate > most ? most : gate;
            }
        }
        value = value * layer->out_multiplier + half;
        value = SHIFTED(value, layer->out_shift) + layer->zero_point;
        *to = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
    }
}
#else
/* Puts n sums of a channel through equations (2) and (3) of the Python reference. */
static NOINLINE void activate(int32_t *sums, unsigned n, const Layer *layer, unsigned channel)
{
    int32_t multiplier = multipliers[channel], bias = biases[channel];
    int32_t half = 3 << (layer->fraction & 15);
    unsigned shift = layer->shift - (unsigned)SPLIT;

    for (; n > 0; n--) {
        int32_t sum = *sums, low = sum & ((1 << SPLIT) - 1), value = SHIFTED(sum, SPLIT);

        value = value * multiplier + SHIFTED(low * multiplier, SPLIT);
        value = SHIFTED(value, shift) + bias;
        if (HARDSWISH) {
            int32_t gate = value + half;

            if (gate <= 0)
                gate = 0;
            else if (gate > 2 * half)
                gate = 2 * half;
            if (value > 87381) /* the product stays below 2^31, and the result is 255 anyway */
                value = 87381;
            value *= gate;
        }
        *sums++ = value;
    }
}

/* Writes the results of n values, 0 to 255: equation (4). They go to to[0], to[hop] ... */
static NOINLINE void requantise(const int32_t *values, unsigned n, const Layer *layer, uint8_t *to,
                                unsigned hop)
{
    int32_t multiplier = layer->out_multiplier;
    unsigned shift = layer->out_shift - 16u;
    int32_t added = ((int32_t)1 << shift >> 1) + ((int32_t)layer->zero_point << shift);

    for (; n > 0; n--, to += hop) {
        int32_t value = *values++;
        uint32_t low = (uint32_t)(value & 0xFFFF) * (uint32_t)multiplier;

        value = SHIFTED(value, 16) * multiplier + (int32_t)(low >> 16) + added;
        value = SHIFTED(value, shift);
        if ((uint32_t)value > 255)
            value = value < 0 ? 0 : 255;
        *to = (uint8_t)value;
    }
}
#endif

/* Puts the results of n sums of a channel into outputs x, x + 1 ... of a row; where there is no row,
 * behind the last layer, adds them to the features. */
static void put_channel(int32_t *sums, unsigned n, unsigned l, unsigned channel, unsigned x,
                        uint8_t *to)
{
    const Layer *layer = &layers[l];
    uint8_t results[BATCH];
    unsigned outputs = layer->outputs, hop = outputs, i;
    uint8_t *at = to ? to + x * outputs + channel : results;

    if (!to)
        hop = 1;
#if WIDE
    put_results(sums, n, layer, scratch.states[l].channel + channel, at, hop);
#else
    if ((layer->kind & KINDS) == CONVOLUTION)
        activate(sums, n, layer, scratch.states[l].channel + channel);
    requantise(sums, n, layer, at, hop);
#endif
    if (!to)
        for (i = 0; i < n; i++)
            scratch.features[channel] += results[i];
}

/* Computes a row of a convolution's output. */
static void convolve(unsigned l, const uint8_t *const *parts, unsigned across, uint8_t *to)
{
    const Layer *layer = &layers[l];
    const State *state = &scratch.states[l];
    unsigned inputs = state->inputs, step = (unsigned)layer->pool * layer->stride;
    unsigned run = (unsigned)layer->kernel * inputs, split = split_of(layer);
    unsigned filter = run * layer->kernel, c, x, k, n, my, mx;
    const uint8_t *from = weights + state->weight;
    int32_t sums[BLOCK * BATCH];
    Windows windows;

    windows.n_parts = layer->kernel * split;
    windows.rest = run / split % 8;
    windows.eights = run / split - windows.rest;
    windows.hop = step * inputs;
    windows.group = layer->kind / GROUP;
    windows.start = 0;
    if (LANES == 2)
        windows.start = -0x8000 * (int32_t)((windows.n_parts - 1) / windows.group + 1);
    for (c = 0; c < layer->outputs; c += BLOCK, from += filter * (BLOCK * BITS / 8)) {
        unpack_block(from, layer->kernel, run);
        for (x = 0; x < across; x += n) {
            n = across - x < BATCH ? across - x : BATCH;
            for (my = 0; my < layer->pool; my++)
                for (mx = 0; mx < layer->pool; mx++) {
                    unsigned at = (x * step + mx * layer->stride) * inputs;

                    windows.replace = my + mx == 0;
                    windows.parts = parts + my * layer->stride * split;
#if defined(FIRST_STEPS) && !DSP
                    if (l == 0)
                        add_windows_of_first(&windows, at, n, sums);
                    else
#endif
                        add_windows(&windows, at, n, sums);
                }
            for (k = 0; k < BLOCK && c + k < layer->outputs; k++)
                put_channel(&sums[k * BATCH], n, l, c + k, x, to);
        }
    }
}

/* Adds the product of activation i in row y of a depthwise layer's window. */
#define DEPTHWISE_ROW(y) from = rows[y] + at;
#define DEPTHWISE_STEP(i) \
    sum += *from * filter[i]; \
    from += channels;

/* Computes n sums of a depthwise layer's channel in a row: equation (1), LANES at a time. The first
 * window begins at index `at` of its rows. If n is odd, it computes one more, of which the exporter
 * knows that it lies within scratch.rows. */
static NOINLINE void add_depthwise(const uint8_t *const *rows, unsigned at, unsigned n,
                                   const Layer *layer, int32_t *sums)
{
    unsigned channels = layer->outputs, hop = LANES * layer->stride * channels;
    const int32_t *end = sums + n;

    for (; sums < end; sums += LANES, at += hop) {
        const uint32_t *filter = scratch.filter;
        const uint8_t *from;
        uint32_t sum = NO_SUMS;

#ifdef DEPTHWISE_STEPS
        DEPTHWISE_STEPS
        if (LANES == 2) {
            sums[0] = LOW_LANE(sum) - 0x8000;
            sums[LANES - 1] = HIGH_LANE(sum) - 0x8000;
        }
#else
        unsigned group = layer->kind / GROUP, x, y;

        sums[0] = 0;
        sums[LANES - 1] = 0;
        for (y = 0; y < layer->kernel; y++) {
            DEPTHWISE_ROW(y)
            for (x = layer->kernel + (LANES == 2 ? layer->stride : 0u); x > 0; x--, filter++) {
                DEPTHWISE_STEP(0)
            }
            if (LANES == 2 && (--group == 0 || y + 1 == layer->kernel)) {
                sums[0] += LOW_LANE(sum) - 0x8000;
                sums[LANES - 1] += HIGH_LANE(sum) - 0x8000;
                sum = NO_SUMS;
                group = layer->kind / GROUP;
            }
        }
#endif
        if (LANES == 1)
            *sums = (int32_t)sum;
    }
}

/* Computes a row of a depthwise layer's output. */
static void convolve_depthwise(unsigned l, const uint8_t *const *row, unsigned across, uint8_t *to)
{
    const Layer *layer = &layers[l];
    unsigned channels = layer->outputs, c, x, n;
    int32_t sums[BATCH];

    for (c = 0; c < channels; c++) {
        unpack_depthwise(layer, weights + scratch.states[l].weight, c);
        for (x = 0; x < across; x += n) {
            n = across - x < BATCH ? across - x : BATCH;
            add_depthwise(row, x * layer->stride * channels + c, n, layer, sums);
            put_channel(sums, n, l, c, x, to);
        }
    }
}

#if POOLS
/* Computes a row of the output of a layer that only pools. */
static void pool(unsigned l, const uint8_t *const *row, unsigned across, uint8_t *to)
{
    const Layer *layer = &layers[l];
    unsigned channels = layer->outputs, size = layer->pool, c, x, y, i;

    for (x = 0; x < across; x++)
        for (c = 0; c < channels; c++) {
            uint8_t largest = 0;

            for (y = 0; y < size; y++)
                for (i = 0; i < size; i++) {
                    uint8_t input = row[y][(x * size + i) * channels + c];

                    if (input > largest)
                        largest = input;
                }
            if (to)
                to[x * channels + c] = largest;
            else
                scratch.features[c] += largest;
        }
}
#endif

/* Computes the next row of a layer's output. The row goes to the next layer's ring buffer; the last
 * layer adds it to the features. */
static void compute_row(unsigned l)
{
    const Layer *layer = &layers[l];
    State *state = &scratch.states[l];
    unsigned kind = layer->kind & KINDS, step = (unsigned)layer->pool * layer->stride, y;
    unsigned across = outputs_across(state->width, layer);
    unsigned split = split_of(layer), part = layer->kernel * state->inputs / split, i;
    const uint8_t *parts[PARTS];
    uint8_t *to = 0;

    for (y = 0; y < window_of(layer); y++)
        for (i = 0; i < split; i++)
            parts[y * split + i] = row_of(state, layer, state->rows_out * step + y) + i * part;
    if (l + 1 < LAYERS) {
        State *next = &scratch.states[l + 1];
        if (in_place(l + 1))
            next->rows = (uint16_t)(parts[0] - scratch.rows);
        to = row_of(next, layer + 1, next->rows_in);
        if (layer[1].padding) /* a depthwise layer may have overwritten the padding */
            fill(to, layer->zero_point, next->size);
        to += (unsigned)layer[1].padding * layer->outputs;
        next->rows_in++;
    }
    if (kind == CONVOLUTION)
        convolve(l, parts, across, to);
    else if (kind == DEPTHWISE)
        convolve_depthwise(l, parts, across, to);
#if POOLS
    else
        pool(l, parts, across, to);
#endif
    state->rows_out++;
}

/* Adds the features of the image at one shift: pixel (y, x) is image[y + dy][x + dx]. The image's
 * border is repeated beyond it. */
static void add_features(const uint8_t *image, int dy, int dx)
{
    unsigned l, fed_rows = 0;

    reset_layers();
    /* Of all layers that can proceed the last one does: no row is overwritten before it is used. */
    for (l = 1; l > 0;) {
        const Layer *layer = &layers[--l];
        State *state = &scratch.states[l];
        unsigned first = (unsigned)state->rows_out * layer->pool * layer->stride;

        if (state->rows_in >= first + window_of(layer)) { /* all rows of its window are there */
            compute_row(l);
            l = l + 2 < LAYERS ? l + 2 : LAYERS;
        } else if (state->rows_in < state->height
                   && state->rows_in >= state->height - layer->padding) { /* padding below */
            uint8_t zero_point = l ? layer[-1].zero_point : BORDER;

            fill(row_of(state, layer, state->rows_in), zero_point, state->size);
            state->rows_in++;
            l++;
        } else if (l == 0 && fed_rows < DIGIT_HEIGHT) {
            int32_t y = clamped((int)fed_rows + dy, DIGIT_HEIGHT - 1);
            const uint8_t *from = image + y * DIGIT_WIDTH;
            uint8_t *to = row_of(state, layer, state->rows_in);
            int32_t x;

            fill(to, BORDER, state->size);
            to += layer->padding;
            for (x = 0; x < DIGIT_WIDTH; x++)
                to[x] = from[clamped(x + dx, DIGIT_WIDTH - 1)];
            state->rows_in++;
            fed_rows++;
            l++;
        }
    }
}

int digit_read(const uint8_t image[DIGIT_HEIGHT * DIGIT_WIDTH], int32_t scores[DIGIT_CLASSES])
{
    int dy, dx, best = 0, k, c;

    for (c = 0; c < FEATURES; c++)
        scratch.features[c] = 0;
    for (dy = FIRST_SHIFT; dy < FIRST_SHIFT + SHIFTS; dy++)
        for (dx = FIRST_SHIFT; dx < FIRST_SHIFT + SHIFTS; dx++)
            add_features(image, dy, dx);
    for (k = 0; k < DIGIT_CLASSES; k++) {
        scores[k] = head_biases[k];
        for (c = 0; c < FEATURES; c++)
            scores[k] += head[k * FEATURES + c] * scratch.features[c];
        if (scores[k] > scores[best])
            best = k;
    }
    return best;
}
