/* train_teacher: what the teacher says about every row, once a run: logits from the cache, its labels matched to the
 * data set's classes.  Labelled, unlabelled and augmented rows are asked about apart: each has its entry in the cache,
 * so that what one run has asked serves another that uses only some of them.  Teachers run without dropout and in fp32
 * whatever the run's precision.
 *
 * Several teachers are one classifier to all that follows.  Its logits are the mean of theirs, or the logarithm of the
 * mean of their probabilities, both at temperature 1: so it does not depend on T, and the temperature applies to it as
 * to any teacher.  A teacher's own labels that are no classes of the data set are dropped before the mean.
 *
 * Out of fold.  The teachers are those of all folds of the train split, each trained without one (folds.c); which one
 * its own record says (dd_fold_record), not its place in the list.  A train row, and its altered copies, are shown to
 * the teacher of its fold alone, the only one that has not learnt it by heart; rows of dev and unlabelled rows, which
 * none has seen, to all.
 */
#include "engine/train.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct member {
    const struct dd_model *model;
    char who[DD_NAME_BYTES + 16]; /* "the teacher", or with its name where there are several */
    int label_of_class[DD_MAX_CLASSES];
};
struct panel {
    struct dd_run *run;
    int n;
    struct member members[1 + DD_MAX_TEACHERS];
    uint8_t *fold; /* [train rows of the data set] where the teachers are out of fold, else NULL */
};

/* What one piece of their work is. */
struct question {
    const char *rows_are; /* in the log: "train" */
    uint32_t first, rows; /* of packed */
    bool of_train;        /* train rows or copies of them, row i of train row i % n_labelled */
};

/* --- the mean --------------------------------------------------------------------------------------------------- */

/* sums[c] += logits[c], or their softmax. */
static void add_row(const float *logits, int classes, enum dd_teacher_mean mean, double *sums) {
    double most = -INFINITY, sum = 0.0;
    for (int c = 0; c < classes; c++) {
        most = fmax(most, (double)logits[c]);
    }
    for (int c = 0; c < classes; c++) {
        sum += exp((double)logits[c] - most);
    }
    for (int c = 0; c < classes; c++) {
        sums[c] += mean == DD_MEAN_LOGITS ? (double)logits[c] : exp((double)logits[c] - most) / sum;
    }
}

/* DBL_MIN keeps the logarithm of what no teacher thinks possible finite. */
static void mean_of(const double *sums, size_t values, int n, enum dd_teacher_mean mean, float *logits) {
    for (size_t i = 0; i < values; i++) {
        double value = sums[i] / n;
        logits[i] = (float)(mean == DD_MEAN_LOGITS ? value : log(fmax(value, DBL_MIN)));
    }
}

/* --- asking ----------------------------------------------------------------------------------------------------- */

/* [rows, labels] in the teacher's order to [rows, classes] in the data set's. */
static void pick_classes(const float *answer, size_t rows, const struct member *member, int classes, float *logits) {
    size_t labels = (size_t)member->model->info.config.n_labels;
    for (size_t r = 0; r < rows; r++) {
        for (int c = 0; c < classes; c++) {
            logits[r * (size_t)classes + (size_t)c] = answer[r * labels + (size_t)member->label_of_class[c]];
        }
    }
}

/* The member's logits for these rows into logits [rows, classes]. */
static enum dd_status ask(const struct dd_run *run, const struct member *member, const struct dd_packed *part,
                          const char *rows_are, const struct dd_progress *progress, float *logits,
                          struct dd_error *err) {
    const struct dd_train_input *in = run->input;
    float *answer = NULL;
    bool computed = false;
    int64_t start = dd_clock_mono_us();
    enum dd_status status = dd_logits_cached(member->model, part, run->spec->max_length, in->cache_dir, in->pool,
                                             &in->events, progress, in->cancel, &answer, &computed, err);
    if (status != DD_OK) {
        return status;
    }
    double seconds = (double)(dd_clock_mono_us() - start) / 1e6;
    if (computed) {
        dd_run_log(run, DD_LOG_INFO, "asked %s about %u %s rows: %.1f s, %.0f tokens/s", member->who, part->rows,
                   rows_are, seconds, (double)part->n_tokens / DD_MAX(seconds, 1e-6));
    } else {
        dd_run_log(run, DD_LOG_INFO, "%s's logits for %u %s rows came from the cache", member->who, part->rows,
                   rows_are);
    }
    pick_classes(answer, part->rows, member, run->n_classes, logits);
    free(answer);
    return DD_OK;
}

/* The m-th of n equal parts of a piece of work. */
static struct dd_progress part_of(const struct dd_progress *whole, int m, int n) {
    struct dd_progress part = *whole;
    part.from = whole->from + (whole->to - whole->from) * m / n;
    part.to = whole->from + (whole->to - whole->from) * (m + 1) / n;
    return part;
}

/* The mean over all members into logits; sums [rows, classes] zeroed, NULL where there is but one. */
static enum dd_status ask_members(const struct panel *panel, const struct dd_packed *part, const char *rows_are,
                                  const struct dd_progress *whole, double *sums, float *logits, struct dd_error *err) {
    enum dd_teacher_mean mean = panel->run->spec->teacher_mean;
    size_t classes = (size_t)panel->run->n_classes;
    for (int m = 0; m < panel->n; m++) {
        const struct dd_progress progress = part_of(whole, m, panel->n);
        enum dd_status status = ask(panel->run, &panel->members[m], part, rows_are, &progress, logits, err);
        if (status != DD_OK) {
            return status;
        }
        for (uint32_t r = 0; sums && r < part->rows; r++) {
            add_row(logits + r * classes, (int)classes, mean, sums + r * classes);
        }
    }
    if (sums) {
        mean_of(sums, part->rows * classes, panel->n, mean, logits);
    }
    return DD_OK;
}

/* Of the question's rows those of the member's fold, by the member alone, into their places in logits.  rows and
 * answers: room for all of the question. */
static enum dd_status answer_fold(const struct panel *panel, const struct member *member,
                                  const struct dd_packed *packed, const struct question *question,
                                  const struct dd_progress *progress, uint32_t *rows, float *answers, float *logits,
                                  struct dd_error *err) {
    size_t classes = (size_t)panel->run->n_classes;
    uint32_t n = 0;
    for (uint32_t r = 0; r < question->rows; r++) {
        if (panel->fold[r % panel->run->n_labelled] == member->model->info.fold.fold) {
            rows[n++] = question->first + r;
        }
    }
    if (n == 0) {
        return DD_OK;
    }
    struct dd_packed picked;
    enum dd_status status = dd_packed_pick(packed, rows, n, &picked, err);
    if (status != DD_OK) {
        return status;
    }
    status = ask(panel->run, member, &picked, question->rows_are, progress, answers, err);
    for (uint32_t i = 0; status == DD_OK && i < n; i++) {
        memcpy(logits + (rows[i] - question->first) * classes, answers + i * classes, classes * sizeof *logits);
    }
    dd_packed_release(&picked);
    return status;
}

static enum dd_status answer_out_of_fold(const struct panel *panel, const struct dd_packed *packed,
                                         const struct question *question, const struct dd_progress *whole,
                                         float *logits, struct dd_error *err) {
    size_t values = (size_t)question->rows * (size_t)panel->run->n_classes;
    uint32_t *rows = dd_calloc(question->rows, sizeof *rows);
    float *answers = dd_calloc(values, sizeof *answers);
    enum dd_status status = rows && answers ? DD_OK : dd_fail_memory(err, values * sizeof *answers);
    for (int m = 0; status == DD_OK && m < panel->n; m++) {
        const struct dd_progress progress = part_of(whole, m, panel->n);
        status = answer_fold(panel, &panel->members[m], packed, question, &progress, rows, answers, logits, err);
    }
    free(rows);
    free(answers);
    return status;
}

static enum dd_status answer(const struct panel *panel, const struct dd_packed *packed, const struct question *question,
                             const struct dd_progress *progress, float *logits, struct dd_error *err) {
    if (panel->fold && question->of_train) {
        return answer_out_of_fold(panel, packed, question, progress, logits, err);
    }
    struct dd_packed part;
    size_t classes = (size_t)panel->run->n_classes;
    enum dd_status status = dd_packed_part(packed, question->first, question->rows, &part, err);
    if (status != DD_OK) {
        return status;
    }
    double *sums = panel->n > 1 ? dd_calloc(part.rows, classes * sizeof *sums) : NULL;
    if (panel->n > 1 && !sums) {
        status = dd_fail_memory(err, part.rows * classes * sizeof *sums);
    } else {
        status = ask_members(panel, &part, question->rows_are, progress, sums, logits, err);
    }
    free(sums);
    dd_packed_part_release(&part);
    return status;
}

/* All questions about the rows of packed; from, to: their part of the phase. */
static enum dd_status answer_all(const struct panel *panel, const struct dd_packed *packed,
                                 const struct question *questions, size_t n, double from, double to, float **ret_logits,
                                 struct dd_error *err) {
    size_t classes = (size_t)panel->run->n_classes;
    float *logits = dd_calloc(packed->rows, classes * sizeof *logits);
    enum dd_status status = logits ? DD_OK : dd_fail_memory(err, packed->rows * classes * sizeof *logits);
    double scale = (to - from) / (double)packed->n_tokens;
    for (size_t i = 0; status == DD_OK && i < n; i++) {
        const struct question *q = &questions[i];
        if (q->rows == 0) {
            continue;
        }
        const struct dd_progress progress = {.events = &panel->run->input->events,
                                             .phase = "teacher",
                                             .from = from + scale * (double)packed->offsets[q->first],
                                             .to = from + scale * (double)packed->offsets[q->first + q->rows]};
        status = answer(panel, packed, q, &progress, logits + q->first * classes, err);
    }
    if (status != DD_OK) {
        free(logits);
        return status;
    }
    *ret_logits = logits;
    return DD_OK;
}

static enum dd_status answer_everything(const struct panel *panel, struct dd_error *err) {
    struct dd_run *run = panel->run;
    const struct dd_packed *told_train = dd_run_told_train(run), *told_dev = dd_run_told_dev(run);
    uint32_t own = run->n_labelled + run->n_unlabelled;
    const struct question dev[] = {{"dev", 0, told_dev->rows, false}};
    const struct question train[] = {
        {"train", 0, run->n_labelled, true},
        {"unlabelled", run->n_labelled, run->n_unlabelled, false},
        {"augmented", own, run->n_augmented, true},
        {"augmented unlabelled", own + run->n_augmented, run->n_augmented_unlabelled, false}};
    double share = (double)told_dev->n_tokens / (double)(told_dev->n_tokens + told_train->n_tokens);
    enum dd_status status = answer_all(panel, told_dev, dev, DD_ARRAY_LEN(dev), 0.0, share, &run->teacher_dev, err);
    if (status == DD_OK) {
        status = answer_all(panel, told_train, train, DD_ARRAY_LEN(train), share, 1.0, &run->teacher_train, err);
    }
    return status;
}

/* --- who is asked ----------------------------------------------------------------------------------------------- */

/* Token ids are made once, with the first teacher's vocabulary. */
static bool same_vocabulary(const struct dd_tokenizer *a, const struct dd_tokenizer *b) {
    const struct dd_tokenizer_options *x = dd_tokenizer_settings(a), *y = dd_tokenizer_settings(b);
    size_t n = 0, m = 0;
    const char *p = dd_tokenizer_vocab(a, &n), *q = dd_tokenizer_vocab(b, &m);
    return n == m && memcmp(p, q, n) == 0 && x->do_lower_case == y->do_lower_case &&
           x->strip_accents == y->strip_accents && x->tokenize_chinese_chars == y->tokenize_chinese_chars;
}

static enum dd_status check_further(const struct dd_run *run, const struct dd_model *teacher, const char *who,
                                    struct dd_error *err) {
    const struct dd_bert_config *config = &teacher->info.config;
    if (!teacher->tokenizer || !same_vocabulary(teacher->tokenizer, run->input->base->tokenizer)) {
        return dd_fail(err, DD_INVALID, "teachers_differ",
                       "%s has another vocabulary than the first; several teachers must share one", who);
    }
    if (run->spec->max_length > config->max_positions) {
        return dd_fail(err, DD_INVALID, "max_length_invalid", "max_length is %d, but %s has only %d positions",
                       run->spec->max_length, who, config->max_positions);
    }
    if (dd_dataset_has_pairs(run->input->dataset) && config->type_vocab_size < 2) {
        return dd_fail(err, DD_INVALID, "pairs_unsupported",
                       "the data set has text pairs, but %s has only one segment (type_vocab_size 1)", who);
    }
    return DD_OK;
}

static enum dd_status add_member(struct panel *panel, const struct dd_model *model, const char *name,
                                 struct dd_error *err) {
    struct dd_run *run = panel->run;
    struct member *member = &panel->members[panel->n];
    member->model = model;
    snprintf(member->who, sizeof member->who, run->spec->n_teachers > 0 ? "the teacher \"%s\"" : "the teacher", name);
    if (!model) {
        return dd_fail(err, DD_INVALID, "teacher_missing", "%s was not given", member->who);
    }
    if (model->info.kind != DD_MODEL_CLASSIFIER) {
        return dd_fail(err, DD_INVALID, "teacher_is_an_encoder",
                       "%s has no classifier head; fine-tune it on this data set first", member->who);
    }
    enum dd_status status =
        dd_match_labels(run->input->dataset, &model->info, member->who + strlen("the "), member->label_of_class, err);
    if (status == DD_OK && panel->n > 0) {
        status = check_further(run, model, member->who, err);
    }
    if (status != DD_OK) {
        return status;
    }
    if (model->info.n_labels > run->n_classes) {
        dd_run_log(run, DD_LOG_WARNING, "%s knows %d labels; the %d that are classes of the data set are used",
                   member->who, model->info.n_labels, run->n_classes);
    }
    panel->n++;
    return DD_OK;
}

/* Where the teachers are to be out of fold: that they are those of all folds of this very train split. */
static enum dd_status check_folds(struct panel *panel, struct dd_error *err) {
    const struct dd_run *run = panel->run;
    bool found[DD_MAX_FOLDS] = {false};
    if (run->spec->n_teachers == 0 || run->spec->teacher_mean != DD_MEAN_OUT_OF_FOLD) {
        return DD_OK;
    }
    if (dd_spec_matches(run->spec)) {
        return dd_fail(err, DD_INVALID, "teachers_not_folds",
                       "inner states are those of one teacher, which has seen most rows: they cannot be matched when "
                       "teacher_mean is \"out_of_fold\"");
    }
    const char *train = dd_dataset_split(run->input->dataset, DD_SPLIT_TRAIN)->sha256;
    for (int m = 0; m < panel->n; m++) {
        const struct member *member = &panel->members[m];
        const struct dd_fold_record *fold = &member->model->info.fold;
        if (fold->folds == 0 || strcmp(fold->train_sha256, train) != 0) {
            return dd_fail(err, DD_INVALID, "teachers_not_folds",
                           "%s was not fine-tuned on folds of this data set; train it with folds %d", member->who,
                           panel->n);
        }
        if (fold->folds != panel->n || found[fold->fold]) {
            return dd_fail(err, DD_INVALID, "teachers_not_folds",
                           "%s is that of fold %d of %d; out_of_fold needs each of its folds once, among %d teachers",
                           member->who, fold->fold, fold->folds, fold->folds);
        }
        found[fold->fold] = true;
    }
    return dd_folds_of(run->input->dataset, panel->n, &panel->fold, err);
}

static enum dd_status ask_panel(struct panel *panel, struct dd_error *err) {
    struct dd_run *run = panel->run;
    dd_run_phase(run, "teacher", 0.0);
    dd_team_leave(run->team);
    run->team = NULL;
    enum dd_status status = answer_everything(panel, err);
    if (status == DD_OK) {
        status = dd_run_ask_states(run, err);
    }
    return status == DD_OK ? dd_team_join(run->input->pool, &run->team, err) : status;
}

enum dd_status dd_run_ask_teacher(struct dd_run *run, struct dd_error *err) {
    struct panel panel = {.run = run};
    enum dd_status status = add_member(&panel, run->input->base, run->spec->teacher, err);
    for (int i = 0; status == DD_OK && i < run->spec->n_teachers; i++) {
        status = add_member(&panel, run->input->teachers[i], run->spec->teachers[i], err);
    }
    if (status == DD_OK) {
        status = check_folds(&panel, err);
    }
    if (status == DD_OK) {
        status = ask_panel(&panel, err);
    }
    free(panel.fold);
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
