/* relation: how rows of one sequence and head relate, of student against teacher, with gradients; contract in
 * engine/simd.h.
 *
 * Rows are worked on DD_ATTENTION_BLOCK at a time.  Scratch: yᵀ of both sides [size, padded], then both tables of a
 * block [block, padded], then a row of e^… of each; padded is the number of columns rounded up to DD_SIMD_PAD.  Columns
 * past the last are 0 in yᵀ, so they count nothing in differences; in softmaxes they are taken out by hand.
 */
#include "engine/simd/kernels.h"
#include "engine/simd/math.h"
#include "engine/simd/product.h"

#include <math.h>

struct side {
    const struct dd_relation_side *of;
    float *yt, *table, *e;
};

struct work {
    const struct dd_relation *relation;
    size_t padded;
    struct side student, teacher;
};

static float *place(struct side *side, const struct dd_relation_side *of, size_t padded, float *at) {
    side->of = of;
    side->yt = at;
    return at + (size_t)of->size * padded;
}

static struct work work_new(const struct dd_relation *relation) {
    struct work work = {.relation = relation};
    size_t block = (size_t)DD_MIN(DD_ATTENTION_BLOCK, relation->n_rows);
    work.padded = ((size_t)relation->n_columns + DD_SIMD_PAD - 1) / DD_SIMD_PAD * DD_SIMD_PAD;
    float *at = place(&work.student, &relation->student, work.padded, relation->scratch);
    at = place(&work.teacher, &relation->teacher, work.padded, at);
    work.student.table = at;
    work.teacher.table = at + block * work.padded;
    work.student.e = at + 2 * block * work.padded;
    work.teacher.e = work.student.e + work.padded;
    return work;
}

/* yt [size, padded] = y [columns, size]ᵀ, columns past the last 0. */
static void transpose(const struct work *work, const struct side *side) {
    int columns = work->relation->n_columns;
    for (int d = 0; d < side->of->size; d++) {
        float *row = side->yt + (size_t)d * work->padded;
        for (int j = 0; j < columns; j++) {
            row[j] = side->of->y[(size_t)j * side->of->y_stride + (size_t)d];
        }
        for (size_t j = (size_t)columns; j < work->padded; j++) {
            row[j] = 0.0f;
        }
    }
}

/* table [rows, padded] = scale x yᵀ of the rows from i0 on. */
static void relate(const struct work *work, const struct side *side, int i0, int rows) {
    product(&(struct product){.m = rows,
                              .n = (int)work->padded,
                              .k = side->of->size,
                              .a = side->of->x + (size_t)i0 * side->of->x_stride,
                              .a_row = side->of->x_stride,
                              .a_column = 1,
                              .b = side->yt,
                              .ldb = work->padded,
                              .c = side->table,
                              .ldc = work->padded});
    for (size_t at = 0; at < (size_t)rows * work->padded; at += LANES) {
        store(side->table + at, load(side->table + at) * side->of->scale);
    }
}

static void fill_pads(const struct work *work, float *row, float value) {
    for (size_t j = (size_t)work->relation->n_columns; j < work->padded; j++) {
        row[j] = value;
    }
}

/* A row of differences; the student's becomes its gradient before the scale of x yᵀ. */
static double squares_row(const struct work *work, float *s, const float *t, float factor) {
    for (size_t j = 0; j < work->padded; j += LANES) {
        store(s + j, load(s + j) - load(t + j));
    }
    double sum = K(sum_squares)(work->padded, s);
    for (size_t j = 0; j < work->padded; j += LANES) {
        store(s + j, load(s + j) * factor);
    }
    return sum;
}

/* e = e^(row − its largest); pads of row are 0 afterwards, those of e, too.  *ret_inverse = 1 / Σ e; returns
 * log Σ e^row. */
static double exponents(const struct work *work, float *row, float *e, float *ret_inverse) {
    fill_pads(work, row, -INFINITY);
    vf most = splat(-INFINITY), sum = {0};
    for (size_t j = 0; j < work->padded; j += LANES) {
        most = vmax(load(row + j), most);
    }
    float shift = reduce_max(most);
    for (size_t j = 0; j < work->padded; j += LANES) {
        vf one = vexp(load(row + j) - shift);
        store(e + j, one);
        sum += one;
    }
    float total = reduce_sum(sum);
    fill_pads(work, row, 0.0f);
    *ret_inverse = 1.0f / total;
    return (double)shift + log((double)total);
}

/* KL(q || p) of a row, q and p the softmax of teacher and student: Σ q (t − s) + log Σ e^s − log Σ e^t; the student's
 * row becomes factor (p − q). */
static double divergence_row(const struct work *work, float *s, float *t, float factor) {
    float p_inverse, q_inverse, *es = work->student.e, *et = work->teacher.e;
    double difference = exponents(work, s, es, &p_inverse) - exponents(work, t, et, &q_inverse);
    vf sum = {0};
    for (size_t j = 0; j < work->padded; j += LANES) {
        vf p = load(es + j) * p_inverse, q = load(et + j) * q_inverse;
        sum += q * (load(t + j) - load(s + j));
        store(s + j, (p - q) * factor);
    }
    return (double)reduce_sum(sum) + difference;
}

/* dx += D y and dy += Dᵀ x, where D is the block's gradient. */
static void backward(const struct work *work, int i0, int rows, float *dx, size_t dx_stride, float *dy,
                     size_t dy_stride) {
    const struct dd_relation_side *of = work->student.of;
    product(&(struct product){.m = rows,
                              .n = of->size,
                              .k = work->relation->n_columns,
                              .a = work->student.table,
                              .a_row = work->padded,
                              .a_column = 1,
                              .b = of->y,
                              .ldb = of->y_stride,
                              .c = dx + (size_t)i0 * dx_stride,
                              .ldc = dx_stride,
                              .accumulate = true});
    product(&(struct product){.m = work->relation->n_columns,
                              .n = of->size,
                              .k = rows,
                              .a = work->student.table,
                              .a_row = 1,
                              .a_column = work->padded,
                              .b = of->x + (size_t)i0 * of->x_stride,
                              .ldb = of->x_stride,
                              .c = dy,
                              .ldc = dy_stride,
                              .accumulate = true});
}

double K(relation)(const struct dd_relation *relation, float *dx, size_t dx_stride, float *dy, size_t dy_stride) {
    struct work work = work_new(relation);
    double sum = 0.0;
    float scale = relation->student.scale * relation->step;
    transpose(&work, &work.student);
    transpose(&work, &work.teacher);
    for (int i0 = 0; i0 < relation->n_rows; i0 += DD_ATTENTION_BLOCK) {
        int rows = DD_MIN(DD_ATTENTION_BLOCK, relation->n_rows - i0);
        relate(&work, &work.student, i0, rows);
        relate(&work, &work.teacher, i0, rows);
        for (int i = 0; i < rows; i++) {
            float *s = work.student.table + (size_t)i * work.padded, *t = work.teacher.table + (size_t)i * work.padded;
            sum += relation->divergence ? divergence_row(&work, s, t, scale) : squares_row(&work, s, t, 2.0f * scale);
        }
        backward(&work, i0, rows, dx, dx_stride, dy, dy_stride);
    }
    return sum;
}
