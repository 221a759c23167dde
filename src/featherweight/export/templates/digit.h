/* Reads a handwritten digit: $title.
 * $figures
 * Not reentrant: all calls share one scratch buffer of DIGIT_RAM bytes. */
#ifndef DIGIT_H
#define DIGIT_H

#include <stdint.h>

#define DIGIT_HEIGHT $height
#define DIGIT_WIDTH $width
#define DIGIT_CLASSES $classes
#define DIGIT_RAM $ram
#define DIGIT_LOGIT $logit /* score of one logit (nat) */

#ifdef __cplusplus
extern "C" {
#endif

/* The class of an image, and what speaks for each class: the greatest score wins. Row by row, light ink on black,
 * centred as MNIST's are. */
int digit_read(const uint8_t image[DIGIT_HEIGHT * DIGIT_WIDTH], int32_t scores[DIGIT_CLASSES]);

#ifdef __cplusplus
}
#endif

#endif
