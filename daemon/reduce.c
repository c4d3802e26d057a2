/* Fewer rows for a chart, without losing what the eye looks for.
 * Threads: pure functions, any thread.
 */
#include <math.h>
#include <string.h>

#include "daemon/daemon.h"

#define MOST_COLUMNS 4

/* Rows of any record: `offsets` are those of the doubles whose extremes must stay. */
struct table {
    char *rows;
    size_t row_bytes;
    const size_t *offsets;
    size_t n_offsets;
};

static bool less(double a, double b) { /* NaN is the largest: a curve that broke must show */
    return isnan(b) ? !isnan(a) : a < b;
}

static double value_at(const struct table *t, size_t row, size_t offset) {
    double value;
    memcpy(&value, t->rows + row * t->row_bytes + offset, sizeof value);
    return value;
}

/* The rows with the least and the largest value in [first, last). */
static void extremes(const struct table *t, size_t first, size_t last, size_t offset, size_t ret_two[2]) {
    size_t low = first, high = first;
    for (size_t i = first; i < last; i++) {
        double value = value_at(t, i, offset);
        if (less(value, value_at(t, low, offset)))
            low = i;
        if (less(value_at(t, high, offset), value))
            high = i;
    }
    ret_two[0] = low;
    ret_two[1] = high;
}

/* First and last stay; each stretch between gives the extremes of as many of the columns as there is room for. */
static size_t reduce(const struct table *t, size_t n, size_t max_points) {
    size_t columns = DD_MIN(t->n_offsets, (max_points - 2) / 2), each = 2 * columns;
    size_t stretches = (max_points - 2) / each, inner = n - 2, kept = 1;
    for (size_t s = 0; s < stretches; s++) {
        size_t first = 1 + inner * s / stretches, last = 1 + inner * (s + 1) / stretches;
        size_t picks[2 * MOST_COLUMNS] = {0};
        if (first >= last)
            continue;
        for (size_t k = 0; k < columns; k++)
            extremes(t, first, last, t->offsets[k], picks + 2 * k);
        for (;;) { /* in order, each once; kept < first + picks, so nothing unread is overwritten */
            size_t next = last;
            for (size_t k = 0; k < each; k++)
                if (picks[k] >= first && picks[k] < next)
                    next = picks[k];
            if (next == last)
                break;
            memmove(t->rows + kept++ * t->row_bytes, t->rows + next * t->row_bytes, t->row_bytes);
            first = next + 1;
        }
    }
    memmove(t->rows + kept++ * t->row_bytes, t->rows + (n - 1) * t->row_bytes, t->row_bytes);
    return kept;
}

size_t dd_steps_reduce(struct dd_step_row *rows, size_t n, size_t max_points) {
    static const size_t offsets[] = {offsetof(struct dd_step_row, loss), offsetof(struct dd_step_row, grad_norm)};
    const struct table table = {(char *)rows, sizeof *rows, offsets, DD_ARRAY_LEN(offsets)};
    return n <= max_points || max_points < 4 ? DD_MIN(n, DD_MAX(max_points, (size_t)4)) : reduce(&table, n, max_points);
}

size_t dd_epochs_reduce(struct dd_epoch_row *rows, size_t n, size_t max_points) {
    static const size_t offsets[] = {offsetof(struct dd_epoch_row, macro_f1), offsetof(struct dd_epoch_row, dev_loss),
                                     offsetof(struct dd_epoch_row, accuracy),
                                     offsetof(struct dd_epoch_row, train_loss)};
    const struct table table = {(char *)rows, sizeof *rows, offsets, DD_ARRAY_LEN(offsets)};
    _Static_assert(DD_ARRAY_LEN(offsets) <= MOST_COLUMNS, "picks");
    return n <= max_points || max_points < 4 ? DD_MIN(n, DD_MAX(max_points, (size_t)4)) : reduce(&table, n, max_points);
}
