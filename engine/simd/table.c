/* table: the kernels of one instruction set. */
#include "engine/simd/kernels.h"

#define NAME__(x) #x
#define NAME_(x) NAME__(x)

const struct dd_simd DD_PASTE(dd_simd_table, DD_SIMD) = {
    .name = NAME_(DD_SIMD),
    .mask = K(mask),
    .activation = K(activation),
    .add_bias = K(add_bias),
    .multiply = K(multiply),
    .tanh = K(tanh),
    .tanh_backward = K(tanh_backward),
    .column_sums = K(column_sums),
    .dropout = K(dropout),
    .residual_layernorm = K(residual_layernorm),
    .layernorm_dropout = K(layernorm_dropout),
    .layernorm_backward = K(layernorm_backward),
    .attention = K(attention),
    .attention_backward = K(attention_backward),
    .relation = K(relation),
    .sum_squares = K(sum_squares),
    .adamw = K(adamw),
    .sgd = K(sgd),
    .adamw_replay = K(adamw_replay),
    .sgd_replay = K(sgd_replay),
    .decay_replay = K(decay_replay),
    .to_bf16 = K(to_bf16),
    .int8_rows = K(int8_rows),
    .int8_to_float = K(int8_to_float),
    .evaluate = K(evaluate),
};
