/* Reads a handwritten digit: $title.
 * $figures
 * Not reentrant: all calls share one static buffer of DIGIT_RAM bytes. */
#ifndef DIGIT_H
#define DIGIT_H

#include <stdint.h>

#define DIGIT_HEIGHT $height
#define DIGIT_WIDTH $width
#define DIGIT_CLASSES $classes
#define DIGIT_RAM $ram
#define DIGIT_LOOKS $max_looks
#define DIGIT_LOGIT $logit /* divide scores by this to get logits */

#ifdef __cplusplus
extern "C" {
#endif

/* Returns the class of an image, which is the index of the largest score, and writes the scores of
 * all classes. The image is stored row by row, $looks, and must be centred
 * and scaled as the training images are. */
int digit_read(const uint8_t image[DIGIT_HEIGHT * DIGIT_WIDTH], int32_t scores[DIGIT_CLASSES]);

/* Returns how many looks at its image the last digit_read took: 1 or, if in doubt, DIGIT_LOOKS. */
int digit_looks(void);

#ifdef __cplusplus
}
#endif

#endif
