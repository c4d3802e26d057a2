/* train_teacher: what the teacher says about every row, once a run: logits from the cache, its labels matched to the
 * data set's classes.  The teacher runs without dropout and in fp32 whatever the run's precision.
 */
#include "engine/train.h"

#include <stdlib.h>
#include <string.h>

/* [rows, labels] in the teacher's order to [rows, classes] in the data set's, in place: classes ≤ labels. */
static void pick_classes(float *logits, size_t rows, int labels, const int *label_of_class, int classes) {
    float row[DD_MAX_CLASSES];
    for (size_t r = 0; r < rows; r++) {
        for (int c = 0; c < classes; c++) {
            row[c] = logits[r * (size_t)labels + (size_t)label_of_class[c]];
        }
        memcpy(logits + r * (size_t)classes, row, (size_t)classes * sizeof *row);
    }
}

static enum dd_status ask_split(struct dd_run *run, const char *split, const struct dd_packed *packed,
                                const int *label_of_class, double from, double to, float **ret_logits,
                                struct dd_error *err) {
    const struct dd_train_input *in = run->input;
    struct dd_progress progress = {.events = &in->events, .phase = "teacher", .from = from, .to = to};
    float *logits = NULL;
    bool computed = false;
    int64_t start = dd_clock_mono_us();
    enum dd_status status = dd_logits_cached(in->base, packed, run->spec->max_length, in->cache_dir, in->pool,
                                             &in->events, &progress, in->cancel, &logits, &computed, err);
    if (status != DD_OK) {
        return status;
    }
    double seconds = (double)(dd_clock_mono_us() - start) / 1e6;
    if (computed) {
        dd_run_log(run, DD_LOG_INFO, "asked the teacher about %u %s rows: %.1f s, %.0f tokens/s", packed->rows, split,
                   seconds, (double)packed->n_tokens / DD_MAX(seconds, 1e-6));
    } else {
        dd_run_log(run, DD_LOG_INFO, "the teacher's logits for %u %s rows came from the cache", packed->rows, split);
    }
    pick_classes(logits, packed->rows, in->base->info.config.n_labels, label_of_class, run->n_classes);
    *ret_logits = logits;
    return DD_OK;
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
    double share = (double)run->dev.n_tokens / (double)(run->dev.n_tokens + run->train.n_tokens);
    status = ask_split(run, "dev", &run->dev, label_of_class, 0.0, share, &run->teacher_dev, err);
    if (status == DD_OK) {
        status = ask_split(run, "train", &run->train, label_of_class, share, 1.0, &run->teacher_train, err);
    }
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
