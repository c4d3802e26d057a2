/* loss: cross entropy (smoothed, weighted), and what a student learns from its teacher's logits: the note's KL or the
 * squared error of the centred logits.  Value and gradient, in double.  Pure functions.
 *
 * Sources: torch.nn.CrossEntropyLoss (weight, label_smoothing, ignore_index), torch.nn.KLDivLoss, torch.nn.MSELoss,
 * sklearn.utils.class_weight.compute_class_weight; checked by tests/live/test_loss.py.
 */
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

/* Mean squared error of the centred logits, Σ ((s − mean s) − (t − mean t))² of one row; gradient[j] += weight times
 * its derivative.  The centred difference sums to 0, so the derivative of the centring is the identity on it. */
static double mse_row(const float *student, const float *teacher, int c, double weight, double *gradient) {
    double difference[DD_MAX_CLASSES], mean = 0.0, sum = 0.0;
    for (int j = 0; j < c; j++) {
        difference[j] = (double)student[j] - (double)teacher[j];
        mean += difference[j] / c;
    }
    for (int j = 0; j < c; j++) {
        double centred = difference[j] - mean;
        sum += centred * centred;
        gradient[j] += weight * 2.0 * centred;
    }
    return sum;
}

static double class_weight(const struct dd_loss_options *options, int class) {
    return options->class_weight != NULL ? options->class_weight[class] : 1.0;
}

/* The weighted sum of one row; `scale` times its derivative goes to gradient.  Smoothing moves the share s of the
 * target evenly to all classes: target_j = w_y (1 − s) [j = y] + w_j s / c, and the loss is −Σ target_j log p_j. */
static double ce_row(const float *student, int32_t label, int c, const struct dd_loss_options *options, double scale,
                     double *gradient) {
    double p[DD_MAX_CLASSES], weight = class_weight(options, label), smoothing = options->label_smoothing;
    log_softmax(student, c, 1.0, p);
    if (smoothing == 0.0) {
        for (int j = 0; j < c; j++) {
            gradient[j] += scale * weight * (exp(p[j]) - (j == label ? 1.0 : 0.0));
        }
        return weight * -p[label];
    }
    double loss = 0.0, mass = 0.0, target[DD_MAX_CLASSES];
    for (int j = 0; j < c; j++) {
        target[j] = class_weight(options, j) * smoothing / c + (j == label ? weight * (1.0 - smoothing) : 0.0);
        mass += target[j];
        loss -= target[j] != 0.0 ? target[j] * p[j] : 0.0;
    }
    for (int j = 0; j < c; j++) {
        gradient[j] += scale * (mass * exp(p[j]) - target[j]);
    }
    return loss;
}

/* Sum of the labelled rows' weights: what the cross entropy is divided by. */
static double label_mass(const int32_t *labels, int n, int c, const struct dd_loss_options *options) {
    double mass = 0.0;
    for (int i = 0; i < n; i++) {
        assert(labels[i] < c);
        mass += labels[i] >= 0 ? class_weight(options, labels[i]) : 0.0;
    }
    return mass;
}

struct dd_loss dd_loss_compute(const float *student, const float *teacher, const int32_t *labels, int n, int c,
                               const struct dd_loss_options *options, float *dlogits) {
    assert(c >= 1 && c <= DD_MAX_CLASSES);
    struct dd_loss loss = {0.0, 0.0, 0.0, 0.0};
    bool mse = options->kind == DD_LOSS_MSE;
    double temperature = options->temperature, alpha = options->alpha, share = teacher != NULL ? alpha : 0.0;
    double mass = label_mass(labels, n, c, options);
    for (int i = 0; i < n; i++) {
        size_t at = (size_t)i * (size_t)c;
        double gradient[DD_MAX_CLASSES] = {0.0};
        if (teacher != NULL && mse) {
            loss.kl += mse_row(student + at, teacher + at, c, share / c / n, gradient);
        } else if (teacher != NULL) {
            /* d (T² kl / n) / d student = T (p − q) / n */
            loss.kl += kl_row(student + at, teacher + at, c, temperature, share * temperature / n, gradient);
        }
        if (labels[i] >= 0) {
            loss.ce += ce_row(student + at, labels[i], c, options, (1.0 - share) / mass, gradient);
        }
        for (int j = 0; j < c && dlogits != NULL; j++) {
            dlogits[at + (size_t)j] = (float)gradient[j];
        }
    }
    if (teacher != NULL && n > 0) {
        loss.kl *= mse ? 1.0 / c / n : temperature * temperature / n;
    }
    loss.ce_weight = mass;
    loss.ce = mass > 0.0 ? loss.ce / mass : 0.0;
    loss.total = teacher != NULL ? alpha * loss.kl + (1.0 - alpha) * loss.ce : loss.ce;
    return loss;
}

struct dd_loss dd_distill_loss(const float *student, const float *teacher, const int32_t *labels, int n, int c,
                               double temperature, double alpha, float *dlogits) {
    const struct dd_loss_options options = {.kind = DD_LOSS_KL, .temperature = temperature, .alpha = alpha};
    return dd_loss_compute(student, teacher, labels, n, c, &options, dlogits);
}

enum dd_status dd_class_weights(const int32_t *labels, size_t n, int c, double **ret_weight, struct dd_error *err) {
    uint64_t count[DD_MAX_CLASSES] = {0}, labelled = 0;
    int present = 0;
    for (size_t i = 0; i < n; i++) {
        if (labels[i] >= 0) {
            assert(labels[i] < c);
            present += count[labels[i]]++ == 0;
            labelled++;
        }
    }
    double *weight = dd_calloc((size_t)c, sizeof *weight);
    if (weight == NULL) {
        return dd_fail_memory(err, (size_t)c * sizeof *weight);
    }
    for (int j = 0; j < c; j++) {
        weight[j] = count[j] > 0 ? (double)labelled / ((double)present * (double)count[j]) : 1.0;
    }
    *ret_weight = weight;
    return DD_OK;
}
