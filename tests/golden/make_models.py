#!/usr/bin/env python3
"""Writes tests/golden/fixtures/models: one tiny classifier in every form that models come in.

values.f32 holds its parameters as raw fp32 in the order of the engine's slab, without padding.  Every value is a
multiple of 1/64 below 2, so that float16, bfloat16, float32 and float64 all hold it exactly.
"""

import os
import pathlib
import shutil
import zipfile

import torch
import transformers
from safetensors.torch import save_file

FIXTURES = pathlib.Path(__file__).resolve().parent / "fixtures/models"
LABELS = ["测评", "种草", "科普"]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##a", "奶", "粉", "good", "bad"]


def slab_order(layers):
    yield from (f"bert.embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type"))
    yield from ("bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.bias")
    for i in range(layers):
        layer = f"bert.encoder.layer.{i}."
        for kind in ("weight", "bias"):
            yield from (f"{layer}attention.self.{part}.{kind}" for part in ("query", "key", "value"))
        for part in (
            "attention.output.dense",
            "attention.output.LayerNorm",
            "intermediate.dense",
            "output.dense",
            "output.LayerNorm",
        ):
            yield from (f"{layer}{part}.weight", f"{layer}{part}.bias")
    yield from ("bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias")


class Malice:
    def __reduce__(self):
        return os.system, ("touch distilld-malice-was-run",)


def main():
    # The legacy form carries the source of each class, with its path; the reader must step over it, whatever it says.
    torch.serialization.get_source_lines_and_file = lambda *_: (["class Source: ...\n"], 1, "module.py")
    shutil.rmtree(FIXTURES, ignore_errors=True)
    FIXTURES.mkdir(parents=True)
    generator = torch.Generator().manual_seed(20)
    config = transformers.BertConfig(
        vocab_size=14,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=6,
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
    )
    model = transformers.BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-127, 128, parameter.shape, generator=generator) / 64)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    values = torch.cat([state[name].flatten() for name in slab_order(config.num_hidden_layers)])
    (FIXTURES / "values.f32").write_bytes(values.numpy().tobytes())
    (FIXTURES / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    config.architectures = ["BertForSequenceClassification"]
    config.save_pretrained(FIXTURES)

    for name, dtype in {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "f64": torch.float64}.items():
        save_file({k: v.to(dtype) for k, v in state.items()}, FIXTURES / f"{name}.safetensors", {"format": "pt"})
    torch.save(state, FIXTURES / "state_zip.bin")
    torch.save(state, FIXTURES / "state_legacy.bin", _use_new_zipfile_serialization=False)
    torch.save(model, FIXTURES / "module_zip.pt")
    torch.save(model, FIXTURES / "module_legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(model.half(), FIXTURES / "module_half_protocol4.pt", pickle_protocol=4)
    with zipfile.ZipFile(FIXTURES / "state_zip.bin") as source:
        with zipfile.ZipFile(FIXTURES / "state_deflated.bin", "w", zipfile.ZIP_DEFLATED) as target:
            for item in source.infolist():
                target.writestr(item.filename, source.read(item), zipfile.ZIP_DEFLATED)
    old_names = {
        "module." + k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
        for k, v in state.items()
    }
    torch.save(old_names, FIXTURES / "old_names.bin")
    torch.save({**state, "malice": Malice()}, FIXTURES / "malicious_zip.bin")
    torch.save({**state, "malice": Malice()}, FIXTURES / "malicious_legacy.bin", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
