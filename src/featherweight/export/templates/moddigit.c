/* A module for MicroPython:
 *
 *     import digit
 *     label, scores = digit.read(image)   # digit.HEIGHT * digit.WIDTH bytes, row by row
 *     digit.looks()                       # of the last call: 1 or, if in doubt, digit.LOOKS
 *
 * label is the index of the largest score. Scores divided by digit.LOGIT are logits.
 *
 *     image = digit.prepare(picture, width, height)   # of a grey picture; None without ink
 *
 * This function exists if the folder has src/prepare.c. */
#include "py/runtime.h"

#include "digit.h"

#define PREPARES $prepares
#if PREPARES
#include "prepare.h"
#endif

static mp_obj_t read_image(mp_obj_t image)
{
    mp_buffer_info_t buffer;
    int32_t scores[DIGIT_CLASSES];
    mp_obj_t items[DIGIT_CLASSES], result[2];
    int k;

    mp_get_buffer_raise(image, &buffer, MP_BUFFER_READ);
    if (buffer.len != DIGIT_HEIGHT * DIGIT_WIDTH)
        mp_raise_ValueError(MP_ERROR_TEXT("expected an image of $pixels bytes"));
    result[0] = mp_obj_new_int(digit_read((const uint8_t *)buffer.buf, scores));
    for (k = 0; k < DIGIT_CLASSES; k++)
        items[k] = mp_obj_new_int(scores[k]);
    result[1] = mp_obj_new_tuple(DIGIT_CLASSES, items);
    return mp_obj_new_tuple(2, result);
}
static MP_DEFINE_CONST_FUN_OBJ_1(read_image_obj, read_image);

static mp_obj_t looks(void)
{
    return mp_obj_new_int(digit_looks());
}
static MP_DEFINE_CONST_FUN_OBJ_0(looks_obj, looks);

#if PREPARES
static mp_obj_t prepare_picture(mp_obj_t picture, mp_obj_t wide, mp_obj_t high)
{
    mp_buffer_info_t buffer;
    mp_int_t width = mp_obj_get_int(wide), height = mp_obj_get_int(high);
    uint8_t image[28 * 28];

    mp_get_buffer_raise(picture, &buffer, MP_BUFFER_READ);
    if (width < 1 || width > PREPARE_MAX_SIDE || height < 1 || height > PREPARE_MAX_SIDE)
        mp_raise_ValueError(MP_ERROR_TEXT("expected sides of 1 to $max_side pixels"));
    if (buffer.len != (size_t)(width * height))
        mp_raise_ValueError(MP_ERROR_TEXT("expected a picture of width * height bytes"));
    if (!digit_prepare((const uint8_t *)buffer.buf, (int)width, (int)height, image))
        return mp_const_none;
    return mp_obj_new_bytes(image, sizeof image);
}
static MP_DEFINE_CONST_FUN_OBJ_3(prepare_picture_obj, prepare_picture);
#endif

static const mp_rom_map_elem_t digit_globals_table[] = {
    {MP_ROM_QSTR(MP_QSTR___name__), MP_ROM_QSTR(MP_QSTR_digit)},
    {MP_ROM_QSTR(MP_QSTR_read), MP_ROM_PTR(&read_image_obj)},
    {MP_ROM_QSTR(MP_QSTR_looks), MP_ROM_PTR(&looks_obj)},
    {MP_ROM_QSTR(MP_QSTR_LOOKS), MP_ROM_INT(DIGIT_LOOKS)},
#if PREPARES
    {MP_ROM_QSTR(MP_QSTR_prepare), MP_ROM_PTR(&prepare_picture_obj)},
#endif
    {MP_ROM_QSTR(MP_QSTR_HEIGHT), MP_ROM_INT(DIGIT_HEIGHT)},
    {MP_ROM_QSTR(MP_QSTR_WIDTH), MP_ROM_INT(DIGIT_WIDTH)},
    {MP_ROM_QSTR(MP_QSTR_CLASSES), MP_ROM_INT(DIGIT_CLASSES)},
    {MP_ROM_QSTR(MP_QSTR_LOGIT), MP_ROM_INT(DIGIT_LOGIT)},
};
static MP_DEFINE_CONST_DICT(digit_globals, digit_globals_table);

const mp_obj_module_t digit_module = {
    .base = {&mp_type_module},
    .globals = (mp_obj_dict_t *)&digit_globals,
};
MP_REGISTER_MODULE(MP_QSTR_digit, digit_module);
