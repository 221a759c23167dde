/* Made by featherweight $version; do not edit.
 *
 * It uses integers only: sums fit 32 bits, products 64.
 * Layers are computed row by row. Each keeps only the rows of its input that one row of its output
 * needs, in a ring buffer. */
#include "digit.h"

#define LAYERS $layers
#define FEATURES $features /* channels of the last layer */
#define FILTER $filter /* weights of the largest filter */
#define WINDOW $window /* rows of the largest receptive field of a layer */
#define ROWS $rows /* bytes of the ring buffers of all layers */
#define BITS $bits /* bits of a layer's weight */
#define HARDSWISH $hardswish /* 1: the activation is hardswish; 0: ReLU */
#define FIRST_SHIFT $first_shift /* smallest shift of the image in pixels, down and to the right */
#define SHIFTS $shifts /* number of shifts in each direction; features are added over all pairs */
#define BORDER $border /* value of a pixel that stands for 0 */

#ifdef __GNUC__
/* Inlined, the inner loop runs out of registers and takes twice as long. */
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE
#endif

/* REPEAT: the block uses the weights of the block before it. */
enum { CONVOLUTION, DEPTHWISE, MAX_POOL, REPEAT = 4 };

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
    uint16_t weight, channel;  /* indices of its first weight and of its first multiplier */
    uint16_t rows;             /* start of its ring buffer in scratch.rows */
    uint16_t size;             /* bytes of an input row, padding included */
    uint16_t inputs;           /* input channels */
    uint8_t width, height;     /* of the input, padding included */
    uint8_t rows_in, rows_out; /* rows received and rows produced so far */
} State;

static struct {
    int32_t features[FEATURES];
    State states[LAYERS];
    int8_t filter[FILTER];
    uint8_t rows[ROWS];
} scratch;

typedef char scratch_is_as_large_as_promised[sizeof scratch == DIGIT_RAM ? 1 : -1];

/* Returns floor(value / 2^shift). C leaves >> of a negative number to the compiler. */
static int64_t shifted(int64_t value, unsigned shift)
{
    return value < 0 ? ~(~value >> shift) : value >> shift;
}

/* Returns value limited to 0 to high. */
static int64_t clamped(int64_t value, int64_t high)
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
    return l > 0 && (layers[l - 1].kind & 3u) == DEPTHWISE && window_of(&layers[l]) == 1;
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
        unsigned kind = layer->kind & 3u;
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
        if (kind != MAX_POOL)
            weight += filter * layer->outputs;
        if (kind == CONVOLUTION)
            channel += layer->outputs;
        channels = layer->outputs;
        height = outputs_across(height, layer);
        width = outputs_across(width, layer);
        border = layer->zero_point;
    }
}

/* Unpacks a weight of BITS bits and extends its sign. */
static int8_t weight_at(uint32_t i)
{
    unsigned bits = (unsigned)weights[i * BITS / 8] >> i * BITS % 8 & ((1u << BITS) - 1);

    return (int8_t)((int)(bits ^ 1u << (BITS - 1)) - (1 << (BITS - 1)));
}

/* Returns the output, 0 to 255, of a sum: equations (2) to (4) of the Python reference. */
static uint8_t result_of(int64_t value, const Layer *layer, unsigned channel)
{
    if ((layer->kind & 3u) == MAX_POOL)
        return (uint8_t)value;
    if ((layer->kind & 3u) == CONVOLUTION) {
        value = shifted(value * multipliers[channel], layer->shift) + biases[channel];
        if (HARDSWISH)
            value *= clamped(value + (3 << layer->fraction), 6 << layer->fraction);
    }
    value = value * layer->out_multiplier + ((int64_t)1 << layer->out_shift >> 1);
    value = shifted(value, layer->out_shift);
    return (uint8_t)clamped(value + layer->zero_point, 255);
}

/* Returns the dot product of scratch.filter with the input under it: equation (1). The inputs begin
 * at index `at` of each of `kernel` rows, and are `run` numbers with a stride of `hop`. */
static NOINLINE int32_t sum_of(const uint8_t *const *row, unsigned at, unsigned hop,
                               unsigned kernel, unsigned run)
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

/* Computes the next row of a layer's output. The row goes to the next layer's ring buffer; the last
 * layer adds it to the features. */
static void compute_row(unsigned l)
{
    const Layer *layer = &layers[l];
    State *state = &scratch.states[l];
    unsigned kind = layer->kind & 3u, hop = kind == CONVOLUTION ? 1 : state->inputs;
    unsigned run = kind == CONVOLUTION ? (unsigned)layer->kernel * state->inputs : layer->kernel;
    unsigned filter = run * layer->kernel, step = (unsigned)layer->pool * layer->stride;
    unsigned across = outputs_across(state->width, layer), c, x, y, i, my, mx;
    const uint8_t *row[WINDOW];
    uint8_t *to = 0;

    for (y = 0; y < window_of(layer); y++)
        row[y] = row_of(state, layer, state->rows_out * step + y);
    if (l + 1 < LAYERS) {
        State *next = &scratch.states[l + 1];
        if (in_place(l + 1))
            next->rows = (uint16_t)(row[0] - scratch.rows);
        to = row_of(next, layer + 1, next->rows_in);
        if (layer[1].padding) /* a depthwise layer may have overwritten the padding */
            fill(to, layer->zero_point, next->size);
        to += (unsigned)layer[1].padding * layer->outputs;
        next->rows_in++;
    }
    for (c = 0; c < layer->outputs; c++) {
        for (i = 0; i < filter; i++)
            scratch.filter[i] = kind == MAX_POOL ? 1 : weight_at(state->weight + c * filter + i);
        for (x = 0; x < across; x++) {
            int32_t best = INT32_MIN;
            uint8_t result;

            for (my = 0; my < layer->pool; my++)
                for (mx = 0; mx < layer->pool; mx++) {
                    unsigned at = (x * step + mx * layer->stride) * state->inputs
                                  + (kind == CONVOLUTION ? 0 : c);
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
            int64_t y = clamped((int)fed_rows + dy, DIGIT_HEIGHT - 1);
            const uint8_t *from = image + y * DIGIT_WIDTH;
            uint8_t *to = row_of(state, layer, state->rows_in);
            int x;

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
