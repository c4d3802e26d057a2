"""Forward and backward against transformers' BertForSequenceClassification: logits to 1e-5, gradients to 1e-4."""

import numpy as np
import pytest
import torch

import libengine as le
import nn

SHAPES = {
    "one_head": dict(num_attention_heads=1, hidden_size=32, num_hidden_layers=1),
    "two_heads_odd": dict(num_attention_heads=2, hidden_size=34, intermediate_size=51),
    "three_heads": dict(num_attention_heads=3, hidden_size=48, num_hidden_layers=3),
    "four_heads_gelu_new": dict(num_attention_heads=4, hidden_size=64, hidden_act="gelu_new"),
    "twelve_heads_relu": dict(num_attention_heads=12, hidden_size=144, hidden_act="relu"),
    "wide_heads": dict(num_attention_heads=1, hidden_size=176, num_labels=7),
    "tiny": dict(num_attention_heads=3, hidden_size=9, intermediate_size=5, num_labels=2),
    "long": dict(num_attention_heads=2, hidden_size=40, max_position_embeddings=300),
    "two_labels_one_type": dict(num_attention_heads=2, hidden_size=32, num_labels=2, type_vocab_size=1),
    "note": dict(num_attention_heads=3, hidden_size=768, intermediate_size=3072, num_hidden_layers=1),
}
LENGTHS = {
    "odd": [5, 17, 3, 2, 31, 64, 1, 16],
    "single": [13],
    "two": [2, 2, 2],
    "many": [2 + (7 * i) % 23 for i in range(40)],
}


def lengths_of(shape, kind):
    if shape == "long":
        return {"odd": [130, 65, 300], "single": [257], "two": [64, 128], "many": [99] * 17}[kind]
    return LENGTHS[kind]


def compare(core, hf, packed, dropout=None, tolerance=1e-4):
    """Largest logit error, and for each gradient the largest error relative to its largest value."""
    config = nn.bert_config(hf)
    params, grads = nn.Slab(core, config), nn.Slab(core, config)
    params.copy_from(hf)
    grads.flat[:] = np.nan  # every gradient must be written
    word = grads.views["bert.embeddings.word_embeddings.weight"]
    word[...] = 0
    longest = max(packed.lengths)
    bert = nn.Bert(core, config, len(packed.ids), len(packed.lengths), longest)
    logits = bert.forward(params, packed, dropout)
    rng = np.random.default_rng(5)
    dlogits = rng.normal(size=logits.shape).astype(np.float32)
    word[np.unique(packed.ids)] = np.nan
    bert.backward(params, packed, dlogits, grads, dropout)

    hf.zero_grad()
    if dropout is None:
        hf.eval()
        want = hf(**packed.padded()).logits
    else:
        hf.train()
        with nn.forced_dropout(nn.masks(packed, config, dropout)) as queue:
            want = hf(**packed.padded()).logits
        assert not queue
    want.backward(torch.tensor(dlogits))
    logit_error = np.abs(logits - want.detach().numpy()).max()
    errors = {}
    largest = max(p.grad.abs().max().item() for p in hf.parameters())
    for name, parameter in hf.named_parameters():
        want_grad = parameter.grad.numpy()
        scale = np.abs(want_grad).max()
        # A key's bias has gradient zero in exact arithmetic (softmax is shift-invariant): judged on the model's scale.
        scale = max(scale, 1e-3 * largest) if name.endswith("key.bias") else max(scale, 1e-6 * largest)
        errors[name] = np.abs(grads.views[name] - want_grad).max() / scale
    assert sorted(bert.touched()) == sorted(set(packed.ids.tolist()))
    bert.free(), params.free(), grads.free()
    assert logit_error <= 1e-5 * max(1.0, np.abs(want.detach().numpy()).max()), logit_error
    bad = {name: error for name, error in errors.items() if not error <= tolerance}
    assert not bad, bad
    return logit_error, max(errors.values())


@pytest.fixture(scope="module")
def core():
    core = nn.Core(2)
    yield core
    core.close()


@pytest.mark.parametrize("kind", LENGTHS)
@pytest.mark.parametrize("shape", SHAPES)
def test_evaluation(core, shape, kind):
    hf = nn.hf_model(seed=1, **SHAPES[shape])
    types = hf.config.type_vocab_size
    packed = nn.random_batch(np.random.default_rng(2), lengths_of(shape, kind), 97, pairs=types > 1)
    logit, grad = compare(core, hf, packed)
    print(f"{shape} {kind}: logits {logit:.1e}, gradients {grad:.1e}")


@pytest.mark.parametrize("kind", ["odd", "single", "many"])
@pytest.mark.parametrize("shape", SHAPES)
def test_training_with_the_same_masks(core, shape, kind):
    rates = dict(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.2, classifier_dropout=0.3)
    hf = nn.hf_model(seed=3, **SHAPES[shape], **rates)
    packed = nn.random_batch(np.random.default_rng(4), lengths_of(shape, kind), 97)
    logit, grad = compare(core, hf, packed, le.Dropout(True, 0x1234567890, 77 + (5 << 32)))
    print(f"{shape} {kind}: logits {logit:.1e}, gradients {grad:.1e}")


def test_padding_row_gets_no_gradient(core):
    hf = nn.hf_model(seed=6)
    packed = nn.Packed([(np.array([2, 0, 5, 0, 3]), np.zeros(5, int)), (np.array([2, 7, 3]), np.zeros(3, int))])
    compare(core, hf, packed)


@pytest.mark.parametrize("shape", ["three_heads", "two_heads_odd", "long"])
def test_hidden_states_and_pooled_output(core, shape):
    hf = nn.hf_model(seed=8, **SHAPES[shape]).eval()
    config = nn.bert_config(hf)
    packed = nn.random_batch(np.random.default_rng(9), lengths_of(shape, "odd"), 97)
    params = nn.Slab(core, config)
    params.copy_from(hf)
    bert = nn.Bert(core, config, len(packed.ids), len(packed.lengths), max(packed.lengths), training=False)
    narrow = bert.forward(params, packed)
    assert not core.lib.dd_bert_hidden(bert.pointer)
    core.lib.dd_bert_set_full(bert.pointer, True)
    logits = bert.forward(params, packed)
    hidden = np.ctypeslib.as_array(core.lib.dd_bert_hidden(bert.pointer), shape=(len(packed.ids), config.hidden_size))
    pooled = np.ctypeslib.as_array(
        core.lib.dd_bert_pooled(bert.pointer), shape=(len(packed.lengths), config.hidden_size)
    )
    with torch.no_grad():
        out = hf.bert(**packed.padded())
    want = np.concatenate([out.last_hidden_state[s, :n].numpy() for s, n in enumerate(packed.lengths)])
    assert np.abs(hidden - want).max() <= 2e-5
    assert np.abs(pooled - out.pooler_output.numpy()).max() <= 1e-5
    assert np.abs(narrow - logits).max() <= 1e-5
    bert.free(), params.free()
