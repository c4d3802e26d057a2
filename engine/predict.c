/* predict: a model that answers.  Rows are tokenised, sorted by length and run in packed batches of up to
 * DD_INFER_TOKENS tokens; the logits come back in the order of the rows.
 *
 * Everything a call needs is sized by its own rows and given back at its end: one short text costs a few small
 * allocations, a predictor that waits costs nothing, and its team exists only while it works, so that it takes no
 * cores from training in between.
 *
 * Threads: one call at a time on a predictor; the model is only read.
 */
#include "engine/train.h"

#include <stdlib.h>

struct dd_predictor {
    const struct dd_model *model;
    struct dd_pool *pool;
    int max_length;
};

enum dd_status dd_predictor_new(const struct dd_model *model, struct dd_pool *pool, int max_length,
                                struct dd_predictor **ret_predictor, struct dd_error *err) {
    if (!model->tokenizer) {
        return dd_fail(err, DD_INVALID, "model_without_vocabulary", "the model has no vocab.txt; register it with one");
    }
    if (model->info.kind != DD_MODEL_CLASSIFIER) {
        return dd_fail(err, DD_INVALID, "model_is_an_encoder",
                       "the model has no classifier head; fine-tune it on a data set first");
    }
    if (max_length < 3 || max_length > model->info.config.max_positions) {
        return dd_fail(err, DD_INVALID, "max_length_invalid", "max_length must be between 3 and %d, got %d",
                       model->info.config.max_positions, max_length);
    }
    struct dd_predictor *predictor = dd_calloc(1, sizeof *predictor);
    if (!predictor) {
        return dd_fail_memory(err, sizeof *predictor);
    }
    *predictor = (struct dd_predictor){.model = model, .pool = pool, .max_length = max_length};
    *ret_predictor = predictor;
    return DD_OK;
}

void dd_predictor_free(struct dd_predictor *predictor) {
    free(predictor);
}

static void array_row(const void *context, uint64_t index, struct dd_row *ret_row) {
    *ret_row = ((const struct dd_row *)context)[index];
}

static enum dd_status forward(const struct dd_predictor *predictor, const struct dd_packed *packed,
                              struct dd_team *team, const struct dd_cancel *cancel, float *logits,
                              struct dd_error *err) {
    const struct dd_bert_config *config = &predictor->model->info.config;
    int tokens, sequences;
    dd_infer_bounds(packed, &tokens, &sequences);
    struct dd_gather gather = {0};
    struct dd_bert *bert = NULL;
    enum dd_status status = dd_gather_init(&gather, tokens, sequences, err);
    if (status == DD_OK) {
        status =
            predictor->model->params->int8 != NULL
                ? dd_bert_new_int8(config, tokens, sequences, packed->longest, team, &bert, err)
                : dd_bert_new(config, tokens, sequences, packed->longest, false, DD_PRECISION_FP32, team, &bert, err);
    }
    if (status == DD_OK) {
        status = dd_forward_rows(bert, predictor->model->params, packed, &gather, team, config->n_labels, cancel, NULL,
                                 logits, err);
    }
    dd_bert_free(bert);
    dd_gather_release(&gather);
    return status;
}

enum dd_status dd_predict(struct dd_predictor *predictor, const struct dd_row *rows, size_t n,
                          const struct dd_cancel *cancel, float *logits, struct dd_error *err) {
    if (n == 0) {
        return DD_OK;
    }
    struct dd_team *team = NULL;
    enum dd_status status = dd_team_join(predictor->pool, &team, err);
    if (status != DD_OK) {
        return status;
    }
    struct dd_packed packed = {0};
    const struct dd_row_source source = {.context = rows, .row = array_row, .rows = n};
    status = dd_packed_build(&source, predictor->model->tokenizer, &predictor->model->info.config,
                             predictor->max_length, team, cancel, NULL, &packed, err);
    if (status == DD_OK) {
        status = forward(predictor, &packed, team, cancel, logits, err);
    }
    dd_packed_release(&packed);
    dd_team_leave(team);
    return status;
}
