/* Fewer steps for a chart, without losing what the eye looks for.
 * Threads: pure functions, any thread.
 */
#include <math.h>
#include <string.h>

#include "daemon/daemon.h"

static bool less(double a, double b) { /* NaN is the largest: a curve that broke must show */
    return isnan(b) ? !isnan(a) : a < b;
}

/* Marks the rows with the least and the largest value in [first, last). */
static void extremes(const struct dd_step_row *rows, size_t first, size_t last, size_t offset, size_t ret_two[2]) {
    size_t low = first, high = first;
    for (size_t i = first; i < last; i++) {
        double value, at_low, at_high;
        memcpy(&value, (const char *)&rows[i] + offset, sizeof value);
        memcpy(&at_low, (const char *)&rows[low] + offset, sizeof value);
        memcpy(&at_high, (const char *)&rows[high] + offset, sizeof value);
        if (less(value, at_low))
            low = i;
        if (less(at_high, value))
            high = i;
    }
    ret_two[0] = low;
    ret_two[1] = high;
}

size_t dd_steps_reduce(struct dd_step_row *rows, size_t n, size_t max_points) {
    if (n <= max_points || max_points < 4)
        return DD_MIN(n, DD_MAX(max_points, (size_t)4));
    /* First and last stay; each stretch between gives the extremes of loss and, where there is room for at least one
     * stretch of four points, of the gradient norm. */
    bool norms = max_points >= 6;
    size_t each = norms ? 4 : 2, stretches = (max_points - 2) / each, inner = n - 2, kept = 1;
    for (size_t s = 0; s < stretches; s++) {
        size_t first = 1 + inner * s / stretches, last = 1 + inner * (s + 1) / stretches, picks[4];
        if (first >= last)
            continue;
        extremes(rows, first, last, offsetof(struct dd_step_row, loss), picks);
        if (norms)
            extremes(rows, first, last, offsetof(struct dd_step_row, grad_norm), picks + 2);
        for (;;) { /* in order, each once; kept < first + picks, so nothing unread is overwritten */
            size_t next = last;
            for (size_t k = 0; k < each; k++)
                if (picks[k] >= first && picks[k] < next)
                    next = picks[k];
            if (next == last)
                break;
            rows[kept++] = rows[next];
            first = next + 1;
        }
    }
    rows[kept++] = rows[n - 1];
    return kept;
}
