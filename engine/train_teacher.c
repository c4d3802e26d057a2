/* train_teacher: what the teacher says about every row, once a run: logits from the cache, its labels matched to the
 * data set's classes.  Labelled, unlabelled and augmented rows are asked about apart: each has its entry in the cache,
 * so that what one run has asked serves another that uses only some of them.  The teacher runs without dropout and in
 * fp32 whatever the run's precision.
 */
#include "engine/train.h"

#include <stdlib.h>

/* [rows, labels] in the teacher's order to [rows, classes] in the data set's. */
static void pick_classes(const float *answer, size_t rows, int labels, const int *label_of_class, int classes,
                         float *logits) {
    for (size_t r = 0; r < rows; r++) {
        for (int c = 0; c < classes; c++) {
            logits[r * (size_t)classes + (size_t)c] = answer[r * (size_t)labels + (size_t)label_of_class[c]];
        }
    }
}

/* What one piece of the teacher's work is. */
struct question {
    const char *rows_are; /* in the log: "train" */
    uint32_t first, rows; /* of packed */
};

/* The teacher's logits for these rows into logits [rows, classes]. */
static enum dd_status ask(struct dd_run *run, const struct dd_packed *packed, const struct question *question,
                          const int *label_of_class, const struct dd_progress *progress, float *logits,
                          struct dd_error *err) {
    const struct dd_train_input *in = run->input;
    struct dd_packed part;
    float *answer = NULL;
    bool computed = false;
    int64_t start = dd_clock_mono_us();
    enum dd_status status = dd_packed_part(packed, question->first, question->rows, &part, err);
    if (status != DD_OK) {
        return status;
    }
    status = dd_logits_cached(in->base, &part, run->spec->max_length, in->cache_dir, in->pool, &in->events, progress,
                              in->cancel, &answer, &computed, err);
    if (status == DD_OK) {
        double seconds = (double)(dd_clock_mono_us() - start) / 1e6;
        if (computed) {
            dd_run_log(run, DD_LOG_INFO, "asked the teacher about %u %s rows: %.1f s, %.0f tokens/s", part.rows,
                       question->rows_are, seconds, (double)part.n_tokens / DD_MAX(seconds, 1e-6));
        } else {
            dd_run_log(run, DD_LOG_INFO, "the teacher's logits for %u %s rows came from the cache", part.rows,
                       question->rows_are);
        }
        pick_classes(answer, part.rows, in->base->info.config.n_labels, label_of_class, run->n_classes, logits);
    }
    free(answer);
    dd_packed_part_release(&part);
    return status;
}

/* All questions about the rows of packed; from, to: their part of the phase. */
static enum dd_status ask_all(struct dd_run *run, const struct dd_packed *packed, const struct question *questions,
                              size_t n, const int *label_of_class, double from, double to, float **ret_logits,
                              struct dd_error *err) {
    size_t classes = (size_t)run->n_classes;
    float *logits = dd_calloc(packed->rows, classes * sizeof *logits);
    enum dd_status status = logits ? DD_OK : dd_fail_memory(err, packed->rows * classes * sizeof *logits);
    double scale = (to - from) / (double)packed->n_tokens;
    for (size_t i = 0; status == DD_OK && i < n; i++) {
        const struct question *q = &questions[i];
        if (q->rows == 0) {
            continue;
        }
        const struct dd_progress progress = {.events = &run->input->events,
                                             .phase = "teacher",
                                             .from = from + scale * (double)packed->offsets[q->first],
                                             .to = from + scale * (double)packed->offsets[q->first + q->rows]};
        status = ask(run, packed, q, label_of_class, &progress, logits + q->first * classes, err);
    }
    if (status != DD_OK) {
        free(logits);
        return status;
    }
    *ret_logits = logits;
    return DD_OK;
}

static enum dd_status ask_about_everything(struct dd_run *run, const int *label_of_class, struct dd_error *err) {
    const struct question dev[] = {{"dev", 0, run->dev.rows}};
    const struct question train[] = {{"train", 0, run->n_labelled},
                                     {"unlabelled", run->n_labelled, run->n_unlabelled},
                                     {"augmented", run->n_labelled + run->n_unlabelled, run->n_augmented}};
    double share = (double)run->dev.n_tokens / (double)(run->dev.n_tokens + run->train.n_tokens);
    enum dd_status status =
        ask_all(run, &run->dev, dev, DD_ARRAY_LEN(dev), label_of_class, 0.0, share, &run->teacher_dev, err);
    if (status == DD_OK) {
        status =
            ask_all(run, &run->train, train, DD_ARRAY_LEN(train), label_of_class, share, 1.0, &run->teacher_train, err);
    }
    return status;
}

enum dd_status dd_run_ask_teacher(struct dd_run *run, struct dd_error *err) {
    const struct dd_model *teacher = run->input->base;
    int label_of_class[DD_MAX_CLASSES];
    if (teacher->info.kind != DD_MODEL_CLASSIFIER) {
        return dd_fail(err, DD_INVALID, "teacher_is_an_encoder",
                       "the teacher has no classifier head; fine-tune it on this data set first");
    }
    enum dd_status status = dd_match_labels(run->input->dataset, &teacher->info, "teacher", label_of_class, err);
    if (status != DD_OK) {
        return status;
    }
    if (teacher->info.n_labels > run->n_classes) {
        dd_run_log(run, DD_LOG_WARNING, "the teacher knows %d labels; the %d that are classes of the data set are used",
                   teacher->info.n_labels, run->n_classes);
    }
    dd_run_phase(run, "teacher", 0.0);
    dd_team_leave(run->team);
    run->team = NULL;
    status = ask_about_everything(run, label_of_class, err);
    if (status == DD_OK) {
        status = dd_team_join(run->input->pool, &run->team, err);
    }
    if (status != DD_OK) {
        return status;
    }
    run->teacher_dev_label = dd_calloc(run->dev.rows, sizeof *run->teacher_dev_label);
    run->teacher_dev_score = dd_calloc(run->dev.rows, sizeof *run->teacher_dev_score);
    if (!run->teacher_dev_label || !run->teacher_dev_score) {
        return dd_fail_memory(err, run->dev.rows * sizeof(float));
    }
    dd_argmax_rows(run->teacher_dev, run->dev.rows, run->n_classes, run->teacher_dev_label, run->teacher_dev_score);
    return DD_OK;
}
