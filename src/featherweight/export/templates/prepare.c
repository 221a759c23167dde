/* Made by featherweight $version. Returns exactly the images of its definition in Python,
 * featherweight.export.prepare, which says what each step is for. */
#include "prepare.h"

#define BLOCKS $blocks
#define MAX_PARTS $max_parts

typedef struct {
    int32_t area;
    int16_t left, top, right, bottom;
} Part;

/* A way to look at the picture, and the strengths that it gives. */
typedef struct {
    int32_t opening, rest, low, full;
    Part box;
} View;

static const uint8_t *pixels;
static int32_t width, height, longer, size, rows, columns;
static uint8_t flip, plain; /* flip: 255 if the ink is lighter than the paper */
static View view;
static uint8_t paper[BLOCKS * BLOCKS];
static union {
    uint32_t counts[256];
    struct {
        uint8_t rows[2][PREPARE_MAX_SIDE + 2];
        Part parts[MAX_PARTS];
    } labels;
    uint8_t line[BLOCKS];
} scratch;

static int32_t least(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static int32_t most(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

static void clear_counts(void)
{
    int32_t i;

    for (i = 0; i < 256; i++)
        scratch.counts[i] = 0;
}

/* Filters the paper's levels: the maximum in a square of blocks; the minimum if turned is 255. */
static void filter(int32_t reach, uint8_t turned)
{
    int32_t step = 1, other = BLOCKS, n = columns, lines = rows, pass;

    for (pass = 0; pass < 2; pass++) {
        int32_t i, j, k;

        for (i = 0; i < lines; i++) {
            uint8_t *line = paper + i * other;

            for (j = 0; j < n; j++)
                scratch.line[j] = line[j * step] ^ turned;
            for (j = 0; j < n; j++) {
                uint8_t level = 0;

                for (k = most(j - reach, 0); k <= least(j + reach, n - 1); k++)
                    if (scratch.line[k] > level)
                        level = scratch.line[k];
                line[j * step] = level ^ turned;
            }
        }
        step = BLOCKS;
        other = 1;
        n = rows;
        lines = columns;
    }
}

/* Returns the sum of the levels in the blocks along the border. */
static int32_t border_sum(void)
{
    int32_t i, j, sum = 0;

    for (i = 0; i < rows; i++)
        for (j = 0; j < columns; j++)
            if (i == 0 || j == 0 || i == rows - 1 || j == columns - 1)
                sum += paper[i * BLOCKS + j];
    return sum;
}

/* Estimates the paper's level in each block; returns what speaks against the polarity. */
static int32_t estimate_paper(uint8_t polarity)
{
    int32_t i, j, x, y, sum = 0, n, pass, mean = 0, differs, edge;
    int32_t reach = plain ? BLOCKS : most(rows, columns) * 11 / 64;

    flip = polarity;
    for (i = 0; i < rows; i++)
        for (j = 0; j < columns; j++) {
            int32_t right = least((j + 1) * size, width), bottom = least((i + 1) * size, height);
            int32_t level = 256, above = (right - j * size) * (bottom - i * size) / 4;

            clear_counts();
            for (y = i * size; y < bottom; y++)
                for (x = j * size; x < right; x++)
                    scratch.counts[pixels[y * width + x] ^ flip]++;
            while (above >= 0)
                above -= (int32_t)scratch.counts[--level];
            paper[i * BLOCKS + j] = (uint8_t)level;
        }
    differs = -border_sum();
    filter(reach, 0);
    filter(reach, 255);
    differs += border_sum();
    edge = rows < 3 || columns < 3 ? rows * columns : 2 * (rows + columns) - 4;
    n = (rows - rows / 4 * 2) * (columns - columns / 4 * 2);
    for (pass = 0; pass < 2; pass++) {
        mean = sum / n;
        sum = 0;
        for (i = rows / 4; i < rows - rows / 4; i++)
            for (j = columns / 4; j < columns - columns / 4; j++) {
                int32_t level = paper[i * BLOCKS + j];

                sum += pass == 0 ? level : most(level - mean, mean - level);
            }
    }
    return sum * 100 / n + differs * 5 / edge;
}

/* Returns how strong the ink of a pixel is, from 0 to 255. */
static int32_t raw_strength(int32_t x, int32_t y)
{
    int32_t whole = 2 * size, ax = most(2 * x + 1 - size, 0), ay = most(2 * y + 1 - size, 0);
    int32_t right, below, upper, lower, level, difference;
    const uint8_t *at;

    if (x < 0 || y < 0 || x >= width || y >= height)
        return 0;
    at = paper + ay / whole * BLOCKS + ax / whole;
    right = ax / whole < columns - 1 ? 1 : 0;
    below = ay / whole < rows - 1 ? BLOCKS : 0;
    ax %= whole;
    ay %= whole;
    upper = at[0] * (whole - ax) + at[right] * ax;
    lower = at[below] * (whole - ax) + at[below + right] * ax;
    level = (upper * (whole - ay) + lower * ay) / (whole * whole);
    difference = level - (pixels[y * width + x] ^ flip);
    return difference <= 0 ? 0 : difference * 255 / most(level, 255 - level);
}

/* Returns the same where ink that is narrower than `opening` is removed, less the paper's rest. */
static int32_t strength(int32_t x, int32_t y)
{
    int32_t corner, here = raw_strength(x, y), found = 0;

    if (view.opening > 0) {
        for (corner = 0; corner < 4 && found < here; corner++) {
            int32_t dx = corner & 1 ? view.opening : -view.opening;
            int32_t dy = corner & 2 ? view.opening : -view.opening;
            int32_t across = least(raw_strength(x + dx, y), raw_strength(x, y + dy));

            found = most(found, least(across, raw_strength(x + dx, y + dy)));
        }
        here = least(here, found);
    }
    return most(here - view.rest, 0);
}

/* Returns the ink of a pixel in the box, from 0 to 255. */
static int32_t ink(int32_t x, int32_t y)
{
    return least(most(strength(x, y) - view.low, 0) * 255 / view.full, 255);
}

/* Finds the levels of paper, full ink and noise; returns 0 if there is no ink. */
static int measure_levels(void)
{
    int32_t x, y, top = 256, n = 0, rest = 0, noise = 0, floor, level, mass = 0, total = 0, peak;

    view.rest = 0;
    clear_counts();
    for (y = 0; y < height; y++)
        for (x = 0; x < width; x++)
            scratch.counts[strength(x, y)]++;
    do
        n += (int32_t)scratch.counts[--top];
    while (n < width * height / 16384 + 1);
    if (!plain) {
        int32_t weak = 0;

        for (level = 0; level <= top / 2; level++)
            weak += (int32_t)scratch.counts[level];
        n = (int32_t)scratch.counts[0];
        while (2 * n < weak)
            n += (int32_t)scratch.counts[++rest];
        while (4 * n < 3 * weak)
            n += (int32_t)scratch.counts[rest + ++noise];
    }
    floor = rest + most($noise * noise, $min_contrast);
    if (top <= floor)
        return 0;
    n = 0;
    for (level = most(top / 2, floor); level < 256; level++) {
        n += (int32_t)scratch.counts[level];
        mass += (int32_t)scratch.counts[level] * (level - rest);
    }
    peak = mass / n;
    floor = most(rest + peak * 5 / 32, floor);
    for (level = floor; level < 256; level++)
        total += (int32_t)scratch.counts[level] * (level - rest);
    level = floor;
    mass = 0;
    for (;;) {
        mass += (int32_t)scratch.counts[level] * (level - rest);
        if (2 * mass >= total)
            break;
        level++;
    }
    peak = least(peak, (level - rest) * 3 / 2);
    view.rest = rest;
    view.low = most(peak / 10, 4 * noise);
    view.full = peak - 2 * view.low;
    return view.full > 0;
}

static void unite(Part *part, const Part *other)
{
    part->area += other->area;
    part->left = (int16_t)least(part->left, other->left);
    part->top = (int16_t)least(part->top, other->top);
    part->right = (int16_t)most(part->right, other->right);
    part->bottom = (int16_t)most(part->bottom, other->bottom);
}

/* Finds the connected components of what is stronger than a level. */
static void find_parts(int32_t level)
{
    uint8_t *above = scratch.labels.rows[0], *now = scratch.labels.rows[1];
    Part *parts = scratch.labels.parts;
    int32_t i, x, y;

    for (i = 0; i < MAX_PARTS; i++)
        parts[i].area = 0;
    for (i = 0; i < PREPARE_MAX_SIDE + 2; i++)
        above[i] = 0;
    for (y = 0; y < height; y++) {
        uint8_t *swap = above;

        for (x = 0; x < width + 2; x++)
            now[x] = 0;
        for (x = 0; x < width; x++) {
            Part run;
            int32_t first = x;
            uint8_t label = 0;

            while (x < width && strength(x, y) > level)
                x++;
            if (x == first)
                continue;
            for (i = first; i < x + 2; i++) {
                uint8_t other = above[i];

                if (label == 0) {
                    label = other;
                } else if (other != 0 && other != label) {
                    int32_t k;

                    unite(&parts[label - 1], &parts[other - 1]);
                    parts[other - 1].area = 0;
                    for (k = 0; k < width + 2; k++) {
                        if (above[k] == other)
                            above[k] = label;
                        if (now[k] == other)
                            now[k] = label;
                    }
                }
            }
            run.area = x - first;
            run.left = (int16_t)first;
            run.right = (int16_t)(x - 1);
            run.top = run.bottom = (int16_t)y;
            if (label != 0) {
                unite(&parts[label - 1], &run);
            } else {
                for (i = 0; i < MAX_PARTS; i++)
                    if (parts[i].area == 0 || (parts[i].area < $speck && parts[i].bottom < y - 1)) {
                        parts[i] = run;
                        label = (uint8_t)(i + 1);
                        break;
                    }
            }
            for (i = first; i < x; i++)
                now[i + 1] = label;
        }
        above = now;
        now = swap;
    }
}

/* Returns how many sides of the picture a component touches; 2 if it surrounds the rest. */
static int32_t sides(const Part *part)
{
    int32_t high = part->bottom - part->top + 1, wide = part->right - part->left + 1;

    if (5 * high >= 4 * height && 5 * wide >= 4 * width && 5 * part->area < high * wide)
        return 2;
    return (part->left == 0) + (part->top == 0) + (part->right == width - 1) +
           (part->bottom == height - 1);
}

/* Chooses the digit's components; returns 0 if there are none, otherwise 1, + 2 if the box around
 * them is as one around a digit in its picture, + 4 if it looks like a page. */
static int choose(void)
{
    const Part *part, *end = scratch.labels.parts + MAX_PARTS;
    int32_t allowed = 4, heaviest = 0, high, wide;
    Part *box = &view.box;
    int inside, found = 1;

    for (part = scratch.labels.parts; part < end; part++) {
        high = part->bottom - part->top + 1;
        wide = part->right - part->left + 1;
        if (part->area > 0 && 8 * part->area >= high * wide) {
            int32_t touched = sides(part);

            if (touched == 0 && 5 * high >= height)
                allowed = 0;
            else if (touched < 2 && 8 * high >= height)
                allowed = least(allowed, 1);
        }
    }
    for (part = scratch.labels.parts; part < end; part++)
        if (part->area > heaviest && sides(part) <= allowed)
            heaviest = part->area;
    if (heaviest == 0)
        return 0;
    box->area = 0;
    box->left = box->top = PREPARE_MAX_SIDE;
    box->right = box->bottom = 0;
    for (part = scratch.labels.parts; part < end; part++)
        if (part->area > 0 && 32 * part->area >= heaviest && sides(part) <= allowed)
            unite(box, part);
    high = box->bottom - box->top + 1;
    wide = box->right - box->left + 1;
    inside = box->left > 0 && box->top > 0 && box->right < width - 1 && box->bottom < height - 1;
    if (inside && (5 * high < 4 * height || 5 * wide < 4 * width) &&
        6 * most(high, wide) >= longer)
        found += 2;
    if (inside && least(height, width) >= $table && 5 * box->area >= 2 * height * width)
        found += 4;
    return found;
}

/* Returns how much of a row or column of the picture one of the image covers, in 1/40 pixels. */
static int32_t cover(int32_t start, int32_t span, int32_t at)
{
    return least(start + 2 * span, 40 * at + 40) - most(start, 40 * at);
}

/* Scales and centres the ink in the box; returns 0 if it is too small to be read. */
static int place(uint8_t *image)
{
    const Part *box = &view.box;
    int32_t x0 = most(box->left - 1, 0), x1 = least(box->right + 2, width);
    int32_t y0 = most(box->top - 1, 0), y1 = least(box->bottom + 2, height);
    int32_t x, y, left = width, top = height, right = 0, bottom = 0, area = 0, changes = 0, i, j;
    uint32_t total = 0, moment_x = 0, moment_y = 0;
    int32_t side, stroke, span, gain = 16, strongest = 0, middle_x, middle_y;
    uint8_t *above = scratch.labels.rows[0];

    for (x = x0; x < x1; x++)
        above[x] = 0;
    for (y = y0; y < y1; y++) {
        uint8_t before = 0;

        for (x = x0; x < x1; x++) {
            int32_t value = ink(x, y);
            uint32_t weight = (uint32_t)value >> 3;

            total += weight;
            moment_x += weight * (uint32_t)(2 * (x - x0) + 1);
            moment_y += weight * (uint32_t)(2 * (y - y0) + 1);
            if (value >= 128) {
                left = least(left, x);
                right = most(right, x);
                top = least(top, y);
                bottom = y;
                area++;
                changes += !before + !above[x];
            }
            above[x] = before = value >= 128;
        }
    }
    side = most(right - left, bottom - top) + 1;
    if (area == 0 || side < $min_side)
        return 0;
    stroke = area * 410 / (changes * side);
    span = side;
    if (stroke < $stroke) {
        int32_t wider = least($stroke - stroke, 16);

        side += side * wider / 320;
        span = side + side * wider / 16;
        gain = most(16, 16 * (16 + wider) / most(stroke, 4));
    }
    span = most(span, 20);
    middle_x = (int32_t)(moment_x / total * 20 + moment_x % total * 20 / total);
    middle_y = (int32_t)(moment_y / total * 20 + moment_y % total * 20 / total);
    for (i = 0; i < 28; i++)
        for (j = 0; j < 28; j++) {
            int32_t left_edge = middle_x + (2 * j - 28) * side - span;
            int32_t top_edge = middle_y + (2 * i - 28) * side - span;
            int32_t from = most(left_edge, 0) / 40, value;
            uint32_t sum = 0;

            for (y = most(top_edge, 0) / 40; y < y1 - y0 && 40 * y < top_edge + 2 * span; y++) {
                int32_t high = cover(top_edge, span, y);

                for (x = from; x < x1 - x0 && 40 * x < left_edge + 2 * span; x++)
                    sum += (uint32_t)(high * cover(left_edge, span, x) * ink(x0 + x, y0 + y));
            }
            value = (int32_t)(sum / (uint32_t)(4 * span * span));
            value = least(value * gain / 16, 255);
            strongest = most(strongest, value);
            image[28 * i + j] = (uint8_t)value;
        }
    if (strongest == 0)
        return 0;
    for (i = 0; i < 28 * 28; i++)
        image[i] = (uint8_t)(image[i] * 255 / strongest);
    return 1;
}

int digit_prepare(const uint8_t *picture, int picture_width, int picture_height, uint8_t image[28 * 28])
{
    static const uint8_t tries[] = {$tries};
    int32_t i, against, turn, n_most = 0;
    int have = 0;
    View best;

    for (i = 0; i < 28 * 28; i++)
        image[i] = 0;
    if (picture_width < 1 || picture_height < 1 || picture_width > PREPARE_MAX_SIDE ||
        picture_height > PREPARE_MAX_SIDE)
        return 0;
    pixels = picture;
    width = picture_width;
    height = picture_height;
    longer = most(width, height);
    size = (longer + BLOCKS - 1) / BLOCKS;
    rows = (height + size - 1) / size;
    columns = (width + size - 1) / size;
    clear_counts();
    for (i = 0; i < width * height; i++)
        n_most = most(n_most, (int32_t)++scratch.counts[pixels[i]]);
    plain = longer < $small || 5 * n_most >= 2 * width * height;
    against = estimate_paper(0);
    if (estimate_paper(255) >= against)
        (void)estimate_paper(0);
    for (turn = 0; turn < 2; turn++) {
        int page = 0;

        for (i = 0; i < (int32_t)sizeof tries; i++) {
            int found;

            view.opening = longer * tries[i] / 320;
            if (!measure_levels())
                continue;
            find_parts(most((view.full + 2 * view.low) * (view.opening ? 7 : 5) / 16, view.low));
            found = choose();
            if (found == 0)
                continue;
            page = found & 4 && !plain && turn == 0;
            if (page)
                break;
            if (!have || found & 2) {
                best = view;
                have = 1;
            }
            if (found & 2 || plain)
                break;
        }
        if (!page)
            break;
        have = 0;
        (void)estimate_paper(flip ^ 255);
    }
    if (!have)
        return 0;
    view = best;
    if (place(image))
        return 1;
    for (i = 0; i < 28 * 28; i++)
        image[i] = 0;
    return 0;
}
