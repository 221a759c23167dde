/* Made by featherweight $version. Returns exactly the images of its definition in Python,
 * featherweight.export.prepare, which says what each step is for. */
#include "prepare.h"

#define BLOCKS $blocks
#define MAX_PARTS $max_parts

typedef struct {
    int32_t area;
    int16_t left, top, right, bottom, sides;
} Part;

/* All memory, so that the code reaches it from one address. */
static struct {
    const uint8_t *pixels;
    int32_t width, height, longer;
    int32_t flip, plain; /* flip: 255 if the ink is lighter than the paper */
    int32_t opening, rest, low, full;
    Part box;
    union {
        uint32_t counts[256];
        uint8_t line[BLOCKS];
        struct {
            Part parts[MAX_PARTS];
            uint8_t line[PREPARE_MAX_SIDE + 2];
        } labels;
    } scratch;
    uint8_t paper[BLOCKS * BLOCKS];
} s;

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
    int32_t across = 2 * s.width, down = 2 * s.height, fx, fy, right, below, level, ink;
    const uint8_t *at;

    if (x < 0 || y < 0 || x >= s.width || y >= s.height)
        return 0;
    fx = most((2 * x + 1) * BLOCKS - s.width, 0);
    fy = most((2 * y + 1) * BLOCKS - s.height, 0);
    at = s.paper + fy / down * BLOCKS + fx / across;
    right = fx / across < BLOCKS - 1;
    below = fy / down < BLOCKS - 1 ? BLOCKS : 0;
    fx %= across;
    fy %= down;
    level = ((at[0] * (across - fx) + at[right] * fx) * (down - fy) +
             (at[below] * (across - fx) + at[below + right] * fx) * fy) / (across * down);
    ink = level - (s.pixels[y * s.width + x] ^ s.flip);
    return ink <= 0 ? 0 : ink * 255 / most(level, 255 - level);
}

/* Returns the same where ink that is narrower than the opening is removed, less the paper's rest. */
static int32_t strength(int32_t x, int32_t y)
{
    int32_t here = raw_strength(x, y);

    if (s.opening > 0) {
        int32_t dx, dy = s.opening, corner, found = 0;

        for (corner = 0; corner < 4; corner++) {
            dx = corner & 1 ? s.opening : -s.opening;
            found = most(found, least(least(raw_strength(x + dx, y), raw_strength(x, y + dy)),
                                      raw_strength(x + dx, y + dy)));
            if (corner == 1)
                dy = -dy;
        }
        here = least(here, found);
    }
    return most(here - s.rest, 0);
}

/* Counts the levels in a part of the picture: of the paper, or the strengths. */
static int32_t count(int32_t left, int32_t top, int32_t right, int32_t bottom, int grey)
{
    int32_t x, y;

    for (x = 0; x < 256; x++)
        s.scratch.counts[x] = 0;
    for (y = top; y < bottom; y++)
        for (x = left; x < right; x++)
            s.scratch.counts[grey ? s.pixels[y * s.width + x] ^ s.flip : strength(x, y)]++;
    return (right - left) * (bottom - top);
}

/* Returns the level of a rank among those that were counted. */
static int32_t quantile(int32_t rank)
{
    int32_t level = -1;

    do
        rank -= (int32_t)s.scratch.counts[++level];
    while (rank >= 0);
    return level;
}

/* Estimates the paper's level in each block; returns how much ink there would be. */
static int32_t estimate_paper(int32_t flip)
{
    int32_t i, j, k, pass, sum = 0;

    s.flip = flip;
    for (i = 0; i < BLOCKS; i++)
        for (j = 0; j < BLOCKS; j++) {
            int32_t left = j * s.width / BLOCKS, top = i * s.height / BLOCKS, level;

            level = quantile(count(left, top, most((j + 1) * s.width / BLOCKS, left + 1),
                                   most((i + 1) * s.height / BLOCKS, top + 1), 1) * 3 / 4);
            s.paper[i * BLOCKS + j] = (uint8_t)level;
            sum -= level;
        }
    for (pass = 0; pass < 4; pass++) { /* rows, columns, rows, columns: maximum, then minimum */
        int32_t step = pass & 1 ? BLOCKS : 1, turned = pass & 2 ? 255 : 0;
        int32_t reach = s.plain ? BLOCKS : s.longer * 5 / (pass & 1 ? s.height : s.width);

        for (i = 0; i < BLOCKS; i++) {
            uint8_t *line = s.paper + i * (BLOCKS + 1 - step);

            for (j = 0; j < BLOCKS; j++)
                s.scratch.line[j] = (uint8_t)(line[j * step] ^ turned);
            for (j = 0; j < BLOCKS; j++) {
                int32_t level = 0;

                for (k = 0; k < BLOCKS; k++)
                    if (k - j <= reach && j - k <= reach)
                        level = most(level, s.scratch.line[k]);
                line[j * step] = (uint8_t)(level ^ turned);
                sum += pass == 3 ? level ^ turned : 0;
            }
        }
    }
    return sum;
}

/* Finds the levels of paper, full ink and noise; returns 0 if there is no ink. */
static int32_t measure_levels(void)
{
    int32_t top, n, noise, level, rest = 0, lowest = $min_contrast, mass = 0, square = 0;

    s.rest = 0;
    n = count(0, 0, s.width, s.height, 0);
    top = quantile(n - n / 16384 - 1);
    if (!s.plain) {
        n = 0;
        for (level = 0; level <= top / 2; level++)
            n += (int32_t)s.scratch.counts[level];
        rest = quantile(n / 2);
        noise = quantile(n * 3 / 4) - rest;
        lowest = most($noise * noise, lowest);
    }
    for (level = lowest; level + rest < 256; level++) {
        n = (int32_t)s.scratch.counts[level + rest];
        mass += n * level;
        square += n * (level * level >> 3);
    }
    if (top <= rest + lowest)
        return 0;
    level = square / mass * 8 + square % mass * 8 / mass;
    s.rest = rest;
    s.low = most(level / 10, lowest * 5 / 8);
    s.full = level - 2 * s.low;
    return s.full > 0 ? level : 0;
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
    uint8_t *line = s.scratch.labels.line; /* numbers of the row above, from x on of this row */
    Part *parts = s.scratch.labels.parts - 1, pixel;
    int32_t i, x, y;

    for (i = 1; i <= MAX_PARTS; i++)
        parts[i].area = 0;
    for (i = 0; i < PREPARE_MAX_SIDE + 2; i++)
        line[i] = 0;
    pixel.area = 1;
    for (y = 0; y < s.height; y++) {
        uint8_t corner = 0, label;

        for (x = 0; x < s.width; x++) {
            uint8_t *at = line + x + 1;

            label = 0;
            if (strength(x, y) > level) {
                pixel.left = pixel.right = (int16_t)x;
                pixel.top = pixel.bottom = (int16_t)y;
                for (i = -2; i < 2; i++) {
                    uint8_t other = i == -2 ? corner : at[i];

                    if (label == 0) {
                        label = other;
                    } else if (other != 0 && other != label) {
                        int32_t k;

                        unite(&parts[label], &parts[other]);
                        parts[other].area = 0;
                        for (k = 0; k < PREPARE_MAX_SIDE + 2; k++)
                            if (line[k] == other)
                                line[k] = label;
                    }
                }
                if (label != 0) {
                    unite(&parts[label], &pixel);
                } else {
                    for (i = 1; i <= MAX_PARTS && label == 0; i++)
                        if (parts[i].area == 0 ||
                            (parts[i].area < $speck && parts[i].bottom < y - 1)) {
                            parts[i] = pixel;
                            label = (uint8_t)i;
                        }
                }
            }
            corner = *at;
            *at = label;
        }
    }
}

/* Chooses the digit's components; returns 0 if there are none, otherwise 1, + 2 if the box around
 * them is as one around a digit in its picture, + 4 if it looks like a page. */
static int32_t choose(void)
{
    Part *part, *end = s.scratch.labels.parts + MAX_PARTS;
    int32_t allowed = 4, heaviest = 0, high, wide, found = 1;

    for (part = s.scratch.labels.parts; part < end; part++) {
        int32_t sides = (part->left == 0) + (part->top == 0) + (part->right == s.width - 1) +
                        (part->bottom == s.height - 1);

        high = part->bottom - part->top + 1;
        wide = part->right - part->left + 1;
        if (5 * high >= 4 * s.height && 5 * wide >= 4 * s.width && 5 * part->area < high * wide)
            sides = 2;
        part->sides = (int16_t)sides;
        if (part->area > 0 && sides < 2 && 8 * part->area >= high * wide && 8 * high >= s.height)
            allowed = least(allowed, sides > 0 || 5 * high < s.height);
    }
    for (part = s.scratch.labels.parts; part < end; part++)
        if (part->sides <= allowed)
            heaviest = most(heaviest, part->area);
    if (heaviest == 0)
        return 0;
    s.box.area = s.box.right = s.box.bottom = 0;
    s.box.left = s.box.top = PREPARE_MAX_SIDE;
    for (part = s.scratch.labels.parts; part < end; part++)
        if (part->area > heaviest / 32 && part->sides <= allowed)
            unite(&s.box, part);
    high = s.box.bottom - s.box.top + 1;
    wide = s.box.right - s.box.left + 1;
    if (s.box.left > 0 && s.box.top > 0 && s.box.right < s.width - 1 &&
        s.box.bottom < s.height - 1) {
        if ((5 * high < 4 * s.height || 5 * wide < 4 * s.width) &&
            6 * most(high, wide) >= s.longer)
            found = 3;
        if (least(s.height, s.width) >= $table && 5 * s.box.area >= 2 * s.height * s.width)
            found += 4;
    }
    return found;
}

/* Returns the ink of a pixel, from 0 to 255; of those outside of the box 0. */
static int32_t ink(int32_t x, int32_t y)
{
    if (x < s.box.left || y < s.box.top || x > s.box.right || y > s.box.bottom)
        return 0;
    return least(most(strength(x, y) - s.low, 0) * 255 / s.full, 255);
}

/* Scales and centres the ink in the box; returns 0 if it is too small to be read. */
static int place(uint8_t *image)
{
    int32_t x, y, area = 0, changes = 0, i, j;
    int32_t side = most(s.box.right - s.box.left, s.box.bottom - s.box.top) + 1;
    int32_t strongest = 0, stroke, span, middle_x = 0, middle_y = 0, gain = 255;

    for (y = s.box.top; y <= s.box.bottom; y++)
        for (x = s.box.left; x <= s.box.right; x++)
            if (ink(x, y) >= 128) {
                area++;
                middle_x += x;
                middle_y += y;
                changes += (ink(x - 1, y) < 128) + (ink(x, y - 1) < 128);
            }
    if (area == 0 || side < $min_side)
        return 0;
    /* In units of 1/320 of a pixel of the picture. */
    middle_x = middle_x * 20 / area * 16 + 160;
    middle_y = middle_y * 20 / area * 16 + 160;
    stroke = area * 410 / (changes * side);
    span = side;
    if (stroke < $stroke) {
        stroke = least($stroke - stroke, 16);
        side += side * stroke / 320;
        span = side + side * stroke / 16;
        gain += stroke * 16;
    }
    span = most(span, 20);
    for (i = 0; i < 28 * 28; i++) {
        int32_t sum = 0;

        for (j = 0; j < 64; j++)
            sum += ink((middle_x + (i % 28 - 14) * 16 * side + (j % 8 * 2 - 7) * span) / 320,
                       (middle_y + (i / 28 - 14) * 16 * side + (j / 8 * 2 - 7) * span) / 320);
        sum /= 64;
        strongest = most(strongest, sum);
        image[i] = (uint8_t)sum;
    }
    if (strongest == 0)
        return 0;
    for (i = 0; i < 28 * 28; i++)
        image[i] = (uint8_t)least(image[i] * gain / strongest, 255);
    return 1;
}

int digit_prepare(const uint8_t *picture, int width, int height, uint8_t image[28 * 28])
{
    int32_t i, against, found = 0;

    for (i = 0; i < 28 * 28; i++)
        image[i] = 0;
    if (width < 1 || height < 1 || width > PREPARE_MAX_SIDE || height > PREPARE_MAX_SIDE)
        return 0;
    s.pixels = picture;
    s.width = width;
    s.height = height;
    s.longer = most(width, height);
    s.flip = 0;
    found = count(0, 0, width, height, 1);
    s.plain = s.longer < $small;
    for (i = 0; i < 256; i++)
        if (5 * (int32_t)s.scratch.counts[i] >= 2 * found)
            s.plain = 1;
    against = estimate_paper(0);
    if (estimate_paper(255) >= against)
        (void)estimate_paper(0);
    against = 0;
    for (i = 0; i < 5; i++) {
        int32_t level;

        s.opening = s.longer * (i & 3) / 80;
        level = measure_levels();
        if (level == 0)
            continue;
        find_parts(most(level * (s.opening ? 7 : 5) / 16, s.low));
        found = choose();
        if (found == 0)
            continue;
        if (found & 4 && !s.plain && against == 0) {
            against = estimate_paper(s.flip ^ 255) | 1;
            i = -1;
            continue;
        }
        if (found & 2 || s.plain || i == 4)
            return place(image);
    }
    return 0;
}
