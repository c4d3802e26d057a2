/* bert: the memory plan of a model in work, shared by bert.c (plan), bert_forward.c, bert_backward.c and attention.c.
 * Private to engine/.
 *
 * The last layer.  The classifier reads the last layer's output at [CLS] alone, so that layer computes queries, output
 * and feed-forward for those rows only ("narrow": `rows` = sequences), keys and values for all.  Same logits, same
 * gradients (the rest of that layer's output has gradient 0), a third of a 3-layer student's work saved.
 *
 * bf16.  The products of the layers take their operands in bfloat16 and sum in fp32; all else, the pooler and the
 * classifier stay in fp32, as do the weights that the optimizer changes.  Each forward begins by converting the layers'
 * weights (dd_bert_convert_weights), which serve the backward, too; activations and gradients are converted when a
 * product wants them (dd_bert_half), into two buffers.
 *
 * int8 (int8.h, bert_int8.c).  Evaluation of a model whose matrices are kept as int8.  The inputs of the products
 * become bytes, a scale a row, when a product wants them; what comes out is float again.  Embeddings are scaled as they
 * are looked up.  Attention's own products, LayerNorm, activation and the classifier stay in fp32.
 *
 * dd_bert_set_full (nn.h) makes the next forwards of an evaluation model compute all rows, for dd_bert_hidden.
 */
#ifndef DD_ENGINE_BERT_H
#define DD_ENGINE_BERT_H

#include "engine/linear.h"
#include "engine/nn.h"
#include "engine/simd.h"

/* Tensor numbers of dropout masks; they decide bits. */
#define DD_MASK_EMBEDDINGS 0u
#define DD_MASK_ATTENTION(layer) (1u + 3u * (uint32_t)(layer))
#define DD_MASK_ATTENTION_OUTPUT(layer) (2u + 3u * (uint32_t)(layer))
#define DD_MASK_OUTPUT(layer) (3u + 3u * (uint32_t)(layer))
#define DD_MASK_POOLED 0x0fffffffu
/* Groups of the attention stream that each (sequence, head) has to itself. */
#define DD_ATTENTION_GROUPS ((uint64_t)1 << 20)

/* Offsets in the slab, in floats. */
struct dd_bert_layer_offsets {
    size_t qkv_weight, qkv_bias, output_weight, output_bias, norm1_gain, norm1_shift;
    size_t up_weight, up_bias, down_weight, down_bias, norm2_gain, norm2_shift;
};
struct dd_bert_offsets {
    size_t word, position, type, norm_gain, norm_shift;
    size_t pooler_weight, pooler_bias, classifier_weight, classifier_bias;
    struct dd_bert_layer_offsets *layer; /* [layers], in the arena */
};

/* What a layer keeps from forward to backward.  T tokens, R rows (T, or sequences where narrow). */
struct dd_bert_layer {
    const float *x;            /* [T, hidden] input */
    float *qkv;                /* [T, 3 hidden]; narrow: q [max_sequences, hidden], then kv [T, 2 hidden] */
    float *context;            /* [R, hidden] heads side by side */
    float *xhat1, *rstd1, *y1; /* [R, hidden], [R], [R, hidden] after attention */
    float *slope;              /* [R, intermediate] activation' */
    float *inner;              /* [R, intermediate] activation */
    float *xhat2, *rstd2, *y2; /* [R, hidden], [R], [R, hidden] the layer's output */
};

struct dd_bert {
    struct dd_bert_config config;
    struct dd_team *team;
    const struct dd_simd *simd;
    int max_tokens, max_sequences, max_length;
    bool training, full, bf16, int8, frozen;
    enum dd_activation activation;
    int head_size;
    size_t n_params;
    struct dd_bert_offsets at;

    struct dd_bert_layer *layer;      /* [layers] */
    float *xhat0, *rstd0, *embedding; /* [T, hidden], [T], [T, hidden] */
    float *cls;                       /* [S, hidden] the narrow layer's input rows */
    float *pooled, *pooled_dropped;   /* [S, hidden] */
    float *scratch;                   /* [lanes, scratch_floats] of attention */
    size_t scratch_floats;
    int32_t *cls_rows; /* [S] token index of each [CLS] */
    const float *hidden;
    const struct dd_bert_extra *extra;         /* borrowed, or NULL */
    const struct dd_bert_extra_qkv *extra_qkv; /* likewise */
    dd_bert_tap *tap;
    void *tap_context;

    /* bf16 only; half is NULL in fp32 */
    uint16_t *half[2];  /* [max_tokens, half_width]: operands that are no weights, now in use */
    uint16_t *weight16; /* [layers, 4 hidden² + 2 hidden intermediate]: qkv, output, up, down */

    struct dd_int8_rows rows8[2]; /* int8 only: [max_tokens] operands that are no weights, and [max_sequences] */

    /* training only */
    float *dx, *dz, *dbranch, *dcontext; /* [T, hidden] */
    float *dqkv;                         /* as a layer's qkv */
    float *dinner;                       /* [T, intermediate] */
    float *dpooled, *dcls;               /* [S, hidden] */
    float *partial;                      /* [32, 2 hidden] */
    int32_t *order, *order_spare;        /* [T] tokens sorted by word id */
    int32_t *touched, *touched_first;    /* [T], [T + 1] */
    int n_touched;

    void *arena;
    size_t arena_bytes;
};

/* Whether this layer computes only [CLS] rows. */
static inline bool dd_bert_narrow(const struct dd_bert *bert, int layer) {
    return layer == bert->config.layers - 1 && !bert->full;
}

/* Attention of all heads of all sequences of a layer; see attention.c. */
void dd_attention_forward(struct dd_bert *bert, int layer, const struct dd_batch *batch, const struct dd_mask *mask);
void dd_attention_backward(struct dd_bert *bert, int layer, const struct dd_batch *batch, const struct dd_mask *mask);

enum dd_bert_weight { DD_WEIGHT_QKV = 0, DD_WEIGHT_OUTPUT, DD_WEIGHT_UP, DD_WEIGHT_DOWN, DD_WEIGHTS };
/* All four return NULL or do nothing in fp32, so products are written once for both.  bert_bf16.c. */
void dd_bert_convert_weights(struct dd_bert *bert, const struct dd_params *params);
const uint16_t *dd_bert_weight16(const struct dd_bert *bert, int layer, enum dd_bert_weight weight);
/* A bf16 copy of x [rows, columns] in buffer `slot`, from element `at` on; valid until the slot is used again. */
const uint16_t *dd_bert_half(struct dd_bert *bert, int slot, size_t at, const float *x, int rows, int columns);
/* Elements of one slot for a token; of one layer's weights. */
size_t dd_bert_half_width(const struct dd_bert_config *config);
size_t dd_bert_weight_count(const struct dd_bert_config *config);

/* All three do nothing or return NULL but for int8.  bert_int8.c. */
void dd_bert_plan_int8(struct dd_bert *bert, void *(*take)(void *plan, size_t a, size_t b, size_t element_bytes),
                       void *plan);
/* x [rows, columns] as bytes; slot 0 for tokens, 1 for sequences; valid until the slot is used again. */
const struct dd_int8_rows *dd_bert_rows8(struct dd_bert *bert, int slot, const float *x, int rows, int columns);
const struct dd_int8_matrix *dd_bert_weight8(const struct dd_bert *bert, const struct dd_params *params, int layer,
                                             enum dd_int8_weight weight);
/* to [hidden] = the embedding of a word. */
void dd_bert_word8(const struct dd_int8 *int8, int32_t id, float *to);

/* Rates by the config. */
double dd_bert_classifier_dropout(const struct dd_bert_config *config);

#endif
