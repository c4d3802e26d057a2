/* bert_bf16: operands of the layers' products in bfloat16; see bert.h.  Conversion is element by element, so the cut
 * into pieces decides no bits.
 */
#include "engine/bert.h"

#define WEIGHT_PIECES 8

size_t dd_bert_half_width(const struct dd_bert_config *config) {
    return (size_t)DD_MAX(config->intermediate_size, 3 * config->hidden_size);
}

size_t dd_bert_weight_count(const struct dd_bert_config *config) {
    size_t hidden = (size_t)config->hidden_size, inner = (size_t)config->intermediate_size;
    return 4 * hidden * hidden + 2 * hidden * inner;
}

/* Where a weight lies among those of its layer; *ret_count its elements. */
static size_t weight_place(const struct dd_bert_config *config, enum dd_bert_weight weight, size_t *ret_count) {
    size_t hidden = (size_t)config->hidden_size, inner = (size_t)config->intermediate_size;
    const size_t count[DD_WEIGHTS] = {3 * hidden * hidden, hidden * hidden, inner * hidden, hidden * inner};
    size_t at = 0;
    for (int i = 0; i < (int)weight; i++) {
        at += count[i];
    }
    *ret_count = count[weight];
    return at;
}

struct conversion {
    const struct dd_bert *bert;
    const float *from;
    uint16_t *to;
    int rows, pieces;
    size_t columns;
};

static void convert_weight_piece(void *context, int chunk) {
    const struct conversion *conversion = context;
    const struct dd_bert *bert = conversion->bert;
    int piece = chunk % WEIGHT_PIECES, index = chunk / WEIGHT_PIECES, layer = index / DD_WEIGHTS;
    enum dd_bert_weight weight = (enum dd_bert_weight)(index % DD_WEIGHTS);
    const struct dd_bert_layer_offsets *at = &bert->at.layer[layer];
    const size_t source[DD_WEIGHTS] = {at->qkv_weight, at->output_weight, at->up_weight, at->down_weight};
    size_t count, place = weight_place(&bert->config, weight, &count);
    size_t first = count * (size_t)piece / WEIGHT_PIECES, end = count * ((size_t)piece + 1) / WEIGHT_PIECES;
    bert->simd->to_bf16(end - first, conversion->from + source[weight] + first,
                        conversion->to + (size_t)layer * dd_bert_weight_count(&bert->config) + place + first);
}

void dd_bert_convert_weights(struct dd_bert *bert, const struct dd_params *params) {
    if (bert->bf16) {
        struct conversion conversion = {.bert = bert, .from = params->slab, .to = bert->weight16};
        dd_team_for(bert->team, bert->config.layers * DD_WEIGHTS * WEIGHT_PIECES, convert_weight_piece, &conversion);
    }
}

const uint16_t *dd_bert_weight16(const struct dd_bert *bert, int layer, enum dd_bert_weight weight) {
    if (!bert->bf16) {
        return NULL;
    }
    size_t count;
    return bert->weight16 + (size_t)layer * dd_bert_weight_count(&bert->config) +
           weight_place(&bert->config, weight, &count);
}

static void convert_piece(void *context, int piece) {
    const struct conversion *conversion = context;
    int first, count = dd_piece(conversion->rows, conversion->pieces, piece, &first);
    size_t at = (size_t)first * conversion->columns;
    conversion->bert->simd->to_bf16((size_t)count * conversion->columns, conversion->from + at, conversion->to + at);
}

const uint16_t *dd_bert_half(struct dd_bert *bert, int slot, size_t at, const float *x, int rows, int columns) {
    if (!bert->bf16) {
        return NULL;
    }
    struct conversion conversion = {.bert = bert,
                                    .from = x,
                                    .to = bert->half[slot] + at,
                                    .rows = rows,
                                    .pieces = dd_pieces(rows, DD_MAX(1, 32768 / columns)),
                                    .columns = (size_t)columns};
    dd_team_for(bert->team, conversion.pieces, convert_piece, &conversion);
    return conversion.to;
}
