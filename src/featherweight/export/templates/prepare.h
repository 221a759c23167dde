/* Prepares a grey picture of one digit for digit_read. Made by featherweight $version. */
#ifndef PREPARE_H
#define PREPARE_H

#include <stdint.h>

#define PREPARE_MAX_SIDE $max_side /* pixels along each side of a picture */

#ifdef __cplusplus
extern "C" {
#endif

/* Finds the digit in a picture of width x height bytes, row by row, 0 for black, and writes it as
 * an image of 28x28 bytes, light ink (255) on black (0), scaled and centred as in MNIST. Ink may be
 * darker or lighter than the paper. Returns 1; or 0 if there is no ink that could be read, or the
 * picture has no pixels or too many: then the image is of no use. The picture is not changed.
 * Not reentrant: all calls share one static buffer, of $ram bytes at most. */
int digit_prepare(const uint8_t *picture, int width, int height, uint8_t image[28 * 28]);

#ifdef __cplusplus
}
#endif

#endif
