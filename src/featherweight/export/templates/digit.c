/* Made by featherweight $version; do not edit. Integers alone: no sum exceeds 32 bits, no product 64. */
#include "digit.h"

#define LAYERS $layers
#define FEATURES $features /* channels of the last layer */
#define FILTER $filter /* most weights of one filter */
#define WINDOW $window /* most rows that one output rests on */
#define ROWS $rows /* bytes of all layers' rows */
#define BITS $bits /* of a layer's weight */
#define HARDSWISH $hardswish /* 1: the activation is hardswish; 0: ReLU */
#define FIRST_MOVE $first_move /* the image is moved from so many pixels */
#define MOVES $moves /* by so many, either way, and what is seen of all is added */
#define BORDER $border /* value that stands for 0 in an image */

#ifdef __GNUC__
#define APART __attribute__((noinline)) /* within another function it is short of registers, and half as fast */
#else
#define APART
#endif

enum { CONVOLUTION, DEPTHWISE, MAXIMUM, REPEAT = 4 }; /* REPEAT: the weights of the block before once more */

typedef struct {
    uint8_t kind, kernel, stride, padding, maximum, outputs, shift, fraction, out_shift, zero;
    uint16_t multiplier;
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

/* Where a layer is in an image. */
typedef struct {
    uint16_t weight, channel; /* its first ones */
    uint16_t rows;            /* its first byte: a ring of the rows that one output rests on */
    uint16_t size;            /* bytes of a row, padding included */
    uint16_t inputs;          /* channels */
    uint8_t width, height;    /* of its input, padding included */
    uint8_t got, given;       /* rows */
} State;

static struct {
    int32_t features[FEATURES];
    State states[LAYERS];
    int8_t filter[FILTER];
    uint8_t rows[ROWS];
} scratch;

typedef char scratch_is_as_large_as_promised[sizeof scratch == DIGIT_RAM ? 1 : -1];

/* floor(value / 2^shift); >> of a negative number is up to the compiler. */
static int64_t shifted(int64_t value, unsigned shift)
{
    return value < 0 ? ~(~value >> shift) : value >> shift;
}

static int64_t clamped(int64_t value, int64_t most)
{
    return value < 0 ? 0 : value > most ? most : value;
}

static unsigned window_of(const Layer *layer)
{
    return (unsigned)layer->kernel + (layer->maximum - 1u) * layer->stride;
}

/* The row of a layer's input, counted with padding. */
static uint8_t *row_of(const State *state, const Layer *layer, unsigned row)
{
    return scratch.rows + state->rows + row % window_of(layer) * state->size;
}

static unsigned outputs_across(unsigned side, const Layer *layer)
{
    return (side - window_of(layer)) / ((unsigned)layer->maximum * layer->stride) + 1;
}

static void fill(uint8_t *to, uint8_t value, unsigned n)
{
    while (n-- > 0)
        *to++ = value;
}

/* Whether a layer needs one row, of a depthwise layer, which writes it over its own oldest one: an output needs nothing
 * to its left there, and the next row nothing of it. */
static int in_place(unsigned l)
{
    return l > 0 && (layers[l - 1].kind & 3u) == DEPTHWISE && window_of(&layers[l]) == 1;
}

/* Every layer before its first row. */
static void start(void)
{
    unsigned l, height = DIGIT_HEIGHT, width = DIGIT_WIDTH, channels = 1, weight = 0, channel = 0, rows = 0;
    uint8_t border = BORDER;

    for (l = 0; l < LAYERS; l++) {
        const Layer *layer = &layers[l];
        State *state = &scratch.states[l];
        unsigned kind = layer->kind & 3u;
        unsigned filter = (unsigned)layer->kernel * layer->kernel * (kind == CONVOLUTION ? channels : 1);

        if (layer->kind & REPEAT) /* a block that begins with a depthwise layer has two */
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
        state->got = layer->padding;
        state->given = 0;
        if (!in_place(l)) {
            fill(scratch.rows + rows, border, window_of(layer) * state->size);
            rows += window_of(layer) * state->size;
        }
        if (kind != MAXIMUM)
            weight += filter * layer->outputs;
        if (kind == CONVOLUTION)
            channel += layer->outputs;
        channels = layer->outputs;
        height = outputs_across(height, layer);
        width = outputs_across(width, layer);
        border = layer->zero;
    }
}

static int8_t weight_at(uint32_t i)
{
    unsigned bits = (unsigned)weights[i * BITS / 8] >> i * BITS % 8 & ((1u << BITS) - 1);

    return (int8_t)((int)(bits ^ 1u << (BITS - 1)) - (1 << (BITS - 1)));
}

/* A sum of products as an output of 0 to 255. */
static uint8_t result_of(int64_t value, const Layer *layer, unsigned channel)
{
    if ((layer->kind & 3u) == MAXIMUM)
        return (uint8_t)value;
    if ((layer->kind & 3u) == CONVOLUTION) {
        value = shifted(value * multipliers[channel], layer->shift) + biases[channel];
        if (HARDSWISH)
            value *= clamped(value + (3 << layer->fraction), 6 << layer->fraction);
    }
    value = shifted(value * layer->multiplier + ((int64_t)1 << layer->out_shift >> 1), layer->out_shift);
    return (uint8_t)clamped(value + layer->zero, 255);
}

/* The filter times the inputs under it, which begin at the same place of each row; hop: from one to the next. */
static APART int32_t sum_of(const uint8_t *const *row, unsigned at, unsigned hop, unsigned kernel, unsigned run)
{
    const int8_t *weight = scratch.filter;
    int32_t sum = 0;
    unsigned i;

    for (; kernel > 0; kernel--) {
        const uint8_t *from = *row++ + at;

        for (i = run; i > 0; i--, from += hop)
            sum += *from * *weight++;
    }
    return sum;
}

/* The next row of a layer's output, into the next layer's rows or, from the last layer, into the features. */
static void give(unsigned l)
{
    const Layer *layer = &layers[l];
    State *state = &scratch.states[l];
    unsigned kind = layer->kind & 3u, hop = kind == CONVOLUTION ? 1 : state->inputs;
    unsigned run = kind == CONVOLUTION ? (unsigned)layer->kernel * state->inputs : layer->kernel;
    unsigned filter = run * layer->kernel, step = (unsigned)layer->maximum * layer->stride;
    unsigned across = outputs_across(state->width, layer), c, x, y, i, my, mx;
    const uint8_t *row[WINDOW];
    uint8_t *to = 0;

    for (y = 0; y < window_of(layer); y++)
        row[y] = row_of(state, layer, state->given * step + y);
    if (l + 1 < LAYERS) {
        State *next = &scratch.states[l + 1];
        if (in_place(l + 1))
            next->rows = (uint16_t)(row[0] - scratch.rows);
        to = row_of(next, layer + 1, next->got);
        if (layer[1].padding) /* which a depthwise layer has written over */
            fill(to, layer->zero, next->size);
        to += (unsigned)layer[1].padding * layer->outputs;
        next->got++;
    }
    for (c = 0; c < layer->outputs; c++) {
        for (i = 0; i < filter; i++)
            scratch.filter[i] = kind == MAXIMUM ? 1 : weight_at(state->weight + c * filter + i);
        for (x = 0; x < across; x++) {
            int32_t best = INT32_MIN;
            uint8_t result;

            for (my = 0; my < layer->maximum; my++)
                for (mx = 0; mx < layer->maximum; mx++) {
                    unsigned at = (x * step + mx * layer->stride) * state->inputs + (kind == CONVOLUTION ? 0 : c);
                    int32_t sum = sum_of(row + my * layer->stride, at, hop, layer->kernel, run);

                    if (sum > best)
                        best = sum;
                }
            result = result_of(best, layer, state->channel + c);
            if (to)
                to[x * layer->outputs + c] = result;
            else
                scratch.features[c] += result;
        }
    }
    state->given++;
}

/* Adds what is seen of the image, moved down by dy and right by dx, to the features. */
static void look(const uint8_t *image, int dy, int dx)
{
    unsigned l, fed = 0;

    start();
    /* The last layer that can go on does, so that no row is overwritten before it was used. */
    for (l = 1; l > 0;) {
        const Layer *layer = &layers[--l];
        State *state = &scratch.states[l];

        if (state->got >= (unsigned)state->given * layer->maximum * layer->stride + window_of(layer)) {
            give(l);
            l = l + 2 < LAYERS ? l + 2 : LAYERS;
        } else if (state->got < state->height && state->got >= state->height - layer->padding) {
            fill(row_of(state, layer, state->got), l ? layer[-1].zero : BORDER, state->size);
            state->got++;
            l++;
        } else if (l == 0 && fed < DIGIT_HEIGHT) {
            const uint8_t *from = image + clamped((int)fed + dy, DIGIT_HEIGHT - 1) * DIGIT_WIDTH;
            uint8_t *to = row_of(state, layer, state->got);
            int x;

            fill(to, BORDER, state->size);
            to += layer->padding;
            for (x = 0; x < DIGIT_WIDTH; x++)
                to[x] = from[clamped(x + dx, DIGIT_WIDTH - 1)];
            state->got++;
            fed++;
            l++;
        }
    }
}

int digit_read(const uint8_t image[DIGIT_HEIGHT * DIGIT_WIDTH], int32_t scores[DIGIT_CLASSES])
{
    int dy, dx, best = 0, k, c;

    for (c = 0; c < FEATURES; c++)
        scratch.features[c] = 0;
    for (dy = FIRST_MOVE; dy < FIRST_MOVE + MOVES; dy++)
        for (dx = FIRST_MOVE; dx < FIRST_MOVE + MOVES; dx++)
            look(image, dy, dx);
    for (k = 0; k < DIGIT_CLASSES; k++) {
        scores[k] = head_biases[k];
        for (c = 0; c < FEATURES; c++)
            scores[k] += head[k * FEATURES + c] * scratch.features[c];
        if (scores[k] > scores[best])
            best = k;
    }
    return best;
}
