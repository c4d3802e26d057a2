/* number: doubles as text that reads as the same double. */
#include "common.h"

#include <float.h>
#include <math.h>
#include <stdio.h>

static uint64_t state_bits = 0x9E3779B97F4A7C15u;

static uint64_t next_bits(void) { /* xorshift64* */
    state_bits ^= state_bits >> 12;
    state_bits ^= state_bits << 25;
    state_bits ^= state_bits >> 27;
    return state_bits * 0x2545F4914F6CDD1Du;
}

/* The length of the shortest text that printf finds. */
static size_t printf_length(double value) {
    char text[64];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) {
            break;
        }
    }
    return strlen(text);
}

/* Reads back to the same bits; returns its length. */
static size_t check(double value) {
    char text[DD_NUMBER_TEXT_BYTES];
    size_t length = dd_number_print(value, text);
    assert_int_equal(length, strlen(text));
    double back = strtod(text, NULL);
    if (memcmp(&back, &value, sizeof back) != 0) {
        fail_msg("%.17g was printed as %s", value, text);
    }
    return length;
}

static void test_known(void **state) {
    (void)state;
    static const struct {
        double value;
        const char *text;
    } known[] = {
        {0.0, "0"},
        {-0.0, "0"},
        {1.0, "1"},
        {-1.0, "-1"},
        {0.1, "0.1"},
        {0.3, "0.3"},
        {2.0 / 3.0, "0.6666666666666666"},
        {1e-3, "0.001"},
        {1e-4, "0.0001"},
        {3e-5, "3e-05"},
        {1.5e-7, "1.5e-07"},
        {12.5, "12.5"},
        {123456789012345.6, "123456789012345.6"},
        {9007199254740991.0, "9007199254740991"},
        {-9007199254740992.0, "-9007199254740992"},
        {1e16, "1e+16"},
        {1e17, "1e+17"},
        {1e22, "1e+22"},
        {1.7976931348623157e308, "1.7976931348623157e+308"},
        {2.2250738585072014e-308, "2.2250738585072014e-308"},
        {5e-324, "4.94065645841247e-324"},
        {-1e-100, "-1e-100"},
        {INFINITY, "null"},
        {-INFINITY, "null"},
        {NAN, "null"},
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(known); i++) {
        char text[DD_NUMBER_TEXT_BYTES];
        assert_int_equal(dd_number_print(known[i].value, text), strlen(known[i].text));
        assert_string_equal(text, known[i].text);
    }
    char text[DD_NUMBER_TEXT_BYTES];
    assert_int_equal(dd_number_print_int(INT64_MIN, text), 20);
    assert_string_equal(text, "-9223372036854775808");
    assert_int_equal(dd_number_print_int(INT64_MAX, text), 19);
    assert_string_equal(text, "9223372036854775807");
}

static void test_every_exponent_and_its_edges(void **state) {
    (void)state;
    for (int exponent = -1074; exponent <= 1023; exponent++) {
        double power = ldexp(1.0, exponent);
        (void)check(power);
        (void)check(nextafter(power, INFINITY));
        if (exponent > -1074) {
            (void)check(nextafter(power, 0.0));
        }
    }
    for (int exponent = -323; exponent <= 308; exponent++) {
        char text[16];
        snprintf(text, sizeof text, "1e%d", exponent);
        double power = strtod(text, NULL);
        (void)check(power);
        (void)check(nextafter(power, INFINITY));
        (void)check(-nextafter(power, 0.0) < 0 ? -nextafter(power, 0.0) : power);
    }
}

static void test_any_bits(void **state) {
    (void)state;
    size_t longer = 0, count = 0;
    for (int i = 0; i < 300000; i++) {
        uint64_t bits = next_bits();
        double value;
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value)) {
            continue;
        }
        size_t length = check(value);
        if (i % 20 == 0) {
            count++;
            longer += length > printf_length(value);
        }
    }
    assert_true(count > 10000 && longer * 50 < count); /* fewer than 15 digits do for next to none of these */
}

/* What charts are made of: single precision, and quotients of small whole numbers. */
static void test_figures(void **state) {
    (void)state;
    for (int i = 0; i < 100000; i++) {
        uint32_t bits = (uint32_t)next_bits() & 0x7FFFFFFFu;
        float single;
        memcpy(&single, &bits, sizeof single);
        if (isfinite(single) && single != 0.0f) {
            (void)check((double)single);
        }
        double part = (double)(1 + next_bits() % 10000), whole = (double)(1 + next_bits() % 10000);
        (void)check(part / whole);
        (void)check(-part / 1000.0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known),
        cmocka_unit_test(test_every_exponent_and_its_edges),
        cmocka_unit_test(test_any_bits),
        cmocka_unit_test(test_figures),
    };
    return cmocka_run_group_tests_name("number", tests, NULL, NULL);
}
