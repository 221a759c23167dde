/* Reads raw images of ${height}x${width} bytes each from standard input. Prints one line for each: the class, then
 * the scores. */
#include <stdio.h>

#include "digit.h"

int main(void)
{
    static uint8_t image[DIGIT_HEIGHT * DIGIT_WIDTH];
    int32_t scores[DIGIT_CLASSES];
    size_t n;
    int k;

    while ((n = fread(image, 1, sizeof image, stdin)) == sizeof image) {
        printf("%d", digit_read(image, scores));
        for (k = 0; k < DIGIT_CLASSES; k++)
            printf(" %ld", (long)scores[k]);
        printf("\n");
    }
    if (n > 0 || ferror(stdin)) {
        fprintf(stderr, "error: got an image of %lu bytes, expected %lu\n", (unsigned long)n,
                (unsigned long)sizeof image);
        return 2;
    }
    return fflush(stdout) ? 2 : 0;
}
