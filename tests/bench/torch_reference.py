"""The reference that a user would run instead: PyTorch with transformers on the same cores.

Two loops over the same rows in the same order, one JSON line each on standard output:

  note   the note's loop: every batch padded to max_length, the teacher forward under no_grad in each batch
  fair   like for like: padded to the longest row of the batch, the teacher's logits already known

usage: torch_reference.py BATCHES.json --layers 3 --hidden 768 --heads 3 --intermediate 3072 --vocab 21128
           --threads 2 --loop fair [--teacher-layers 12] [--max-length 128] [--optimizer adamw] [--warmup 2]
           [--steps N (of those after the warm-up; default all)] [--name NAME]

BATCHES.json: {"batches": [[[id, …], …], …], "labels": [[…], …]}, written by `step --export`, so both sides see the same tokens.
"""

import argparse
import json
import resource
import time

import torch
import transformers
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification


def model(arguments, layers, heads):
    config = BertConfig(
        vocab_size=arguments.vocab,
        hidden_size=arguments.hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=arguments.intermediate,
        num_labels=arguments.classes,
    )
    return BertForSequenceClassification(config)


def padded(rows, length):
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        row = row[:length]
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask


def distillation_loss(student, teacher, labels, temperature=4.0, alpha=0.2):
    p = functional.log_softmax(student / temperature, dim=1)
    q = functional.softmax(teacher / temperature, dim=1)
    kl = functional.kl_div(p, q, reduction="sum") * temperature**2 / student.shape[0]
    return alpha * kl + (1 - alpha) * functional.cross_entropy(student, labels)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("batches")
    for name, default in (
        ("layers", 3), ("hidden", 768), ("heads", 3), ("intermediate", 3072), ("vocab", 21128),
        ("classes", 3), ("threads", 2), ("teacher-layers", 12), ("max-length", 128), ("warmup", 2), ("steps", 0),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--loop", choices=("note", "fair"), default="fair")
    parser.add_argument("--name", default="")
    parser.add_argument("--optimizer", choices=("adamw", "sgd"), default="adamw")
    arguments = parser.parse_args()

    torch.manual_seed(1)
    torch.set_num_threads(arguments.threads)
    with open(arguments.batches, encoding="utf-8") as file:
        data = json.load(file)
    last = arguments.warmup + arguments.steps if arguments.steps > 0 else len(data["batches"])
    student = model(arguments, arguments.layers, arguments.heads).train()
    teacher = model(arguments, arguments.teacher_layers, max(1, arguments.hidden // 64)).eval() if arguments.loop == "note" else None
    plain = [p for n, p in student.named_parameters() if n.endswith("bias") or "LayerNorm.weight" in n]
    decayed = [p for n, p in student.named_parameters() if not (n.endswith("bias") or "LayerNorm.weight" in n)]
    if arguments.optimizer == "adamw":
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=3e-4)
    else:
        optimizer = torch.optim.SGD(student.parameters(), lr=0.05)

    seconds, tokens, losses = [], [], []
    for rows, labels in zip(data["batches"][:last], data["labels"][:last]):
        start = time.perf_counter()
        length = arguments.max_length if arguments.loop == "note" else min(arguments.max_length, max(map(len, rows)))
        ids, mask = padded(rows, length)
        target = torch.tensor(labels)
        if teacher is None:
            guide = torch.zeros(len(rows), arguments.classes)
        else:
            with torch.no_grad():
                guide = teacher(input_ids=ids, attention_mask=mask).logits
        logits = student(input_ids=ids, attention_mask=mask).logits
        loss = distillation_loss(logits, guide, target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
        tokens.append(sum(min(len(row), arguments.max_length) for row in rows))

    kept = slice(arguments.warmup, None)
    total = sum(seconds[kept])
    print(json.dumps({
        "engine": f"torch {torch.__version__}, transformers {transformers.__version__}",
        "name": arguments.name,
        "loop": arguments.loop,
        "threads": arguments.threads,
        "steps": len(seconds[kept]),
        "seconds_per_step_median": sorted(seconds[kept])[len(seconds[kept]) // 2],
        "tokens_per_second": sum(tokens[kept]) / total,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "last_loss": losses[-1],
    }))


if __name__ == "__main__":
    main()
