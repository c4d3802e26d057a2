/* bert_int8: operands of the products as int8; see bert.h and int8.h.  Rows are converted one by one, so the cut into
 * pieces decides no bits.
 */
#include "engine/bert.h"

void dd_bert_plan_int8(struct dd_bert *bert, void *(*take)(void *plan, size_t a, size_t b, size_t element_bytes),
                       void *plan) {
    if (!bert->int8) {
        return;
    }
    size_t width = dd_int8_padded(DD_MAX(bert->config.hidden_size, bert->config.intermediate_size));
    const size_t rows[2] = {(size_t)bert->max_tokens, (size_t)bert->max_sequences};
    for (int i = 0; i < 2; i++) {
        bert->rows8[i].values = take(plan, rows[i], width, 1);
        bert->rows8[i].scale = take(plan, rows[i], 1, sizeof(float));
    }
}

struct conversion {
    const struct dd_bert *bert;
    const float *from;
    const struct dd_int8_rows *to;
    int rows, columns, pieces;
};

static void convert_piece(void *context, int piece) {
    const struct conversion *conversion = context;
    int first, count = dd_piece(conversion->rows, conversion->pieces, piece, &first);
    const struct dd_int8_rows *to = conversion->to;
    conversion->bert->simd->int8_rows(count, conversion->columns,
                                      conversion->from + (size_t)first * (size_t)conversion->columns,
                                      to->values + (size_t)first * to->ld, to->ld, to->scale + first);
}

const struct dd_int8_rows *dd_bert_rows8(struct dd_bert *bert, int slot, const float *x, int rows, int columns) {
    if (!bert->int8) {
        return NULL;
    }
    struct dd_int8_rows *to = &bert->rows8[slot];
    to->ld = dd_int8_padded(columns);
    struct conversion conversion = {.bert = bert,
                                    .from = x,
                                    .to = to,
                                    .rows = rows,
                                    .columns = columns,
                                    .pieces = dd_pieces(rows, DD_MAX(1, 32768 / columns))};
    dd_team_for(bert->team, conversion.pieces, convert_piece, &conversion);
    return to;
}

const struct dd_int8_matrix *dd_bert_weight8(const struct dd_bert *bert, const struct dd_params *params, int layer,
                                             enum dd_int8_weight weight) {
    return bert->int8 ? &params->int8->layer[(size_t)layer * DD_INT8_WEIGHTS + weight] : NULL;
}

void dd_bert_word8(const struct dd_int8 *int8, int32_t id, float *to) {
    const int8_t *q = int8->words + (size_t)id * (size_t)int8->hidden;
    float scale = int8->word_scale[id];
    for (int i = 0; i < int8->hidden; i++) {
        to[i] = (float)q[i] * scale;
    }
}
