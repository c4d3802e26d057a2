/* report: scikit-learn's classification_report and confusion matrix, to the byte.
 * Thread: any.
 *
 * The figures are the same doubles as scikit-learn's, not only equal to four digits: a mean that falls between two
 * roundings would show.  So F1 is 2 tp / (gold + predicted), and means are sums in numpy's pairwise order divided by
 * the count, or by the support.
 */
#include "engine/report.h"

#include <stdlib.h>
#include <string.h>

#include "engine/unicode.h"

/* numpy's pairwise summation of contiguous doubles (loops_utils.h.src: blocks of 128, eight partial sums). */
static double pairwise_sum(const double *values, size_t n) {
    if (n < 8) {
        double sum = 0;
        for (size_t i = 0; i < n; i++) {
            sum += values[i];
        }
        return sum;
    }
    if (n <= 128) {
        double part[8];
        memcpy(part, values, sizeof part);
        size_t i = 8;
        for (; i < n - n % 8; i += 8) {
            for (size_t j = 0; j < 8; j++) {
                part[j] += values[i + j];
            }
        }
        double sum = ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
        for (; i < n; i++) {
            sum += values[i];
        }
        return sum;
    }
    size_t half = n / 2;
    half -= half % 8;
    return pairwise_sum(values, half) + pairwise_sum(values + half, n - half);
}

static double ratio(double numerator, double denominator) {
    return denominator == 0 ? 0 : numerator / denominator;
}

/* Mean of one figure over the rows; weighted by support, or plain. */
static double mean(const struct dd_report *report, size_t figure_offset, bool weighted) {
    double values[DD_MAX_CLASSES];
    for (int i = 0; i < report->n_classes; i++) {
        const char *row = (const char *)&report->rows[i];
        memcpy(&values[i], row + figure_offset, sizeof values[i]);
        if (weighted) {
            values[i] *= (double)report->rows[i].support;
        }
    }
    return ratio(pairwise_sum(values, (size_t)report->n_classes),
                 weighted ? (double)report->support : (double)report->n_classes);
}

static struct dd_report_row means(const struct dd_report *report, bool weighted) {
    return (struct dd_report_row){.precision = mean(report, offsetof(struct dd_report_row, precision), weighted),
                                  .recall = mean(report, offsetof(struct dd_report_row, recall), weighted),
                                  .f1 = mean(report, offsetof(struct dd_report_row, f1), weighted),
                                  .support = report->support};
}

static struct dd_report_row figures(int64_t hits, int64_t predicted, int64_t gold) {
    return (struct dd_report_row){.precision = ratio((double)hits, (double)predicted),
                                  .recall = ratio((double)hits, (double)gold),
                                  .f1 = ratio(2.0 * (double)hits, (double)gold + (double)predicted),
                                  .support = gold};
}

struct counts {
    int64_t hits[DD_MAX_CLASSES], gold[DD_MAX_CLASSES], predicted[DD_MAX_CLASSES];
};

/* Fills every figure of *report, whose n_classes and class_index stand, but the confusion matrix. */
static void fill_figures(struct dd_report *report, const struct counts *counts, size_t n) {
    int64_t hits = 0, gold = 0, predicted = 0;
    for (int i = 0; i < report->n_classes; i++) {
        int c = report->class_index[i];
        report->rows[i] = figures(counts->hits[c], counts->predicted[c], counts->gold[c]);
        hits += counts->hits[c];
        gold += counts->gold[c];
        predicted += counts->predicted[c];
    }
    report->support = gold;
    report->macro = means(report, false);
    report->weighted = means(report, true);
    report->micro = figures(hits, predicted, gold);
    report->accuracy = report->micro.f1;
    report->no_hits = true;
    for (int c = 0; c < DD_MAX_CLASSES; c++) {
        report->no_hits = report->no_hits && counts->hits[c] == 0;
    }
    report->micro_avg = (size_t)gold != n || (size_t)predicted != n;
}

static enum dd_status fill_confusion(struct dd_report *report, const int32_t *gold, const int32_t *predicted, size_t n,
                                     struct dd_error *err) {
    size_t side = (size_t)report->n_classes;
    int position[DD_MAX_CLASSES];
    for (int c = 0; c < DD_MAX_CLASSES; c++) {
        position[c] = -1;
    }
    for (int i = 0; i < report->n_classes; i++) {
        position[report->class_index[i]] = i;
    }
    report->confusion = dd_calloc(side * side, sizeof *report->confusion);
    if (!report->confusion) {
        return dd_fail_memory(err, side * side * sizeof *report->confusion);
    }
    for (size_t i = 0; i < n; i++) {
        int row = position[gold[i]], column = position[predicted[i]];
        if (row >= 0 && column >= 0) {
            report->confusion[(size_t)row * side + (size_t)column]++;
        }
    }
    return DD_OK;
}

static enum dd_status count_rows(const int32_t *gold, const int32_t *predicted, size_t n, int n_classes,
                                 struct counts *counts, struct dd_error *err) {
    if (n == 0) {
        return dd_fail(err, DD_INVALID, "report_empty", "a report needs at least one row");
    }
    if (n_classes < 1 || n_classes > DD_MAX_CLASSES) {
        return dd_fail(err, DD_INVALID, "report_classes", "a report shows 1 to %d classes, got %d", DD_MAX_CLASSES,
                       n_classes);
    }
    memset(counts, 0, sizeof *counts);
    for (size_t i = 0; i < n; i++) {
        if (gold[i] < 0 || gold[i] >= n_classes || predicted[i] < 0 || predicted[i] >= n_classes) {
            return dd_fail(err, DD_INVALID, "report_label", "row %zu has class %d, predicted %d; there are %d classes",
                           i, gold[i], predicted[i], n_classes);
        }
        counts->gold[gold[i]]++;
        counts->predicted[predicted[i]]++;
        counts->hits[gold[i]] += gold[i] == predicted[i];
    }
    return DD_OK;
}

enum dd_status dd_report_compute_labels(const int32_t *gold, const int32_t *predicted, size_t n, int n_classes,
                                        const int *labels, int n_labels, struct dd_report *ret_report,
                                        struct dd_error *err) {
    struct counts counts;
    enum dd_status status = count_rows(gold, predicted, n, n_classes, &counts, err);
    if (status) {
        return status;
    }
    struct dd_report report = {.n_classes = n_labels};
    memcpy(report.class_index, labels, (size_t)n_labels * sizeof *labels);
    fill_figures(&report, &counts, n);
    status = fill_confusion(&report, gold, predicted, n, err);
    if (!status) {
        *ret_report = report;
    }
    return status;
}

enum dd_status dd_report_compute(const int32_t *gold, const int32_t *predicted, size_t n, int n_classes,
                                 bool all_classes, struct dd_report *ret_report, struct dd_error *err) {
    struct counts counts;
    enum dd_status status = count_rows(gold, predicted, n, n_classes, &counts, err);
    if (status) {
        return status;
    }
    int labels[DD_MAX_CLASSES], n_labels = 0;
    for (int c = 0; c < n_classes; c++) {
        if (all_classes || counts.gold[c] > 0 || counts.predicted[c] > 0) {
            labels[n_labels++] = c;
        }
    }
    return dd_report_compute_labels(gold, predicted, n, n_classes, labels, n_labels, ret_report, err);
}

void dd_report_release(struct dd_report *report) {
    free(report->confusion);
    report->confusion = NULL;
}

/* --- the text ---------------------------------------------------------------- */

/* The heading, right-aligned to `width` code points, and the blank that ends its column. */
static void put_heading(struct dd_buffer *out, const char *heading, int width) {
    int length = (int)dd_utf8_count(heading, strlen(heading));
    dd_buffer_printf(out, "%*s%s ", width > length ? width - length : 0, "", heading);
}

/* scikit-learn counts in floats where there are no hits, and so prints its counts. */
static void put_support(struct dd_buffer *out, int64_t support, bool no_hits) {
    if (no_hits) {
        dd_buffer_printf(out, " %9.1f\n", (double)support);
    } else {
        dd_buffer_printf(out, " %9lld\n", (long long)support);
    }
}

static void put_row(struct dd_buffer *out, const char *heading, int width, int digits, const struct dd_report_row *row,
                    bool no_hits) {
    put_heading(out, heading, width);
    dd_buffer_printf(out, " %9.*f %9.*f %9.*f", digits, row->precision, digits, row->recall, digits, row->f1);
    put_support(out, row->support, no_hits);
}

void dd_report_text(const struct dd_report *report, const char *const *class_names, int digits, struct dd_buffer *out) {
    int width = DD_MAX((int)strlen("weighted avg"), digits);
    for (int i = 0; i < report->n_classes; i++) {
        const char *name = class_names[report->class_index[i]];
        width = DD_MAX(width, (int)dd_utf8_count(name, strlen(name)));
    }
    put_heading(out, "", width);
    dd_buffer_printf(out, " %9s %9s %9s %9s\n\n", "precision", "recall", "f1-score", "support");
    for (int i = 0; i < report->n_classes; i++) {
        put_row(out, class_names[report->class_index[i]], width, digits, &report->rows[i], report->no_hits);
    }
    dd_buffer_putc(out, '\n');
    if (report->micro_avg) {
        put_row(out, "micro avg", width, digits, &report->micro, report->no_hits);
    } else {
        put_heading(out, "accuracy", width);
        dd_buffer_printf(out, " %9s %9s %9.*f", "", "", digits, report->accuracy);
        put_support(out, report->support, report->no_hits);
    }
    put_row(out, "macro avg", width, digits, &report->macro, report->no_hits);
    put_row(out, "weighted avg", width, digits, &report->weighted, report->no_hits);
}
