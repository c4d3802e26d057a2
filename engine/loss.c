/* loss: cross-entropy and the distillation loss of the note, value and gradient, in double.  Pure functions. */
#include "engine/nn.h"

#include <assert.h>
#include <math.h>

/* out[c] = log softmax(logits / temperature). */
static void log_softmax(const float *logits, int c, double temperature, double *out) {
    double most = -INFINITY, sum = 0.0;
    for (int j = 0; j < c; j++) {
        most = fmax(most, (double)logits[j] / temperature);
    }
    for (int j = 0; j < c; j++) {
        out[j] = (double)logits[j] / temperature - most;
        sum += exp(out[j]);
    }
    /* The largest logit gave exp(0): sum is at least 1. */
    double shift = log(sum); // cppcheck-suppress invalidFunctionArg ; so never 0
    for (int j = 0; j < c; j++) {
        out[j] -= shift;
    }
}

/* Σ q (log q − log p) of one row; gradient[j] += weight (p − q).  With q = softmax(teacher / T), p = softmax(student /
 * T). */
static double kl_row(const float *student, const float *teacher, int c, double temperature, double weight,
                     double *gradient) {
    double p[DD_MAX_CLASSES], q[DD_MAX_CLASSES], kl = 0.0;
    log_softmax(student, c, temperature, p);
    log_softmax(teacher, c, temperature, q);
    for (int j = 0; j < c; j++) {
        double share = exp(q[j]);
        kl += share != 0.0 ? share * (q[j] - p[j]) : 0.0;
        gradient[j] += weight * (exp(p[j]) - share);
    }
    return kl;
}

static double ce_row(const float *student, int32_t label, int c, double weight, double *gradient) {
    double p[DD_MAX_CLASSES];
    log_softmax(student, c, 1.0, p);
    for (int j = 0; j < c; j++) {
        gradient[j] += weight * (exp(p[j]) - (j == label ? 1.0 : 0.0));
    }
    return -p[label];
}

struct dd_loss dd_distill_loss(const float *student, const float *teacher, const int32_t *labels, int n, int c,
                               double temperature, double alpha, float *dlogits) {
    assert(c >= 1 && c <= DD_MAX_CLASSES);
    struct dd_loss loss = {0.0, 0.0, 0.0};
    int labelled = 0;
    for (int i = 0; i < n; i++) {
        labelled += labels[i] >= 0 ? 1 : 0;
    }
    double share = teacher != NULL ? alpha : 0.0;
    for (int i = 0; i < n; i++) {
        size_t at = (size_t)i * (size_t)c;
        double gradient[DD_MAX_CLASSES] = {0.0};
        if (teacher != NULL) {
            /* d (T² kl / n) / d student = T (p − q) / n */
            loss.kl += kl_row(student + at, teacher + at, c, temperature, share * temperature / n, gradient);
        }
        if (labels[i] >= 0) {
            assert(labels[i] < c);
            loss.ce += ce_row(student + at, labels[i], c, (1.0 - share) / labelled, gradient);
        }
        for (int j = 0; j < c && dlogits != NULL; j++) {
            dlogits[at + (size_t)j] = (float)gradient[j];
        }
    }
    loss.kl *= n > 0 ? temperature * temperature / n : 0.0;
    loss.ce = labelled > 0 ? loss.ce / labelled : 0.0;
    loss.total = teacher != NULL ? alpha * loss.kl + (1.0 - alpha) * loss.ce : loss.ce;
    return loss;
}
