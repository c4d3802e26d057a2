/* number: numbers as decimal text that reads as the same number.
 *
 * Integers need no formatting function.  The others go through strfromd (C23, glibc 2.25), not snprintf: libquadmath,
 * which OpenBLAS brings in, hooks into printf and makes each conversion slower.  15 digits are tried first, which is
 * what most numbers that people gave need, then 16, then 17, which are enough for every double (IEEE 754-2008, 5.12.2).
 * Threads: pure functions, any thread.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define EXACT_INTEGERS 9007199254740992.0 /* 2^53 */

size_t dd_number_print_int(int64_t value, char out[DD_NUMBER_TEXT_BYTES]) {
    char reversed[20];
    size_t digits = 0, len = 0;
    uint64_t rest = value < 0 ? -(uint64_t)value : (uint64_t)value;
    do {
        reversed[digits++] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest > 0);
    if (value < 0) {
        out[len++] = '-';
    }
    while (digits > 0) {
        out[len++] = reversed[--digits];
    }
    out[len] = '\0';
    return len;
}

size_t dd_number_digits(double value, char out[DD_NUMBER_TEXT_BYTES]) {
    static const char *const formats[] = {"%.15g", "%.16g", "%.17g"};
    for (size_t i = 0; i < DD_ARRAY_LEN(formats); i++) {
        (void)strfromd(out, DD_NUMBER_TEXT_BYTES, formats[i], value);
        if (strtod(out, NULL) == value) {
            break;
        }
    }
    return strlen(out);
}

size_t dd_number_print(double value, char out[DD_NUMBER_TEXT_BYTES]) {
    if (fabs(value) <= EXACT_INTEGERS && value == trunc(value)) {
        return dd_number_print_int((int64_t)value, out);
    }
    if (!isfinite(value)) { /* JSON has no word for it */
        memcpy(out, "null", 5);
        return 4;
    }
    return dd_number_digits(value, out);
}
