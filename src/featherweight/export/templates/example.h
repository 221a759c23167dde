/* The first image of example.raw and its scores: $looks. */
#include <digit.h>

static const uint8_t example_image[DIGIT_HEIGHT * DIGIT_WIDTH] = {
$image
};
static const int32_t example_scores[DIGIT_CLASSES] = {
$scores
};
