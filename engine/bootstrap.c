/* bootstrap: whether the difference of two runs on the same rows is more than the luck of the rows (Efron 1979; the
 * paired form of Koehn 2004).
 * Thread: any.  Pure functions of their arguments: the same rows give the same interval on every machine.
 *
 * A resample is a weight for each row, drawn once and used for all runs, so that what two runs get right or wrong on
 * the same rows cancels.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/nn.h"
#include "engine/report.h"

struct counts {
    int64_t hits[DD_MAX_CLASSES], gold[DD_MAX_CLASSES], predicted[DD_MAX_CLASSES];
};

void dd_bootstrap_rows(uint64_t seed, int resample, size_t n, uint32_t *rows) {
    const struct dd_stream stream = {.seed = seed, .purpose = DD_PURPOSE_BOOTSTRAP, .step = (uint64_t)resample};
    for (size_t i = 0; i < n; i++) {
        rows[i] = (uint32_t)dd_random_below(&stream, i, n);
    }
}

static double ratio(int64_t numerator, int64_t denominator) {
    return denominator == 0 ? 0.0 : (double)numerator / (double)denominator;
}

/* The score of one run with row i counted weight[i] times. */
static double score(const int32_t *gold, const int32_t *predicted, const uint32_t *weight, size_t n, int n_classes,
                    bool by_accuracy) {
    struct counts counts;
    memset(&counts, 0, sizeof counts);
    for (size_t i = 0; i < n; i++) {
        int64_t w = weight[i];
        counts.gold[gold[i]] += w;
        counts.predicted[predicted[i]] += w;
        counts.hits[gold[i]] += gold[i] == predicted[i] ? w : 0;
    }
    int64_t hits = 0;
    int occurring = 0;
    double sum = 0.0;
    for (int c = 0; c < n_classes; c++) {
        int64_t either = counts.gold[c] + counts.predicted[c];
        hits += counts.hits[c];
        occurring += either > 0;
        sum += ratio(2 * counts.hits[c], either);
    }
    return by_accuracy ? ratio(hits, (int64_t)n) : sum / occurring;
}

static enum dd_status check_labels(const int32_t *label, size_t n, int n_classes, struct dd_error *err) {
    for (size_t i = 0; i < n; i++) {
        if (label[i] < 0 || label[i] >= n_classes) {
            return dd_fail(err, DD_INVALID, "report_label", "row %zu has class %d; there are %d classes", i, label[i],
                           n_classes);
        }
    }
    return DD_OK;
}

static enum dd_status check_input(const int32_t *gold, size_t n, int n_classes, const int32_t *const *predicted,
                                  size_t n_runs, struct dd_error *err) {
    if (n == 0 || n > UINT32_MAX) {
        return dd_fail(err, DD_INVALID, "report_empty", "a resample needs 1 to %u rows, got %zu", UINT32_MAX, n);
    }
    if (n_classes < 1 || n_classes > DD_MAX_CLASSES) {
        return dd_fail(err, DD_INVALID, "report_classes", "between 1 and %d classes, got %d", DD_MAX_CLASSES,
                       n_classes);
    }
    enum dd_status status = check_labels(gold, n, n_classes, err);
    for (size_t run = 0; run < n_runs && status == DD_OK; run++) {
        status = check_labels(predicted[run], n, n_classes, err);
    }
    return status;
}

enum dd_status dd_bootstrap_scores(const int32_t *gold, size_t n, int n_classes, const int32_t *const *predicted,
                                   size_t n_runs, bool by_accuracy, int resamples, uint64_t seed,
                                   const struct dd_cancel *cancel, double *scores, struct dd_error *err) {
    enum dd_status status = check_input(gold, n, n_classes, predicted, n_runs, err);
    if (status != DD_OK) {
        return status;
    }
    DD_CLEANUP(dd_free_ptr) uint32_t *rows = dd_calloc(n, sizeof *rows);
    DD_CLEANUP(dd_free_ptr) uint32_t *weight = dd_calloc(n, sizeof *weight);
    if (!rows || !weight) {
        return dd_fail_memory(err, n * sizeof *rows);
    }
    size_t stride = (size_t)resamples + 1;
    for (size_t k = 0; k < stride; k++) {
        if (dd_cancel_requested(cancel) != DD_STOP_NONE) {
            return dd_fail(err, DD_STOPPED, "stopping", "the comparison was given up");
        }
        if (k > 0) {
            dd_bootstrap_rows(seed, (int)k - 1, n, rows);
        }
        for (size_t i = 0; i < n; i++) {
            weight[i] = k == 0;
        }
        for (size_t i = 0; k > 0 && i < n; i++) {
            weight[rows[i]]++;
        }
        for (size_t run = 0; run < n_runs; run++) {
            scores[run * stride + k] = score(gold, predicted[run], weight, n, n_classes, by_accuracy);
        }
    }
    return DD_OK;
}

static double mean_of(const double *scores, size_t stride, const size_t *runs, size_t n, size_t k) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        sum += scores[runs[i] * stride + k];
    }
    return sum / (double)n;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* numpy.percentile's linear interpolation, of sorted values. */
static double quantile(const double *sorted, int n, double q) {
    double at = q * (n - 1);
    int below = (int)floor(at);
    int above = below + 1 < n ? below + 1 : below;
    return sorted[below] + (at - below) * (sorted[above] - sorted[below]);
}

struct dd_interval dd_bootstrap_difference(const double *scores, int resamples, const size_t *a, size_t n_a,
                                           const size_t *b, size_t n_b, double confidence, double *scratch) {
    size_t stride = (size_t)resamples + 1;
    for (int k = 0; k < resamples; k++) {
        size_t column = (size_t)k + 1;
        scratch[k] = mean_of(scores, stride, a, n_a, column) - mean_of(scores, stride, b, n_b, column);
    }
    qsort(scratch, (size_t)resamples, sizeof *scratch, ascending);
    double tail = (1.0 - confidence) / 2.0;
    return (struct dd_interval){.difference = mean_of(scores, stride, a, n_a, 0) - mean_of(scores, stride, b, n_b, 0),
                                .low = quantile(scratch, resamples, tail),
                                .high = quantile(scratch, resamples, 1.0 - tail)};
}
