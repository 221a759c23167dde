/* For `featherweight firmware`: reads the images of images.raw on a Cortex-M in QEMU and prints by
 * semihosting one line for each image, as main.c does, and then the ticks that the system timer
 * counted during the last image. */
#include "digit.h"

#define SYSTICK ((volatile uint32_t *)0xE000E010u) /* control, reload, value */

extern uint8_t image_data[], image_data_end[];
extern uint8_t ram_data[], ram_data_end[], ram_load[], ram_zero[], ram_end[];
__asm__(".section .rodata.images\n.global image_data, image_data_end\n"
        "image_data: .incbin \"images.raw\"\nimage_data_end:\n.previous");

static void host(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

static void print(int64_t value, char after)
{
    static char text[24];
    char *at = text + sizeof text - 2;
    uint64_t rest = value < 0 ? (uint64_t)-value : (uint64_t)value;

    at[0] = after;
    do {
        *--at = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest > 0);
    if (value < 0)
        *--at = '-';
    host(4, at); /* SYS_WRITE0 */
}

void start(void)
{
    const uint8_t *image;
    uint8_t *to;
    uint32_t ticks = 0;
    int k;

    for (to = ram_data; to < ram_data_end; to++)
        *to = ram_load[to - ram_data];
    for (to = ram_zero; to < ram_end; to++)
        *to = 0;
    SYSTICK[1] = 0xFFFFFF;
    SYSTICK[0] = 5; /* enabled, from the processor's clock */
    for (image = image_data; image < image_data_end; image += DIGIT_HEIGHT * DIGIT_WIDTH) {
        int32_t scores[DIGIT_CLASSES];
        int digit;

        SYSTICK[2] = 0;
        digit = digit_read(image, scores);
        ticks = 0xFFFFFF - SYSTICK[2];
        print(digit, ' ');
        for (k = 0; k < DIGIT_CLASSES; k++)
            print(scores[k], k < DIGIT_CLASSES - 1 ? ' ' : '\n');
    }
    print(ticks, '\n');
    host(0x18, (const void *)0x20026); /* SYS_EXIT, success */
    for (;;)
        ;
}

extern uint8_t stack_top[];
__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    stack_top, (const void *)start};
