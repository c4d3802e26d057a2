/* The report against texts that scikit-learn printed (tests/golden/make_report.py), the note's two exact cases first.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants these four first */
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/report.h"

/* Rows of a confusion matrix [n, n], one gold and one predicted class a row. */
struct rows {
    int32_t *gold, *predicted;
    size_t n;
};

static struct rows expand(const int64_t *confusion, int n) {
    struct rows rows = {0};
    size_t total = 0;
    for (int i = 0; i < n * n; i++) {
        total += (size_t)confusion[i];
    }
    rows.gold = calloc(total + 1, sizeof *rows.gold);
    rows.predicted = calloc(total + 1, sizeof *rows.predicted);
    assert_non_null(rows.gold);
    assert_non_null(rows.predicted);
    for (int i = 0; i < n * n; i++) {
        for (int64_t k = 0; k < confusion[i]; k++) {
            rows.gold[rows.n] = i / n;
            rows.predicted[rows.n++] = i % n;
        }
    }
    return rows;
}

static void rows_free(struct rows *rows) {
    free(rows->gold);
    free(rows->predicted);
}

static const char *const milk_names[] = {"测评", "种草", "科普"};

static void milk(const int64_t confusion[9], const char *expected) {
    struct rows rows = expand(confusion, 3);
    struct dd_report report;
    assert_int_equal(dd_report_compute(rows.gold, rows.predicted, rows.n, 3, true, &report, NULL), DD_OK);
    assert_memory_equal(report.confusion, confusion, 9 * sizeof *confusion);
    struct dd_buffer out;
    dd_buffer_init(&out, 1 << 16);
    dd_report_text(&report, milk_names, 4, &out);
    assert_string_equal(out.data, expected);
    dd_buffer_release(&out);
    dd_report_release(&report);
    rows_free(&rows);
}

/* The matrix is one of those that agree with the published figures; they leave one number free. */
static void test_milk_teacher(void **state) {
    (void)state;
    static const int64_t confusion[9] = {39, 7, 4, 10, 302, 33, 1, 32, 73};
    milk(confusion, "              precision    recall  f1-score   support\n"
                    "\n"
                    "          测评     0.7800    0.7800    0.7800        50\n"
                    "          种草     0.8856    0.8754    0.8805       345\n"
                    "          科普     0.6636    0.6887    0.6759       106\n"
                    "\n"
                    "    accuracy                         0.8263       501\n"
                    "   macro avg     0.7764    0.7813    0.7788       501\n"
                    "weighted avg     0.8281    0.8263    0.8272       501\n");
}

static void test_milk_student_that_answers_one_class(void **state) {
    (void)state;
    static const int64_t confusion[9] = {0, 50, 0, 0, 345, 0, 0, 106, 0};
    milk(confusion, "              precision    recall  f1-score   support\n"
                    "\n"
                    "          测评     0.0000    0.0000    0.0000        50\n"
                    "          种草     0.6886    1.0000    0.8156       345\n"
                    "          科普     0.0000    0.0000    0.0000       106\n"
                    "\n"
                    "    accuracy                         0.6886       501\n"
                    "   macro avg     0.2295    0.3333    0.2719       501\n"
                    "weighted avg     0.4742    0.6886    0.5616       501\n");
}

/* Next line without its end; the file is trusted, being ours. */
static char *next_line(char **at) {
    char *line = *at, *end = strchr(line, '\n');
    assert_non_null(end);
    *end = '\0';
    *at = end + 1;
    return line;
}

static void check_case(char **at) {
    int n, all, digits, lines;
    assert_int_equal(sscanf(next_line(at), "case %d %d %d %d", &n, &all, &digits, &lines), 4);
    const char *names[DD_MAX_CLASSES];
    char *name = next_line(at);
    for (int i = 0; i < n; i++) {
        names[i] = strsep(&name, "\t");
    }
    int64_t *confusion = calloc((size_t)n * (size_t)n, sizeof *confusion);
    assert_non_null(confusion);
    for (int i = 0; i < n; i++) {
        char *row = next_line(at);
        for (int j = 0; j < n; j++) {
            confusion[i * n + j] = strtoll(row, &row, 10);
        }
    }
    char *expected = *at;
    for (int i = 0; i < lines; i++) {
        *at = strchr(*at, '\n') + 1;
    }
    struct rows rows = expand(confusion, n);
    struct dd_report report;
    assert_int_equal(dd_report_compute(rows.gold, rows.predicted, rows.n, n, all, &report, NULL), DD_OK);
    struct dd_buffer out;
    dd_buffer_init(&out, 1 << 16);
    dd_report_text(&report, names, digits, &out);
    assert_int_equal(out.len, *at - expected);
    assert_memory_equal(out.data, expected, out.len);
    dd_buffer_release(&out);
    dd_report_release(&report);
    rows_free(&rows);
    free(confusion);
}

static void test_golden_texts(void **state) {
    (void)state;
    char *text = NULL;
    size_t len = 0;
    assert_int_equal(dd_file_read("tests/golden/fixtures/report/cases.txt", 1 << 20, &text, &len, NULL), DD_OK);
    int cases = 0;
    for (char *at = text; *at; cases++) {
        check_case(&at);
    }
    assert_true(cases >= 12);
    free(text);
}

static void test_labels_that_leave_rows_out(void **state) {
    (void)state;
    static const int32_t gold[] = {0, 0, 1, 2, 2}, predicted[] = {0, 2, 1, 1, 2};
    static const int labels[] = {2, 0};
    static const char *const names[] = {"a", "b", "c"};
    struct dd_report report;
    assert_int_equal(dd_report_compute_labels(gold, predicted, 5, 3, labels, 2, &report, NULL), DD_OK);
    assert_true(report.micro_avg);
    static const int64_t confusion[4] = {1, 0, 1, 1};
    assert_memory_equal(report.confusion, confusion, sizeof confusion);
    struct dd_buffer out;
    dd_buffer_init(&out, 1 << 16);
    dd_report_text(&report, names, 2, &out);
    assert_string_equal(out.data, "              precision    recall  f1-score   support\n"
                                  "\n"
                                  "           c       0.50      0.50      0.50         2\n"
                                  "           a       1.00      0.50      0.67         2\n"
                                  "\n"
                                  "   micro avg       0.67      0.50      0.57         4\n"
                                  "   macro avg       0.75      0.50      0.58         4\n"
                                  "weighted avg       0.75      0.50      0.58         4\n");
    dd_buffer_release(&out);
    dd_report_release(&report);
}

static void test_refusals(void **state) {
    (void)state;
    static const int32_t good[] = {0, 1}, high[] = {0, 2}, low[] = {0, -1};
    struct dd_report report;
    struct dd_error error;
    assert_int_equal(dd_report_compute(good, good, 0, 2, true, &report, &error), DD_INVALID);
    assert_int_equal(dd_report_compute(good, high, 2, 2, true, &report, &error), DD_INVALID);
    assert_int_equal(dd_report_compute(low, good, 2, 2, true, &report, &error), DD_INVALID);
    assert_int_equal(dd_report_compute(good, good, 2, 0, true, &report, &error), DD_INVALID);
    assert_int_equal(dd_report_compute(good, good, 2, DD_MAX_CLASSES + 1, true, &report, &error), DD_INVALID);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_milk_teacher), cmocka_unit_test(test_milk_student_that_answers_one_class),
        cmocka_unit_test(test_golden_texts), cmocka_unit_test(test_labels_that_leave_rows_out),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
