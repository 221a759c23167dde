/* For `featherweight firmware`: reads the images of images.raw on a processor in QEMU and prints by
 * semihosting one line for each image, as main.c does. Then it prints the instructions, or the ticks
 * of the system timer, that the last image took, and the bytes of stack that the calls used. */
#include "digit.h"

extern uint8_t image_data[], image_data_end[];
extern uint8_t ram_data[], ram_data_end[], ram_load[], ram_zero[], ram_end[], stack_top[];
__asm__(".section .rodata.images,\"a\"\n.global image_data, image_data_end\n"
        "image_data: .incbin \"images.raw\"\nimage_data_end:\n.previous");

#ifdef __riscv
static void host(int operation, const void *argument)
{
    register int a0 __asm__("a0") = operation;
    register const void *a1 __asm__("a1") = argument;
    /* These three instructions, uncompressed and in one page, are a call of the host. */
    __asm__ volatile(".option push\n.option norvc\n.balign 16\nslli zero, zero, 0x1f\nebreak\n"
                     "srai zero, zero, 7\n.option pop"
                     : "+r"(a0)
                     : "r"(a1)
                     : "memory");
}

static uint32_t executed(void)
{
    uint32_t count;
    __asm__ volatile("csrr %0, minstret" : "=r"(count) : : "memory");
    return count;
}

static uint32_t before;

static void begin_count(void)
{
    before = executed();
}

static uint32_t end_count(void)
{
    return executed() - before;
}

static uint8_t *stack_pointer(void)
{
    uint8_t *pointer;
    __asm__ volatile("mv %0, sp" : "=r"(pointer));
    return pointer;
}
#else
#define SYSTICK ((volatile uint32_t *)0xE000E010u) /* control, reload, value; it counts down */

static void host(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

static void begin_count(void)
{
    SYSTICK[1] = 0xFFFFFF;
    SYSTICK[0] = 5; /* enabled, from the processor's clock */
    SYSTICK[2] = 0;
}

static uint32_t end_count(void)
{
    return 0xFFFFFF - SYSTICK[2];
}

static uint8_t *stack_pointer(void)
{
    uint8_t *pointer;
    __asm__ volatile("mov %0, sp" : "=r"(pointer));
    return pointer;
}
#endif

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

void run(void)
{
    const uint8_t *image;
    uint8_t *to, *low;
    uint32_t count = 0;
    int k;

    for (to = ram_data; to < ram_data_end; to++)
        *to = ram_load[to - ram_data];
    for (to = ram_zero; to < ram_end; to++)
        *to = 0;
    low = stack_pointer();
    for (to = ram_end; to < low; to++) /* what stays so, no call has used */
        *(volatile uint8_t *)to = 0xA5;
    for (image = image_data; image < image_data_end; image += DIGIT_HEIGHT * DIGIT_WIDTH) {
        int32_t scores[DIGIT_CLASSES];
        int digit;

        begin_count();
        digit = digit_read(image, scores);
        count = end_count();
        for (to = ram_end; to < low && *(volatile uint8_t *)to == 0xA5; to++)
            ;
        print(digit, ' ');
        for (k = 0; k < DIGIT_CLASSES; k++)
            print(scores[k], k < DIGIT_CLASSES - 1 ? ' ' : '\n');
    }
    print(count, '\n');
    print(low - to, '\n');
#ifdef __riscv
    {
        static const uint32_t success[2] = {0x20026, 0};
        host(0x20, success); /* SYS_EXIT_EXTENDED */
    }
#else
    host(0x18, (const void *)0x20026); /* SYS_EXIT, success */
#endif
    for (;;)
        ;
}

#ifdef __riscv
__asm__(".section .vectors,\"ax\"\n.global _start\n_start: la sp, stack_top\nj run\n.previous");
#else
__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    stack_top, (const void *)run};
#endif
