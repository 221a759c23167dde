/* Made by featherweight $version. Returns exactly the images of its definition in Python,
 * featherweight.export.prepare, which says what each step is for. */
#include "prepare.h"

/* Processors of 8 and 16 bits are refused: sums of int would overflow. */
typedef char int_has_at_least_32_bits[sizeof(int) >= 4 ? 1 : -1];

#define BLOCKS $blocks
#define MAX_PARTS $max_parts

/* Of a component: the number of its pixels, the sums of their columns and rows, and their left and
 * upper edges; then the largest -column, -row, column and row. */
enum { AREA, SUM_X, SUM_Y, EDGES, LEFT, TOP, RIGHT, BOTTOM, FIELDS };
typedef int32_t Part[FIELDS];

#define ROWS (2 * PREPARE_MAX_SIDE + 4)
#define BYTES ((MAX_PARTS + 1) * sizeof(Part) + ROWS)

/* All memory, so that the code reaches it from one address. */
static struct {
    const uint8_t *pixels;
    int32_t width, height, longer;
    int32_t flip, plain; /* flip: 255 if the ink is lighter than the paper */
    int32_t opening, rest, low, full;
    const int32_t *box; /* the digit, one of the parts */
    union {
        int32_t counts[256];
        uint8_t line[BLOCKS];
        uint8_t bytes[BYTES]; /* all of them */
        struct {
            Part parts[MAX_PARTS + 1]; /* the first one is not used */
            uint8_t rows[ROWS];        /* the number of each pixel's component */
        } labels;
    } scratch;
    uint8_t paper[BLOCKS * BLOCKS];
} s;

/* For scan writes to rows while it counts. */
typedef char
    rows_are_behind_counts[sizeof s.scratch.labels.parts >= sizeof s.scratch.counts ? 1 : -1];

static int32_t least(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static int32_t most(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

/* Returns how strong the ink of a pixel is, from 0 to 255. */
static int32_t raw_strength(int32_t x, int32_t y)
{
    int32_t level, ink;

    if ((uint32_t)x >= (uint32_t)s.width || (uint32_t)y >= (uint32_t)s.height)
        return 0;
    level = s.paper[y * BLOCKS / s.height * BLOCKS + x * BLOCKS / s.width];
    ink = level - (s.pixels[y * s.width + x] ^ s.flip);
    return ink <= 0 ? 0 : ink * 255 / most(level, 255 - level);
}

/* Returns the same where ink that is narrower than the opening is removed, less the paper's rest. */
static int32_t strength(int32_t x, int32_t y)
{
    int32_t here = raw_strength(x, y) - s.rest, dx = s.opening, dy = dx, found = 0, turn;

    if (here <= 0 || dx == 0)
        return most(here, 0);
    for (turn = 0; turn < 4; turn++) {
        int32_t turned = -dx;

        found = most(found, least(least(raw_strength(x + dx, y), raw_strength(x, y + dy)),
                                  raw_strength(x + dx, y + dy)));
        dx = dy;
        dy = turned;
    }
    return least(here, found - s.rest);
}

/* Returns the level of a rank among those that were counted. */
static int32_t quantile(int32_t rank)
{
    int32_t level = -1;

    do
        rank -= s.scratch.counts[++level];
    while (rank >= 0);
    return level;
}

/* Estimates the paper's level in each block; returns what speaks against the polarity. */
static int32_t estimate_paper(int32_t flip)
{
    uint32_t i;
    int32_t j, x, y, pass, changes = 0;

    s.flip = flip;
    for (i = 0; i < BLOCKS * BLOCKS; i++) {
        int32_t sum = 0;

        for (j = 0; j < 16; j++) {
            x = ((int32_t)(i % BLOCKS) * 4 + (j & 3)) * s.width >> 7;
            y = ((int32_t)(i / BLOCKS) * 4 + (j >> 2)) * s.height >> 7;
            sum += s.pixels[y * s.width + x] ^ flip;
        }
        s.paper[i] = (uint8_t)(sum >> 4);
        if (i < BLOCKS)
            changes -= s.paper[i];
    }
    for (pass = 0; pass < 4; pass++) { /* rows, columns, rows, columns: maximum, then minimum */
        int32_t step = pass & 1 ? BLOCKS : 1, turned = -(pass >> 1);
        int32_t reach = s.longer * 5 / (pass & 1 ? s.height : s.width);

        for (i = 0; i < BLOCKS; i++) {
            uint8_t *line = s.paper + i * (uint32_t)(BLOCKS + 1 - step);

            for (j = 0; j < BLOCKS; j++)
                s.scratch.line[j] = (uint8_t)(line[j * step] ^ turned);
            for (j = 0; j < BLOCKS; j++) {
                int32_t level = 0;

                for (x = 0; x < BLOCKS; x++)
                    if (x >= j - reach && x <= j + reach)
                        level = most(level, s.scratch.line[x]);
                line[j * step] = (uint8_t)(level ^ turned);
            }
        }
    }
    x = s.paper[0];
    for (i = 0; i < BLOCKS * BLOCKS; i++) {
        y = s.paper[i];
        changes += 4 * most(x - y, y - x);
        if (i < BLOCKS)
            changes += y;
        x = y;
    }
    return changes;
}

static void unite(int32_t *part, const int32_t *other)
{
    int32_t i;

    for (i = 0; i < FIELDS; i++)
        part[i] = i < LEFT ? part[i] + other[i] : most(part[i], other[i]);
}

/* Finds the connected components of what is stronger than a level; or, if the level is negative,
 * counts the strengths of all pixels. */
static void scan(int32_t level)
{
    Part *parts = s.scratch.labels.parts, pixel;
    int32_t i, k, x, y;

    for (i = 0; i < (int32_t)BYTES; i++)
        s.scratch.bytes[i] = 0;
    pixel[AREA] = 1;
    for (y = 0; y < s.height; y++) {
        /* Each row begins a byte before the one above, so that the neighbours of a pixel are the
         * four bytes from at[-1] on, and its own number replaces one that is not needed again. */
        uint8_t *at = s.scratch.labels.rows + s.height - y;

        for (x = 0; x < s.width; x++, at++) {
            int32_t label = 0, found = strength(x, y);

            if (level < 0)
                s.scratch.counts[found]++;
            else if (found > level) {
                pixel[SUM_X] = pixel[RIGHT] = x;
                pixel[SUM_Y] = pixel[BOTTOM] = y;
                pixel[LEFT] = -x;
                pixel[TOP] = -y;
                pixel[EDGES] = !at[-1] + !at[1];
                for (i = -1; i < 3; i++) {
                    int32_t other = at[i];

                    if (label == 0)
                        label = other;
                    if (other == label || other == 0)
                        continue;
                    unite(parts[label], parts[other]);
                    parts[other][AREA] = 0;
                    for (k = 0; k < ROWS; k++)
                        if (s.scratch.labels.rows[k] == other)
                            s.scratch.labels.rows[k] = (uint8_t)label;
                }
                if (label > 0)
                    unite(parts[label], pixel);
                for (i = MAX_PARTS; i > 0 && label == 0; i--)
                    if (parts[i][AREA] == 0 ||
                        (parts[i][AREA] < $speck && parts[i][BOTTOM] < y - 1)) {
                        label = i;
                        for (k = 0; k < FIELDS; k++)
                            parts[i][k] = pixel[k];
                    }
            }
            *at = (uint8_t)label;
        }
        *at = 0;
    }
}

/* Finds the levels of paper, noise and full ink, which is 0 or less if there is no ink. */
static void measure_levels(void)
{
    int32_t n = s.width * s.height, level, lowest = $min_strength, mass = 1, square = 0;
    int32_t *counts = s.scratch.counts;

    s.rest = 0;
    scan(-1);
    if (s.opening == 0)
        s.plain = s.longer < $small || 5 * counts[0] > 3 * n;
    if (!s.plain) {
        level = quantile(n - (n >> 14) - 1) >> 1;
        for (n = 0; level >= 0; level--)
            n += counts[level];
        s.rest = quantile(n >> 1);
        lowest = most((quantile(n * 3 >> 2) - s.rest) * $noise, lowest);
    }
    for (level = 255 - s.rest; level > lowest; level--) {
        n = counts[level + s.rest] * level >> 3; /* so that the sums fit 32 bits */
        mass += n;
        square += n * level;
    }
    square /= mass;
    s.low = most(square >> 3, lowest);
    s.full = square - 2 * s.low;
}

static int32_t high(const int32_t *part)
{
    return part[BOTTOM] + part[TOP] + 1;
}

static int32_t wide(const int32_t *part)
{
    return part[RIGHT] + part[LEFT] + 1;
}

/* Returns whether a component neither touches the border nor goes around the picture. */
static int inside(const int32_t *part)
{
    int32_t away = part[LEFT] & part[TOP] & (part[RIGHT] + 1 - s.width) &
                   (part[BOTTOM] + 1 - s.height);

    /* Of negative numbers; this takes less code than comparisons. */
    return (away & ((5 * high(part) - 4 * s.height) | (5 * wide(part) - 4 * s.width))) < 0;
}

/* Unites the digit's components in the heaviest one. */
static void choose(void)
{
    Part *first = s.scratch.labels.parts + 1, *part, *box = first;
    int32_t any = 1, few;

    for (part = first; part < first + MAX_PARTS; part++)
        if (5 * high(*part) >= s.height && 8 * (*part)[AREA] >= high(*part) * wide(*part) &&
            inside(*part))
            any = 0;
    for (part = first; part < first + MAX_PARTS; part++) {
        if (!any && !inside(*part))
            (*part)[AREA] = 0;
        if ((*part)[AREA] > (*box)[AREA])
            box = part;
    }
    few = (*box)[AREA] >> 5;
    for (part = first; part < first + MAX_PARTS; part++)
        if (part != box && (*part)[AREA] > few)
            unite(*box, *part);
    s.box = *box;
}

/* Returns the ink of a pixel, from 0 to 255; of those outside of the box 0. */
static int32_t ink(int32_t x, int32_t y)
{
    if (((s.box[LEFT] + x) | (s.box[TOP] + y) | (s.box[RIGHT] - x) | (s.box[BOTTOM] - y)) < 0)
        return 0;
    return least(most(strength(x, y) - s.low, 0) * 255 / s.full, 255);
}

/* Scales and centres the ink in the box; returns 0 if it is too small to be read. */
static int place(uint8_t *image)
{
    int32_t x, y, j, full, strongest = 2;
    int32_t side = most(high(s.box), wide(s.box));
    int32_t wider = ($stroke - least(s.box[AREA] * 410 / (s.box[EDGES] * side), $stroke)) >> 1;
    int32_t spread = side * (16 + wider) >> 3;
    /* In 1/320 of a pixel of the picture. */
    int32_t middle = 160 - 224 * side - (spread * 7 >> 1);
    int32_t left = s.box[SUM_X] * 20 / s.box[AREA] * 16 + middle;
    int32_t top = s.box[SUM_Y] * 20 / s.box[AREA] * 16 + middle;

    if (side < $min_side)
        return 0;
    side *= 16;
    for (y = 0; y < 28; y++)
        for (x = 0; x < 28; x++) {
            int32_t sum = 0;

            for (j = 0; j < 64; j++)
                sum += ink((left + x * side + (j & 7) * spread) / 320,
                           (top + y * side + (j >> 3) * spread) / 320);
            sum >>= 6;
            *image++ = (uint8_t)sum;
            strongest = most(strongest, sum);
        }
    full = strongest * (32 - wider) >> 5; /* widened strokes are paler */
    for (j = 0; j < 28 * 28; j++) {
        image--;
        *image = (uint8_t)least(*image * 255 / full, 255);
    }
    return strongest > 2;
}

int digit_prepare(const uint8_t *picture, int width, int height, uint8_t image[28 * 28])
{
    int32_t flip, turn, i;

    if ((uint32_t)width - 1 >= PREPARE_MAX_SIDE || (uint32_t)height - 1 >= PREPARE_MAX_SIDE)
        return 0;
    s.pixels = picture;
    s.width = width;
    s.height = height;
    s.longer = most(width, height);
    flip = estimate_paper(0);
    flip = estimate_paper(255) < flip ? 255 : 0;
    for (turn = 0; turn < 3; turn++) {
        (void)estimate_paper(flip);
        flip ^= 255; /* the other polarity is the second to be tried */
        for (i = 0; i < 5; i++) {
            s.opening = s.longer * (i & 3) / 80;
            measure_levels();
            if (s.full <= 0)
                continue;
            scan(s.low + (s.full >> 2));
            choose();
            /* A page on a table is inside too, and much of the picture. */
            if (turn == 2 || (inside(s.box) ? 5 * s.box[AREA] < $page * s.width * s.height
                                            : s.plain || i == 4))
                return place(image);
        }
    }
    return 0;
}
