"""The numeric core (engine/nn.h) for the live comparisons, and the Hugging Face model that it must equal."""

import contextlib
import ctypes

import numpy as np
import torch
import transformers

import libengine as le

PURPOSE_DROPOUT = 4


class Core:
    """A pool, a team, and the functions of nn.h with their types."""

    def __init__(self, threads=1):
        self.lib = lib = le.load()
        pointer = ctypes.c_void_p
        lib.dd_params_new.argtypes = [pointer, pointer, pointer]
        lib.dd_bert_new.argtypes = [pointer] + [ctypes.c_int] * 3 + [ctypes.c_bool, ctypes.c_int] + [pointer] * 3
        lib.dd_bert_forward.argtypes = [pointer] * 5
        lib.dd_bert_backward.argtypes = [pointer] * 6
        lib.dd_bert_touched.argtypes = [pointer, pointer]
        lib.dd_bert_touched.restype = ctypes.POINTER(ctypes.c_int32)
        lib.dd_bert_set_full.argtypes = [pointer, ctypes.c_bool]
        for name in ("dd_bert_hidden", "dd_bert_pooled"):
            getattr(lib, name).argtypes = [pointer]
            getattr(lib, name).restype = ctypes.POINTER(ctypes.c_float)
        lib.dd_distill_loss.argtypes = [pointer] * 3 + [ctypes.c_int] * 2 + [ctypes.c_double] * 2 + [pointer]
        lib.dd_distill_loss.restype = le.Loss
        lib.dd_loss_compute.argtypes = [pointer] * 3 + [ctypes.c_int] * 2 + [pointer] * 2
        lib.dd_loss_compute.restype = le.Loss
        lib.dd_class_weights.argtypes = [pointer, ctypes.c_size_t, ctypes.c_int] + [pointer] * 2
        lib.dd_optimizer_new.argtypes = [pointer] * 3 + [ctypes.c_int64] + [pointer] * 3
        lib.dd_optimizer_refresh.argtypes = [pointer, pointer, ctypes.c_int]
        lib.dd_optimizer_flush.argtypes = [pointer]
        lib.dd_optimizer_lr.argtypes = [pointer, ctypes.c_int64]
        lib.dd_optimizer_lr.restype = ctypes.c_double
        lib.dd_optimizer_step.argtypes = [pointer, pointer, pointer, ctypes.c_int, pointer]
        lib.dd_optimizer_step.restype = ctypes.c_double
        lib.dd_optimizer_state.argtypes = [pointer] * 3
        lib.dd_optimizer_state.restype = ctypes.c_int64
        lib.dd_optimizer_average.argtypes = [pointer]
        lib.dd_optimizer_average.restype = ctypes.POINTER(ctypes.c_float)
        lib.dd_optimizer_slabs.argtypes = [pointer] * 2
        lib.dd_optimizer_restart.argtypes = [pointer, ctypes.c_double]
        lib.dd_optimizer_set_restart.argtypes = [pointer, ctypes.c_int64, ctypes.c_double]
        lib.dd_bert_set_frozen.argtypes = [pointer, ctypes.c_bool]
        lib.dd_optimizer_set_step.argtypes = [pointer, ctypes.c_int64]
        lib.dd_params_init.argtypes = [pointer, pointer, ctypes.c_uint64]
        for name in ("dd_params_free", "dd_bert_free", "dd_optimizer_free", "dd_team_leave", "dd_pool_free"):
            getattr(lib, name).argtypes = [pointer]
        self.error = le.Error()
        self.pool = self.make(lib.dd_pool_new, ctypes.c_int(threads))
        self.team = self.make(lib.dd_team_join, self.pool)

    def make(self, function, *arguments):
        result = ctypes.c_void_p()
        le.check(function(*arguments, ctypes.byref(result), ctypes.byref(self.error)), self.error)
        return result

    def close(self):
        self.lib.dd_team_leave(self.team)
        self.lib.dd_pool_free(self.pool)


def hf_model(seed=0, **overrides):
    """A classifier with weights large enough that every path matters, in float32."""
    settings = dict(
        vocab_size=97, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=80,
        max_position_embeddings=64, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        attn_implementation="eager",
    )
    settings.update(overrides)
    torch.manual_seed(seed)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm.weight" in name:
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            else:
                parameter.copy_((0.3 / parameter.shape[-1] ** 0.25) * torch.randn_like(parameter))
        model.bert.embeddings.word_embeddings.weight[model.config.pad_token_id] = 0
    return model


def bert_config(hf):
    config = hf.config
    rate = config.classifier_dropout
    return le.BertConfig(
        config.vocab_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads,
        config.intermediate_size, config.max_position_embeddings, config.type_vocab_size, config.num_labels,
        config.pad_token_id, config.hidden_act.encode(), config.layer_norm_eps, config.initializer_range,
        config.hidden_dropout_prob, config.attention_probs_dropout_prob, float("nan") if rate is None else rate,
    )


class Slab:
    """A dd_params with its tensors as numpy views by Hugging Face name."""

    def __init__(self, core, config):
        self.core = core
        self.pointer = core.make(core.lib.dd_params_new, ctypes.byref(config))
        params = ctypes.cast(self.pointer, ctypes.POINTER(le.Params)).contents
        self.flat = np.ctypeslib.as_array(params.slab, shape=(params.count,))
        self.views = {}
        for tensor in params.tensors[: params.n_tensors]:
            view = self.flat[tensor.offset : tensor.offset + tensor.count]
            self.views[tensor.name.decode()] = view.reshape(tuple(tensor.shape[: tensor.rank]))

    def copy_from(self, hf):
        named = dict(hf.named_parameters())
        assert set(named) == set(self.views)
        for name, view in self.views.items():
            view[...] = named[name].detach().numpy()

    def free(self):
        self.core.lib.dd_params_free(self.pointer)


class Packed:
    """Sequences as [(ids, segments)], packed for the engine and padded for transformers."""

    def __init__(self, sequences):
        self.lengths = [len(ids) for ids, _ in sequences]
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int32)
        self.ids = np.concatenate([ids for ids, _ in sequences]).astype(np.int32)
        self.segments = np.concatenate([segments for _, segments in sequences]).astype(np.uint8)
        self.batch = le.Batch(
            len(sequences), len(self.ids), self.ids.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            self.segments.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)),
            self.offsets.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
        )

    def padded(self, pad_token_id=0):
        n, longest = len(self.lengths), max(self.lengths)
        ids = np.full((n, longest), pad_token_id, np.int64)
        segments, mask = np.zeros((n, longest), np.int64), np.zeros((n, longest), np.int64)
        for s, length in enumerate(self.lengths):
            at = slice(self.offsets[s], self.offsets[s + 1])
            ids[s, :length], segments[s, :length], mask[s, :length] = self.ids[at], self.segments[at], 1
        return dict(
            input_ids=torch.tensor(ids), token_type_ids=torch.tensor(segments), attention_mask=torch.tensor(mask)
        )


def random_batch(rng, lengths, vocab, pairs=False):
    sequences = []
    for length in lengths:
        ids = rng.integers(4, vocab, length)
        ids[0], ids[-1] = 2, 3
        segments = np.zeros(length, np.int64)
        if pairs and length > 3:
            segments[rng.integers(2, length - 1) :] = 1
        sequences.append((ids, segments))
    return Packed(sequences)


class Bert:
    def __init__(self, core, config, max_tokens=4096, max_sequences=64, max_length=64, training=True, precision=0):
        self.core, self.config = core, config
        self.pointer = core.make(
            core.lib.dd_bert_new, ctypes.byref(config), max_tokens, max_sequences, max_length, training, precision,
            core.team,
        )

    def forward(self, params, packed, dropout=None):
        logits = np.empty((packed.batch.n_sequences, self.config.n_labels), np.float32)
        self.core.lib.dd_bert_forward(
            self.pointer, params.pointer, ctypes.byref(packed.batch), ctypes.byref(dropout or le.Dropout()),
            logits.ctypes.data,
        )
        return logits

    def backward(self, params, packed, dlogits, grads, dropout=None):
        dlogits = np.ascontiguousarray(dlogits, np.float32)
        self.core.lib.dd_bert_backward(
            self.pointer, params.pointer, ctypes.byref(packed.batch), ctypes.byref(dropout or le.Dropout()),
            dlogits.ctypes.data, grads.pointer,
        )

    def touched(self):
        count = ctypes.c_int()
        rows = self.core.lib.dd_bert_touched(self.pointer, ctypes.byref(count))
        return np.ctypeslib.as_array(rows, shape=(count.value,)).copy()

    def free(self):
        self.core.lib.dd_bert_free(self.pointer)


# --- the masks of engine/simd.h, built a second time ---------------------------------------------------------------


def philox(counter, key):
    """Philox 4x32-10 on columns: counter [4, n], key [2]; returns [4, n]."""
    c = counter.astype(np.uint64)
    k0, k1 = int(key[0]), int(key[1])
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = np.stack([
            (p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k0), p1 & low,
            (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k1), p0 & low,
        ])
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c.astype(np.uint32)


def kept(rate, tensor, dropout, first_group, elements):
    """Factors (0 or scale) of `elements` elements from group first_group on."""
    groups = -(-elements // 128)
    index = np.arange(first_group * 16, (first_group + groups) * 16, dtype=np.uint64)
    counter = np.zeros((4, len(index)), np.uint64)
    counter[0] = index & np.uint64(0xFFFFFFFF)
    counter[1] = (index >> np.uint64(32)) | np.uint64((dropout.step >> 32) << 16)
    counter[2] = np.uint64(dropout.step & 0xFFFFFFFF)
    counter[3] = np.uint64(tensor | PURPOSE_DROPOUT << 28)
    words = philox(counter, (dropout.seed & 0xFFFFFFFF, dropout.seed >> 32)).reshape(4, groups, 16)
    halves = np.stack([words & 0xFFFF, words >> 16], axis=1)  # [word, half, group, lane]
    values = halves.transpose(2, 0, 1, 3).reshape(-1)[:elements]
    threshold = round(rate * 65536)
    return np.where(values >= threshold, np.float32(65536 / (65536 - threshold)), np.float32(0))


def hidden_mask(packed, rate, tensor, dropout, width):
    groups = -(-width // 128)
    rows = kept(rate, tensor, dropout, 0, len(packed.ids) * groups * 128).reshape(len(packed.ids), -1)[:, :width]
    mask = np.ones((len(packed.lengths), max(packed.lengths), width), np.float32)
    for s, length in enumerate(packed.lengths):
        mask[s, :length] = rows[packed.offsets[s] : packed.offsets[s + 1]]
    return torch.tensor(mask)


def attention_mask(packed, rate, tensor, dropout, heads):
    longest = max(packed.lengths)
    mask = np.ones((len(packed.lengths), heads, longest, longest), np.float32)
    for s, length in enumerate(packed.lengths):
        row = -(-length // 16) * 16
        for head in range(heads):
            flat = kept(rate, tensor, dropout, (s * heads + head) << 20, length * row)
            mask[s, head, :length, :length] = flat.reshape(length, row)[:, :length]
    return torch.tensor(mask)


def masks(packed, config, dropout):
    """In the order in which transformers calls dropout."""
    hidden, attention = config.hidden_dropout, config.attention_dropout
    last = hidden if np.isnan(config.classifier_dropout) else config.classifier_dropout
    width = config.hidden_size
    result = [hidden_mask(packed, hidden, 0, dropout, width)]
    for layer in range(config.layers):
        result.append(attention_mask(packed, attention, 1 + 3 * layer, dropout, config.heads))
        result.append(hidden_mask(packed, hidden, 2 + 3 * layer, dropout, width))
        result.append(hidden_mask(packed, hidden, 3 + 3 * layer, dropout, width))
    rows, groups = len(packed.lengths), -(-width // 128)
    pooled = kept(last, 0x0FFFFFFF, dropout, 0, rows * groups * 128).reshape(rows, -1)[:, :width]
    return result + [torch.tensor(pooled)]


@contextlib.contextmanager
def forced_dropout(queue):
    """torch.nn.functional.dropout takes its masks from the queue."""
    original, queue = torch.nn.functional.dropout, list(queue)

    def forced(input, p=0.5, training=True, inplace=False):
        mask = queue.pop(0)
        assert mask.shape == input.shape, (mask.shape, input.shape)
        return input * mask

    torch.nn.functional.dropout = forced
    try:
        yield queue
    finally:
        torch.nn.functional.dropout = original
