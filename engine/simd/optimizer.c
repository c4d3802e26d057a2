/* optimizer: the update rules, elementwise and in one pass.  A step on a gradient of zero and a replayed step are the
 * same float operations in the same order (hence the explicit vfma), so that late updates are exact; contracts in
 * engine/simd.h.
 */
#include "engine/simd/kernels.h"
#include "engine/simd/vec.h"

double K(sum_squares)(size_t count, const float *x) {
    double lane[LANES] = {0.0};
    size_t whole = count - count % LANES;
    for (size_t at = 0; at < whole; at += LANES) {
#pragma omp simd
        for (int i = 0; i < LANES; i++) {
            lane[i] += (double)x[at + (size_t)i] * (double)x[at + (size_t)i];
        }
    }
    double sum = 0.0;
    for (size_t at = whole; at < count; at++) {
        sum += (double)x[at] * (double)x[at];
    }
    for (int i = 0; i < LANES; i++) {
        sum += lane[i];
    }
    return sum;
}

/* torch.optim.AdamW:  p ← p (1 - lr λ);  m ← m + (g - m)(1 - β1);  v ← β2 v + (1 - β2) g²;
 * p ← p - lr / (1 - β1^t) · m / (√v / √(1 - β2^t) + ε). */
static inline vf adamw_one(const struct dd_adamw_step *step, vf p, vf g, vf *m, vf *v) {
    *m = vfma(g - *m, splat(step->beta1_rest), *m);
    *v = vfma(g * step->beta2_rest, g, *v * step->beta2);
    vf root = vfma(vsqrt(*v), splat(step->inverse_root), splat(step->eps));
    return vfma(*m / root, splat(-step->step_size), p * step->decay);
}

void K(adamw)(const struct dd_adamw_step *step, size_t count, float *p, const float *g, float *m, float *v) {
    for (size_t at = 0; at < count; at += LANES) {
        int n = (int)DD_MIN(count - at, (size_t)LANES);
        vf first = get(m + at, 0, n), second = get(v + at, 0, n), x = get(p + at, 0, n);
        x = adamw_one(step, x, get(g + at, 0, n) * step->clip, &first, &second);
        put(p + at, 0, n, x);
        put(m + at, 0, n, first);
        put(v + at, 0, n, second);
    }
}

void K(adamw_replay)(const struct dd_adamw_step *steps, size_t n_steps, size_t count, float *p, float *m, float *v) {
    for (size_t at = 0; at < count; at += LANES) {
        int n = (int)DD_MIN(count - at, (size_t)LANES);
        vf first = get(m + at, 0, n), second = get(v + at, 0, n), x = get(p + at, 0, n);
        for (size_t s = 0; s < n_steps; s++) {
            x = adamw_one(&steps[s], x, (vf){0}, &first, &second);
        }
        put(p + at, 0, n, x);
        put(m + at, 0, n, first);
        put(v + at, 0, n, second);
    }
}

/* What adamw_one does to p where m = v = 0 and ε > 0: p · decay - step_size · 0.  Four vectors at once, since each
 * product waits for the one before it. */
void K(decay_replay)(const struct dd_adamw_step *steps, size_t n_steps, size_t count, float *p) {
    size_t at = 0;
    for (; count - at >= 4 * LANES; at += 4 * LANES) {
        vf x0 = load(p + at), x1 = load(p + at + LANES), x2 = load(p + at + 2 * LANES), x3 = load(p + at + 3 * LANES);
        for (size_t s = 0; s < n_steps; s++) {
            x0 = x0 * steps[s].decay;
            x1 = x1 * steps[s].decay;
            x2 = x2 * steps[s].decay;
            x3 = x3 * steps[s].decay;
        }
        store(p + at, x0);
        store(p + at + LANES, x1);
        store(p + at + 2 * LANES, x2);
        store(p + at + 3 * LANES, x3);
    }
    for (; at < count; at += LANES) {
        int n = (int)DD_MIN(count - at, (size_t)LANES);
        vf x = get(p + at, 0, n);
        for (size_t s = 0; s < n_steps; s++) {
            x = x * steps[s].decay;
        }
        put(p + at, 0, n, x);
    }
}

/* torch.optim.SGD, dampening 0:  d = g + λ p;  m ← μ m + d;  p ← p - lr m, or with nesterov p - lr (d + μ m). */
static inline vf sgd_one(const struct dd_sgd_step *step, vf p, vf g, vf *m) {
    vf d = vfma(p, splat(step->weight_decay), g);
    *m = vfma(*m, splat(step->momentum), d);
    vf by = step->nesterov ? vfma(*m, splat(step->momentum), d) : *m;
    return vfma(by, splat(-step->lr), p);
}

void K(sgd)(const struct dd_sgd_step *step, size_t count, float *p, const float *g, float *m) {
    for (size_t at = 0; at < count; at += LANES) {
        int n = (int)DD_MIN(count - at, (size_t)LANES);
        vf buffer = m != NULL ? get(m + at, 0, n) : (vf){0};
        put(p + at, 0, n, sgd_one(step, get(p + at, 0, n), get(g + at, 0, n) * step->clip, &buffer));
        if (m != NULL) {
            put(m + at, 0, n, buffer);
        }
    }
}

void K(sgd_replay)(const struct dd_sgd_step *steps, size_t n_steps, size_t count, float *p, float *m) {
    for (size_t at = 0; at < count; at += LANES) {
        int n = (int)DD_MIN(count - at, (size_t)LANES);
        vf buffer = m != NULL ? get(m + at, 0, n) : (vf){0}, x = get(p + at, 0, n);
        for (size_t s = 0; s < n_steps; s++) {
            x = sgd_one(&steps[s], x, (vf){0}, &buffer);
        }
        put(p + at, 0, n, x);
        if (m != NULL) {
            put(m + at, 0, n, buffer);
        }
    }
}
