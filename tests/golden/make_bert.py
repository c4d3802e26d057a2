"""Golden values for tests/unit/engine/test_bert.c and test_optimizer.c, from PyTorch and transformers.

Each file tests/golden/fixtures/bert/<case>.bin, little-endian:
  8 bytes    "ddbert1\\n"
  9 int32    vocab_size hidden_size layers heads intermediate_size max_positions type_vocab_size n_labels pad_token_id
  16 bytes   hidden_act, padded with NUL
  double     layer_norm_eps
  3 int32    n_sequences, n_tokens, n_tensors
  int32      ids [n_tokens], segments [n_tokens], offsets [n_sequences + 1], labels [n_sequences]
  n_tensors× name 96 bytes padded with NUL, int32 count, float32 value [count], float32 gradient [count]
  float32    logits [n_sequences, n_labels], dlogits [n_sequences, n_labels]: gradients are those of Σ logits · dlogits
  double     20 losses (cross-entropy) of AdamW, then 20 of SGD, each from the values above on this same batch
             (AdamW: lr 2e-3, decay 0.01; SGD: lr 0.05, momentum 0.9, decay 0.01; both: warm-up 4 of 20 steps, linear, clip 1)
"""

import copy
import pathlib
import struct

import numpy as np
import torch
import transformers

OUT = pathlib.Path(__file__).parent / "fixtures/bert"
CASES = {
    "one_head": dict(num_attention_heads=1, hidden_size=16, intermediate_size=24, num_hidden_layers=1),
    "two_heads_pairs": dict(num_attention_heads=2, hidden_size=22, intermediate_size=35, num_hidden_layers=2,
                            hidden_act="gelu_new"),
    "three_heads": dict(num_attention_heads=3, hidden_size=21, intermediate_size=40, num_hidden_layers=2,
                        hidden_act="relu", num_labels=5),
}
LENGTHS = {"one_head": [1, 5, 2, 9], "two_heads_pairs": [7, 12, 18], "three_heads": [17]}


def make_model(settings):
    config = transformers.BertConfig(**{
        **dict(vocab_size=31, max_position_embeddings=20, num_labels=3, hidden_dropout_prob=0.0,
               attention_probs_dropout_prob=0.0, attn_implementation="eager"),
        **settings,
    })
    model = transformers.BertForSequenceClassification(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(1 + 0.2 * noise if "LayerNorm.weight" in name else 0.15 * noise)
        model.bert.embeddings.word_embeddings.weight[config.pad_token_id] = 0
    return model.eval()


def padded(sequences):
    longest = max(len(ids) for ids, _ in sequences)
    batch = {key: torch.zeros(len(sequences), longest, dtype=torch.long)
             for key in ("input_ids", "token_type_ids", "attention_mask")}
    for row, (ids, segments) in enumerate(sequences):
        batch["input_ids"][row, : len(ids)] = torch.tensor(ids)
        batch["token_type_ids"][row, : len(ids)] = torch.tensor(segments)
        batch["attention_mask"][row, : len(ids)] = 1
    return batch


def twenty_losses(model, batch, labels, make_optimizer):
    model = copy.deepcopy(model)
    plain = lambda name: name.endswith("bias") or name.endswith("LayerNorm.weight")
    groups = [dict(params=[p for n, p in model.named_parameters() if not plain(n)], weight_decay=0.01),
              dict(params=[p for n, p in model.named_parameters() if plain(n)], weight_decay=0.0)]
    optimizer = make_optimizer(groups)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 4, 20)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(**batch).logits, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def write_case(name, settings, lengths):
    torch.manual_seed(len(name))
    rng = np.random.default_rng(len(name))
    model = make_model(settings)
    config = model.config
    sequences = []
    for length in lengths:
        ids = rng.integers(1, config.vocab_size, length)
        if length > 10:
            ids[4] = config.pad_token_id  # has no gradient, wherever it stands
        cut = length if "pairs" not in name else int(rng.integers(2, length))
        sequences.append((ids.tolist(), [0] * cut + [1] * (length - cut)))
    batch, labels = padded(sequences), torch.tensor(rng.integers(0, config.num_labels, len(lengths)))
    logits = model(**batch).logits
    dlogits = torch.randn_like(logits)
    logits.backward(dlogits)
    out = [b"ddbert1\n", struct.pack(
        "<9i16sd", config.vocab_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads,
        config.intermediate_size, config.max_position_embeddings, config.type_vocab_size, config.num_labels,
        config.pad_token_id, config.hidden_act.encode(), config.layer_norm_eps)]
    named = list(model.named_parameters())
    out.append(struct.pack("<3i", len(lengths), sum(lengths), len(named)))
    ints = [i for ids, _ in sequences for i in ids] + [k for _, segments in sequences for k in segments]
    ints += [0] + np.cumsum(lengths).tolist() + labels.tolist()
    out.append(np.array(ints, "<i4").tobytes())
    for tensor_name, parameter in named:
        out.append(struct.pack("<96si", tensor_name.encode(), parameter.numel()))
        out += [t.detach().numpy().astype("<f4").tobytes() for t in (parameter, parameter.grad)]
    out += [t.detach().numpy().astype("<f4").tobytes() for t in (logits, dlogits)]
    out.append(np.array(twenty_losses(model, batch, labels, lambda g: torch.optim.AdamW(g, lr=2e-3)), "<f8").tobytes())
    out.append(np.array(
        twenty_losses(model, batch, labels, lambda g: torch.optim.SGD(g, lr=0.05, momentum=0.9)), "<f8").tobytes())
    (OUT / f"{name}.bin").write_bytes(b"".join(out))


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    for case, case_settings in CASES.items():
        write_case(case, case_settings, LENGTHS[case])
