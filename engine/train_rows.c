/* train_rows: the rows of a run as token ids.
 *
 *   dev     the dev split
 *   train   the train split's rows (but those of the fold that is held out), n_labelled of them; then those of the
 * unlabelled split; then the augmented copies of the train split's, copy by copy; then those of the unlabelled.  Only
 * the first have labels: the others teach what the teacher says alone.
 *
 * An epoch is one pass over all of train, in one permutation.  Where the student has words that its teacher has not
 * (whole_words.c), all this is made in the teacher's spelling, and then once more in the student's: own rows from their
 * texts, as predict will read such texts, copies from their tokens.
 * Threads: the run's; packing uses its team.
 */
#include "engine/train.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* Who reads the rows: the student, or the teachers, who have one vocabulary. */
struct reader {
    const struct dd_tokenizer *tokenizer;
    const struct dd_bert_config *config;
};

int dd_run_whole_words(const struct dd_run *run) {
    const struct dd_model *base = run->input->base;
    return run->spec->task == DD_TASK_DISTILL && base && base->tokenizer
               ? dd_tokenizer_size(run->student->tokenizer) - dd_tokenizer_size(base->tokenizer)
               : 0;
}

static enum dd_status pack(struct dd_run *run, const struct reader *reader, const struct dd_split_rows *rows,
                           double from, double to, struct dd_packed *ret_packed, struct dd_error *err) {
    const struct dd_train_input *in = run->input;
    const struct dd_row_source source = dd_source_of_split(rows);
    const struct dd_progress progress = {.events = &in->events, .phase = "tokenizing", .from = from, .to = to};
    enum dd_status status = dd_packed_build(&source, reader->tokenizer, reader->config, run->spec->max_length,
                                            run->team, in->cancel, &progress, ret_packed, err);
    if (status != DD_OK) {
        return dd_error_prefix(err, "%s split%s", dd_split_name(rows->split),
                               rows->unlabelled ? " and unlabelled" : "");
    }
    return DD_OK;
}

static enum dd_status find_neighbours(struct dd_run *run, struct dd_neighbours *ret, struct dd_error *err) {
    const struct dd_model *teacher = run->input->base;
    enum dd_status status = dd_model_need_weights(teacher, err);
    if (status != DD_OK) {
        return status;
    }
    const struct dd_tensor *words = dd_params_find(teacher->params, "bert.embeddings.word_embeddings.weight");
    const struct dd_bert_config *config = &teacher->info.config;
    return dd_neighbours_find(&run->train, teacher->tokenizer, teacher->params->slab + words->offset,
                              config->vocab_size, config->hidden_size, run->team, ret, err);
}

static enum dd_status augment(struct dd_run *run, struct dd_error *err) {
    const struct dd_spec *spec = run->spec;
    struct dd_neighbours near = {0};
    if (spec->augment_replace > 0.0) {
        enum dd_status found = find_neighbours(run, &near, err);
        if (found != DD_OK) {
            return found;
        }
    }
    const struct dd_augment how = {.tokenizer = run->input->base->tokenizer,
                                   .max_length = spec->max_length,
                                   .seed = spec->seed,
                                   .copies = spec->augment,
                                   .mask = spec->augment_mask,
                                   .ngram = spec->augment_ngram,
                                   .splice = spec->augment_splice,
                                   .replace = spec->augment_replace,
                                   .near = &near};
    const struct dd_cancel *cancel = run->input->cancel;
    uint32_t copied[2] = {run->n_labelled, spec->augment_unlabelled == DD_FLAG_YES ? run->n_unlabelled : 0};
    enum dd_status status = dd_packed_augment(&run->train, 0, copied[0], &how, cancel, err);
    if (status == DD_OK && copied[1] > 0) {
        status = dd_packed_augment(&run->train, run->n_labelled, copied[1], &how, cancel, err);
    }
    dd_neighbours_release(&near);
    if (status == DD_OK) {
        run->n_augmented = copied[0] * (uint32_t)spec->augment;
        run->n_augmented_unlabelled = copied[1] * (uint32_t)spec->augment;
        dd_run_log(run, DD_LOG_INFO, "made %d %s of each of %u rows, to be labelled by the teacher", spec->augment,
                   spec->augment == 1 ? "copy" : "copies", copied[0] + copied[1]);
    }
    return status;
}

/* The train rows outside the fold that is held out; *ret_rows NULL where none is.  The caller frees. */
static enum dd_status rows_of_folds(struct dd_run *run, uint32_t **ret_rows, uint64_t *ret_n, struct dd_error *err) {
    const struct dd_spec *spec = run->spec;
    const struct dd_dataset *dataset = run->input->dataset;
    uint8_t *fold = NULL;
    *ret_rows = NULL;
    *ret_n = 0;
    if (spec->task != DD_TASK_FINETUNE || spec->folds < 2) {
        return DD_OK;
    }
    enum dd_status status = dd_folds_of(dataset, spec->folds, &fold, err);
    if (status != DD_OK) {
        return status;
    }
    uint64_t n = 0, count = dd_dataset_rows(dataset, DD_SPLIT_TRAIN);
    uint32_t *rows = dd_calloc((size_t)count, sizeof *rows);
    for (uint64_t r = 0; rows && r < count; r++) {
        if (fold[r] != spec->fold) {
            rows[n++] = (uint32_t)r;
        }
    }
    free(fold);
    if (!rows) {
        return dd_fail_memory(err, (size_t)count * sizeof *rows);
    }
    if (n == 0) {
        free(rows);
        return dd_fail(err, DD_INVALID, "split_empty", "without fold %d of %d no train row is left; lower folds",
                       spec->fold, spec->folds);
    }
    dd_run_log(run, DD_LOG_INFO, "fold %d of %d: %llu of %llu train rows are held out", spec->fold, spec->folds,
               (unsigned long long)(count - n), (unsigned long long)count);
    *ret_rows = rows;
    *ret_n = n;
    return DD_OK;
}

/* dev and train of the run without copies.  from, to: its part of the phase. */
static enum dd_status pack_splits(struct dd_run *run, const struct reader *reader, double from, double to,
                                  struct dd_error *err) {
    const struct dd_dataset *dataset = run->input->dataset;
    bool distill = run->spec->task == DD_TASK_DISTILL;
    const struct dd_split_rows dev = {.dataset = dataset, .split = DD_SPLIT_DEV};
    struct dd_split_rows train = {
        .dataset = dataset, .split = DD_SPLIT_TRAIN, .unlabelled = distill && run->spec->unlabelled == DD_FLAG_YES};
    uint32_t *only = NULL;
    enum dd_status status = rows_of_folds(run, &only, &train.n_only, err);
    train.only = only;
    run->n_labelled = (uint32_t)(only ? train.n_only : dd_dataset_rows(dataset, DD_SPLIT_TRAIN));
    if (status == DD_OK) {
        status = pack(run, reader, &dev, from, from + (to - from) * 0.1, &run->dev, err);
    }
    if (status == DD_OK) {
        status = pack(run, reader, &train, from + (to - from) * 0.1, to, &run->train, err);
    }
    free(only);
    return status;
}

/* --- the student's own spelling --------------------------------------------------------------------------------- */

const struct dd_packed *dd_run_told_train(const struct dd_run *run) {
    return run->told.apart ? &run->told.train : &run->train;
}

const struct dd_packed *dd_run_told_dev(const struct dd_run *run) {
    return run->told.apart ? &run->told.dev : &run->dev;
}

void dd_told_release(struct dd_told *told) {
    dd_packed_release(&told->train);
    dd_packed_release(&told->dev);
    *told = (struct dd_told){0};
}

/* What train and dev hold becomes the teachers'; the student's take its place. */
static enum dd_status spell(struct dd_run *run, int words, struct dd_error *err) {
    const struct reader student = {run->student->tokenizer, &run->student->info.config};
    const struct dd_tokenizer *base = run->input->base->tokenizer;
    uint64_t own = run->n_labelled + run->n_unlabelled;
    run->told = (struct dd_told){.apart = true, .train = run->train, .dev = run->dev};
    run->train = run->dev = (struct dd_packed){0};
    enum dd_status status = pack_splits(run, &student, 0.5, 1.0, err);
    uint64_t before = own < run->told.train.rows ? run->told.train.offsets[own] : run->told.train.n_tokens;
    if (status == DD_OK) {
        dd_run_log(run, DD_LOG_INFO,
                   "the student's vocabulary has %d whole word%s beyond the teacher's: %llu tokens in %llu rows "
                   "instead of %llu",
                   words, words == 1 ? "" : "s", (unsigned long long)run->train.n_tokens, (unsigned long long)own,
                   (unsigned long long)before);
        status = dd_packed_respell(&run->told.train, (uint32_t)own, base, student.tokenizer, run->spec->max_length,
                                   &run->train, err);
    }
    return status;
}

enum dd_status dd_run_pack(struct dd_run *run, struct dd_error *err) {
    bool distill = run->spec->task == DD_TASK_DISTILL;
    const struct dd_model *first = distill ? run->input->base : run->student;
    int words = dd_run_whole_words(run);
    const struct reader reader = {first->tokenizer, words > 0 ? &first->info.config : &run->student->info.config};
    enum dd_status status = pack_splits(run, &reader, 0.0, words > 0 ? 0.5 : 1.0, err);
    if (status != DD_OK) {
        return status;
    }
    if (run->dev.rows > INT_MAX) {
        return dd_fail(err, DD_TOO_LARGE, "dataset_too_large", "the dev split has %u rows; the most is %d",
                       run->dev.rows, INT_MAX);
    }
    run->n_unlabelled = run->train.rows - run->n_labelled;
    if (distill && run->spec->augment > 0) {
        status = augment(run, err);
    }
    if (status == DD_OK && words > 0) {
        status = spell(run, words, err);
    }
    int64_t rows = run->train.rows, batch = run->spec->batch_size;
    run->steps_per_epoch = (rows + batch - 1) / batch;
    run->steps = run->steps_per_epoch * run->spec->epochs;
    return status;
}
