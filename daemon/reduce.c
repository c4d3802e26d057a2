/* Fewer rows for a chart, without losing what the eye looks for; and smoothing, which has to see every row.
 * Threads: pure functions, any thread.
 */
#include <math.h>
#include <string.h>

#include "daemon/daemon.h"

#define MOST_COLUMNS 4
#define NONE SIZE_MAX

/* Rows of any record: `offsets` are those of the doubles whose extremes must stay. */
struct table {
    char *rows, *also; /* also: as many rows of the same kind, NULL or reduced alike */
    size_t row_bytes;
    const size_t *offsets;
    size_t n_offsets;
    bool (*marked)(const void *row, const void *before); /* NULL, or whether a row has to stay for what it marks */
    size_t always;                                       /* one more that has to stay, or NONE */
};

static bool less(double a, double b) { /* NaN is the largest: a curve that broke must show */
    return isnan(b) ? !isnan(a) : a < b;
}

static double value_at(const void *row, size_t offset) {
    double value;
    memcpy(&value, (const char *)row + offset, sizeof value);
    return value;
}

static const void *row_at(const struct table *t, size_t row) {
    return t->rows + row * t->row_bytes;
}

static bool must_stay(const struct table *t, size_t row) {
    return row == t->always || (t->marked && t->marked(row_at(t, row), row_at(t, row - 1)));
}

/* The rows with the least and the largest value in [first, last). */
static void extremes(const struct table *t, size_t first, size_t last, size_t offset, size_t ret_two[2]) {
    size_t low = first, high = first;
    for (size_t i = first; i < last; i++) {
        double value = value_at(row_at(t, i), offset);
        if (less(value, value_at(row_at(t, low), offset)))
            low = i;
        if (less(value_at(row_at(t, high), offset), value))
            high = i;
    }
    ret_two[0] = low;
    ret_two[1] = high;
}

static void keep(const struct table *t, size_t to, size_t from) {
    memmove(t->rows + to * t->row_bytes, t->rows + from * t->row_bytes, t->row_bytes);
    if (t->also != NULL)
        memmove(t->also + to * t->row_bytes, t->also + from * t->row_bytes, t->row_bytes);
}

/* The marked rows between the first and the last, and how many of the oldest of them there is no room for. */
static size_t count_marks(const struct table *t, size_t n, size_t max_points, size_t *ret_dropped) {
    size_t marks = 0, most = (max_points - 4) / 2;
    for (size_t i = 1; i + 1 < n; i++)
        marks += must_stay(t, i);
    *ret_dropped = marks > most ? marks - most : 0;
    return marks - *ret_dropped;
}

/* First, last and what is marked stay; each stretch between gives the extremes of as many of the columns as there is
 * room for. */
static size_t reduce(const struct table *t, size_t n, size_t max_points) {
    size_t dropped, room = max_points - 2 - count_marks(t, n, max_points, &dropped);
    size_t columns = DD_MIN(t->n_offsets, room / 2), each = 2 * columns;
    size_t stretches = room / each, inner = n - 2, kept = 1;
    for (size_t s = 0; s < stretches; s++) {
        size_t first = 1 + inner * s / stretches, last = 1 + inner * (s + 1) / stretches;
        size_t picks[2 * MOST_COLUMNS] = {0};
        for (size_t k = 0; k < columns && first < last; k++)
            extremes(t, first, last, t->offsets[k], picks + 2 * k);
        for (size_t i = first; i < last; i++) { /* kept <= i: what is still to be read is not overwritten */
            bool stays = must_stay(t, i);
            if (stays && dropped > 0) {
                dropped--;
                stays = false;
            }
            for (size_t k = 0; k < each; k++)
                stays |= picks[k] == i;
            if (stays)
                keep(t, kept++, i);
        }
    }
    keep(t, kept++, n - 1);
    return kept;
}

size_t dd_steps_reduce(struct dd_step_row *rows, struct dd_step_row *also, size_t n, size_t max_points) {
    static const size_t offsets[] = {offsetof(struct dd_step_row, loss), offsetof(struct dd_step_row, grad_norm)};
    const struct table table = {(char *)rows, (char *)also, sizeof *rows, offsets, DD_ARRAY_LEN(offsets), NULL, NONE};
    return n <= max_points || max_points < 4 ? DD_MIN(n, DD_MAX(max_points, (size_t)4)) : reduce(&table, n, max_points);
}

/* Where the guard went back, and where the run was taken up again: charts mark both. */
static bool epoch_marked(const void *row, const void *before) {
    const struct dd_epoch_row *epoch = row, *previous = before;
    return epoch->rollback != 0 || epoch->attempt != previous->attempt;
}

size_t dd_epochs_reduce(struct dd_epoch_row *rows, struct dd_epoch_row *also, size_t n, size_t max_points) {
    static const size_t offsets[] = {offsetof(struct dd_epoch_row, macro_f1), offsetof(struct dd_epoch_row, dev_loss),
                                     offsetof(struct dd_epoch_row, accuracy),
                                     offsetof(struct dd_epoch_row, train_loss)};
    _Static_assert(DD_ARRAY_LEN(offsets) <= MOST_COLUMNS, "picks");
    size_t best = NONE; /* the newest that was best when it came */
    for (size_t i = 0; i < n; i++)
        if (rows[i].is_best)
            best = i;
    const struct table table = {(char *)rows,          (char *)also, sizeof *rows, offsets,
                                DD_ARRAY_LEN(offsets), epoch_marked, best};
    return n <= max_points || max_points < 4 ? DD_MIN(n, DD_MAX(max_points, (size_t)4)) : reduce(&table, n, max_points);
}

/* --- smoothing --------------------------------------------------------------------------------------------------- */

/* y' = y'₋₁ + (1 − exp(−Δx / tau)) (y − y'₋₁), begun at the first value: over x and not over rows, so that a gap weighs
 * as what it is.  What is not finite stays as it is and changes nothing behind it.  web/src/smooth.js does the same. */
static void smooth(const struct table *t, size_t n, double (*x)(const void *row), double tau) {
    for (size_t k = 0; k < t->n_offsets; k++) {
        double mean = NAN, before = NAN;
        for (size_t i = 0; i < n; i++) {
            char *row = t->rows + i * t->row_bytes;
            double value = value_at(row, t->offsets[k]);
            if (!isfinite(value))
                continue;
            mean = isnan(mean) ? value : mean + -expm1((before - x(row)) / tau) * (value - mean);
            before = x(row);
            memcpy(row + t->offsets[k], &mean, sizeof mean);
        }
    }
}

void *dd_rows_copy(const void *rows, size_t n, size_t row_bytes) {
    void *copy = dd_calloc(DD_MAX(n, (size_t)1), row_bytes);
    if (copy != NULL && n > 0)
        memcpy(copy, rows, n * row_bytes);
    return copy;
}

static double x_of_step(const void *row) {
    return (double)((const struct dd_step_row *)row)->step;
}

static double x_of_epoch(const void *row) {
    return ((const struct dd_epoch_row *)row)->epoch;
}

void dd_steps_smooth(struct dd_step_row *rows, size_t n, double tau) {
    static const size_t offsets[] = {offsetof(struct dd_step_row, loss), offsetof(struct dd_step_row, kl),
                                     offsetof(struct dd_step_row, ce), offsetof(struct dd_step_row, grad_norm)};
    const struct table table = {(char *)rows, NULL, sizeof *rows, offsets, DD_ARRAY_LEN(offsets), NULL, NONE};
    smooth(&table, n, x_of_step, tau);
}

void dd_epochs_smooth(struct dd_epoch_row *rows, size_t n, double tau) {
    size_t offsets[32];
    const struct table table = {
        (char *)rows, NULL, sizeof *rows, offsets, dd_epoch_smoothed(offsets, DD_ARRAY_LEN(offsets)), NULL, NONE};
    smooth(&table, n, x_of_epoch, tau);
}
