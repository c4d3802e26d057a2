/* match: the student's inner states drawn towards the teacher's.  Private to engine/.
 *
 * State 0 is the output of the embeddings, state i that of layer i - 1.  Each state of a student of N layers has a
 * partner among the teacher's (match->teacher_state).  With z = the student's state, through the projection where the
 * teacher is of another width, and t = its partner:
 *
 *   hidden  mean over the states 0 … N of: mean over rows and dimensions of (z − t)².  Rows are the batch's real
 * tokens; of state N they are its [CLS] tokens, because the student's last layer computes no other (bert.h): computing
 *           it whole would cost a 3-layer student 40 % of a step, for states that nothing reads.  (TinyBERT, Jiao et
 * al. 2020, eq. 8 and 9, which sums over the states; a mean keeps the weight's meaning whatever N.) cls     mean over
 * the states 1 … N and the sequences of |z/|z| − t/|t||² at [CLS].  State 0 is left out: there the teacher says the
 * same of every row.  (Patient KD, Sun et al. 2019, eq. 7.)  A state of length 0 has no direction and gets no gradient.
 *
 * One projection serves all states ("match.projection": weight [teacher's width, width], bias), as in TinyBERT.  It is
 * a parameter of the run, behind the model's in the slab: clipped, updated and checkpointed with them, never exported.
 *
 * Sums over rows are taken in pieces cut by the problem and added in order, in double: the same bits for any team.
 * Threads: a dd_match and a dd_asker belong to one thread and its team.
 */
#ifndef DD_ENGINE_MATCH_H
#define DD_ENGINE_MATCH_H

#include "engine/nn.h"

struct dd_match_spec {
    double hidden_weight, cls_weight; /* at least one is above 0 */
    int layers, width;                /* of the student */
    int teacher_width;
    int teacher_state[DD_MAX_LAYERS + 1]; /* partner of each of the student's states */
};
struct dd_match_loss {
    double hidden, cls; /* 0 where the weight is */
    double total;       /* hidden_weight hidden + cls_weight cls */
};

/* --- the loss (match.c) ----------------------------------------------------------------------------------------- */

struct dd_match;
enum dd_status dd_match_new(const struct dd_match_spec *spec, int max_tokens, int max_sequences, struct dd_team *team,
                            struct dd_match **ret_match, struct dd_error *err) DD_MUST_CHECK;
void dd_match_free(struct dd_match *match);
size_t dd_match_bytes(const struct dd_match_spec *spec, int max_tokens, int max_sequences); /* SIZE_MAX on overflow */
/* Where the partner of a student's state is to be put before dd_match_run: [tokens, teacher_width] of the batch's
 * tokens, [sequences, teacher_width] of its [CLS] tokens.  NULL where it is not looked at. */
float *dd_match_tokens(struct dd_match *match, int state);
float *dd_match_cls(struct dd_match *match, int state);
/* After dd_bert_forward of the batch: the loss.  Writes (not adds) the projection's gradient into grads, and has the
 * bert's next backwards add the states' (dd_bert_set_extra; the buffers are the match's, until its next run). */
struct dd_match_loss dd_match_run(struct dd_match *match, struct dd_bert *bert, const struct dd_params *params,
                                  const struct dd_batch *batch, struct dd_params *grads);

/* --- how tokens relate (match_heads.c) --------------------------------------------------------------------------- */

/* Two more losses, of what attention works with, over the batch's real tokens, before dropout.
 *
 *   attention  mean over the student's layers of: mean over heads, sequences and pairs of tokens of (s − t)², where s
 *              and t are the scores before the softmax, q·k / √(head size), of the layer and of its partner. (TinyBERT,
 *              Jiao et al. 2020, eq. 7, which takes scores, not probabilities, since it learns faster from them, and
 *              sums over layers.)  Where the numbers of heads differ, s and t are the means of the scores over heads.
 *              The last layer has queries at [CLS] alone, so there it is that row of the scores.
 *   relation   of the last layer and its partner: mean over the relations of keys with keys and of values with values,
 *              over relation heads and tokens, of KL(teacher's || student's), the relation of a token being the softmax
 *              over tokens of x·x' / √(relation head size).  (Values: MiniLM, Wang et al. 2020, eq. 4; keys, and
 * relation heads, which cut each width into the same number of pieces: MiniLMv2, Wang et al. 2021.  Its third relation,
 * queries with queries, is left out: only the last layer's query at [CLS] exists.)
 *
 * Nothing is projected: widths may differ as they are. */
struct dd_heads_spec {
    double attention_weight, relation_weight; /* at least one is above 0 */
    int layers, width, heads;                 /* of the student */
    int teacher_width, teacher_heads;
    int relation_heads;               /* divides both widths; any where relation_weight is 0 */
    int teacher_layer[DD_MAX_LAYERS]; /* partner of each of the student's layers */
};
struct dd_heads_loss {
    double attention, relation; /* 0 where the weight is */
    double total;
};
struct dd_heads;
enum dd_status dd_heads_new(const struct dd_heads_spec *spec, int max_tokens, int max_sequences, int max_length,
                            struct dd_team *team, struct dd_heads **ret_heads, struct dd_error *err) DD_MUST_CHECK;
void dd_heads_free(struct dd_heads *heads);
/* For as many threads as the machine has; SIZE_MAX on overflow. */
size_t dd_heads_bytes(const struct dd_heads_spec *spec, int max_tokens, int max_sequences, int max_length);
enum dd_head_part { DD_QUERIES = 0, DD_KEYS, DD_VALUES, DD_HEAD_PARTS };
/* Where the teacher's are to be put before dd_heads_run: [tokens, teacher_width] of the batch, but the last layer's
 * queries [sequences, teacher_width], at [CLS].  NULL where it is not looked at. */
float *dd_heads_target(struct dd_heads *heads, int layer, enum dd_head_part part);
/* As dd_match_run (dd_bert_set_extra_qkv). */
struct dd_heads_loss dd_heads_run(struct dd_heads *heads, struct dd_bert *bert, const struct dd_batch *batch);

/* --- asking the teacher (match_teacher.c) ----------------------------------------------------------------------- */

enum dd_wanted_kind { DD_WANTED_STATE = 0, DD_WANTED_QUERIES, DD_WANTED_KEYS, DD_WANTED_VALUES };
struct dd_wanted_state {
    int state;  /* of the teacher; of queries, keys and values: the state that their layer makes */
    bool cls;   /* at [CLS] alone */
    float *out; /* [tokens or sequences of the batch, teacher's width] */
    enum dd_wanted_kind kind;
};
#define DD_MAX_WANTED (5 * DD_MAX_LAYERS + 2)
struct dd_asker {
    const struct dd_params *params; /* the teacher's, borrowed */
    struct dd_bert *bert;           /* evaluation, fp32 whatever the run's precision */
    float *logits;
    struct dd_wanted_state wanted[DD_MAX_WANTED];
    int n_wanted, width, layers;
    const struct dd_batch *batch; /* now asked about */
};
/* The caller fills wanted and n_wanted afterwards. */
enum dd_status dd_asker_init(struct dd_asker *asker, const struct dd_model *teacher, int max_tokens, int max_sequences,
                             int max_length, struct dd_team *team, struct dd_error *err) DD_MUST_CHECK;
void dd_asker_release(struct dd_asker *asker); /* all zero is fine */
void dd_asker_ask(struct dd_asker *asker, const struct dd_batch *batch);

#endif
