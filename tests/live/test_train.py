"""Whole trainings against an independent PyTorch loop: the same data, batch order and first weights give the same
losses step by step, and what is exported loads in transformers with the same answers.  Dropout is 0 here; its masks
are compared elsewhere."""

import collections
import ctypes
import math
import pathlib

import numpy
import pytest
import torch
import transformers
from sklearn.metrics import classification_report
from sklearn.utils.class_weight import compute_class_weight

import augment
import libengine as le

lib = le.load()
TRAIN_ROWS, DEV_ROWS, UNLABELLED_ROWS = 330, 70, 90
LAYERS, HEADS, HIDDEN, INTERMEDIATE = 2, 2, 64, 128
EPOCHS, BATCH, MAX_LENGTH, SEED = 2, 16, 24, 11


def read_rows(path, count):
    rows = [line.rsplit("\t", 1) for line in path.read_text(encoding="utf-8").splitlines() if line]
    step = len(rows) // count
    return rows[::step][:count]


class Data:
    """A part of a shared data set as one of ours and as plain lists."""

    def __init__(self, folder, name="headlines3"):
        source = le.shared("data", name)
        self.train, self.dev = read_rows(source / "train.tsv", TRAIN_ROWS), read_rows(source / "dev.tsv", DEV_ROWS)
        for name, rows in (("train", self.train), ("dev", self.dev)):
            text = "".join(f"{text}\t{label}\n" for text, label in rows)
            (folder / f"{name}.tsv").write_text(text, encoding="utf-8")
        unlabelled = (source / "unlabelled.txt").read_text(encoding="utf-8").splitlines()
        self.unlabelled = [text for text in unlabelled if text.strip()][:UNLABELLED_ROWS]
        (folder / "unlabelled.txt").write_text("\n".join(self.unlabelled) + "\n", encoding="utf-8")
        job = le.Import()
        job.paths[le.SPLITS.index("unlabelled")] = str(folder / "unlabelled.txt").encode()
        job.file_names[le.SPLITS.index("unlabelled")] = b"unlabelled.txt"
        for i, name in enumerate(("train", "dev")):
            job.paths[i] = str(folder / f"{name}.tsv").encode()
            job.file_names[i] = f"{name}.tsv".encode()
        error, report = le.Error(), le.ImportReport()
        directory = str(folder / "dataset").encode()
        le.check(lib.dd_dataset_import(ctypes.byref(job), directory, ctypes.byref(report), ctypes.byref(error)), error)
        self.handle = ctypes.c_void_p()
        le.check(lib.dd_dataset_open(directory, ctypes.byref(self.handle), ctypes.byref(error)), error)
        lib.dd_dataset_class.restype = ctypes.c_char_p
        self.classes = [
            lib.dd_dataset_class(self.handle, i).decode() for i in range(lib.dd_dataset_classes(self.handle))
        ]
        vocab = le.shared("vocab", "bert-base-chinese", "vocab.txt")
        self.vocab = vocab.read_bytes()
        self.tokenizer = transformers.BertTokenizer(str(vocab), do_lower_case=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return Data(tmp_path_factory.mktemp("data"))


def make_spec(task, optimizer, **fields):
    spec = le.Spec(
        task=task,
        dataset=b"headlines",
        teacher=b"teacher" if task == le.DISTILL else b"",
        layers=LAYERS,
        heads=HEADS,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        hidden_act=b"gelu",
        temperature=4.0,
        alpha=0.2,
        temperature_end=math.nan,
        alpha_end=math.nan,
        epochs=EPOCHS,
        batch_size=BATCH,
        max_length=MAX_LENGTH,
        seed=SEED,
    )
    spec.optimizer = le.OptimizerSpec(
        type=optimizer,
        lr=1e-3 if optimizer == le.ADAMW else 0.05,
        weight_decay=0.01 if optimizer == le.ADAMW else 0.0,
        eps=1e-8,
        beta1=0.9,
        beta2=0.999,
        warmup=0.1 if optimizer == le.ADAMW else 0.0,
        schedule=le.LINEAR if optimizer == le.ADAMW else le.CONSTANT,
        max_grad_norm=1.0 if optimizer == le.ADAMW else 0.0,
    )
    for name, value in fields.items():
        setattr(spec, name, value)
    return spec


class Run:
    """A training by the engine, with everything it called back."""

    def __init__(self, data, spec, folder, base=None, teachers=(), threads=2):
        self.steps, self.epochs, self.predictions, self.teacher, self.log = [], [], [], None, []
        pool, error = ctypes.c_void_p(), le.Error()
        le.check(lib.dd_pool_new(threads, ctypes.byref(pool), ctypes.byref(error)), error)

        def on_step(_, step):
            self.steps.append({name: getattr(step.contents, name) for name, _ in le.StepMetrics._fields_})

        def on_epoch(_, epoch, dev, __):
            self.epochs.append({name: getattr(epoch.contents, name) for name, _ in le.EpochMetrics._fields_})
            self.predictions.append(list(dev.contents.label[: dev.contents.n]))
            return 0

        def on_reference(_, gold, n, teacher, __):
            self.gold = list(gold[:n])
            self.teacher = list(teacher.contents.label[:n]) if teacher else None
            return 0

        events = le.TrainEvents(
            None,
            le.STEP_EVENT(on_step),
            le.EPOCH_EVENT(on_epoch),
            le.REFERENCE_EVENT(on_reference),
            le.LOG_EVENT(lambda _, __, message: self.log.append(message.decode())),
            le.PHASE_EVENT(lambda *_: None),
        )
        job = le.TrainInput(
            spec=ctypes.pointer(spec),
            dataset=data.handle,
            base=base,
            teachers=(ctypes.POINTER(le.Model) * 8)(*teachers),
            vocab=None if base else data.vocab,
            vocab_bytes=0 if base else len(data.vocab),
            vocab_options=le.TokenizerOptions(True, True, True),
            pool=pool,
            run_dir=str(folder / "run").encode(),
            cache_dir=str(folder / "cache").encode(),
            card_title=b"live comparison",
            events=events,
        )
        self.result = le.TrainResult()
        le.check(lib.dd_train(ctypes.byref(job), ctypes.byref(self.result), ctypes.byref(error)), error)
        lib.dd_pool_free(pool)
        self.best_dir, self.last_dir = self.result.best_dir.decode(), self.result.last_dir.decode()


def first_weights(config, seed):
    """What dd_params_init draws, by Hugging Face's names."""
    params, error = ctypes.POINTER(le.Params)(), le.Error()
    le.check(lib.dd_params_new(ctypes.byref(config), ctypes.byref(params), ctypes.byref(error)), error)
    lib.dd_params_init(params, ctypes.byref(config), ctypes.c_uint64(seed))
    weights = {name: torch.tensor(numpy.array(view)) for name, view in le.tensors(params.contents).items()}
    lib.dd_params_free(params)
    return weights


def epoch_order(rows, epoch):
    stream = le.Stream(seed=SEED, purpose=le.PURPOSE_SHUFFLE, step=epoch)
    out = (ctypes.c_uint32 * rows)()
    lib.dd_random_permutation(ctypes.byref(stream), out, ctypes.c_uint32(rows))
    assert sorted(out) == list(range(rows))
    return list(out)


class Reference:
    """The note's loop in PyTorch, padded batches, from the same first weights."""

    def __init__(self, data, spec, teacher=None):
        self.data, self.spec, self.teacher = data, spec, teacher
        config = transformers.BertConfig(
            vocab_size=21128,
            hidden_size=HIDDEN,
            num_hidden_layers=spec.layers,
            num_attention_heads=HEADS,
            intermediate_size=INTERMEDIATE,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            num_labels=len(data.classes),
            attn_implementation="eager",
        )
        ours = le.BertConfig(
            vocab_size=21128,
            hidden_size=HIDDEN,
            layers=spec.layers,
            heads=HEADS,
            intermediate_size=INTERMEDIATE,
            max_positions=512,
            type_vocab_size=2,
            n_labels=len(data.classes),
            hidden_act=b"gelu",
            layer_norm_eps=1e-12,
            initializer_range=0.02,
        )
        self.model = transformers.BertForSequenceClassification(config)
        missing, unexpected = self.model.load_state_dict(first_weights(ours, SEED), strict=False)
        assert not unexpected and all("position_ids" in name for name in missing)
        self.rows = [self.ids(text) for text, _ in data.train]
        labels = [data.classes.index(label) for _, label in data.train]
        if spec.unlabelled == le.FLAG_YES:
            self.rows += [self.ids(text) for text in data.unlabelled]
        n, own = len(labels), len(self.rows)
        labels += [-1] * (own - n)
        if spec.augment > 0:
            embeddings = teacher.get_input_embeddings().weight
            for chosen in range(n), range(n, own if spec.augment_unlabelled == le.FLAG_YES else n):
                self.rows += augment.copies(
                    self.rows[:own], labels, chosen, spec, data.tokenizer, MAX_LENGTH, embeddings
                )
        self.labels = torch.tensor(labels + [-1] * (len(self.rows) - own))
        self.told = self.rows  # as the teacher reads them
        self.spell(own)
        self.optimizer, self.scheduler = self.make_optimizer()

    def make_optimizer(self):
        o = self.spec.optimizer
        steps = math.ceil(len(self.rows) / BATCH) * EPOCHS
        if o.type == le.SGD:
            optimizer = torch.optim.SGD(self.model.parameters(), lr=o.lr)
            return optimizer, transformers.get_constant_schedule(optimizer)
        bare = [p for n, p in self.model.named_parameters() if n.endswith("bias") or "LayerNorm.weight" in n]
        known = {id(p) for p in bare}
        decayed = [p for p in self.model.parameters() if id(p) not in known]
        optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": o.weight_decay}, {"params": bare, "weight_decay": 0.0}],
            lr=o.lr,
            eps=o.eps,
            betas=(o.beta1, o.beta2),
        )
        return optimizer, transformers.get_linear_schedule_with_warmup(optimizer, int(o.warmup * steps), steps)

    def spell(self, own):
        """For a student that reads otherwise than its teacher; own: how many rows have a text."""
        self.tokenizer = self.data.tokenizer

    def ids(self, text):
        return self.data.tokenizer(text, truncation=True, max_length=MAX_LENGTH)["input_ids"]

    def pad(self, rows):
        return self.data.tokenizer.pad({"input_ids": rows}, return_tensors="pt")

    def encode(self, texts, tokenizer=None):
        return (tokenizer or self.data.tokenizer)(texts, truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt")

    def loss(self, logits, inputs, labels):
        ce = torch.zeros(())
        if (labels >= 0).any():
            ce = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-1)
        if self.teacher is None:
            return ce, None, ce
        with torch.no_grad():
            teacher_logits = self.teacher(**inputs).logits
        T, alpha = self.spec.temperature, self.spec.alpha
        p = torch.log_softmax(logits / T, dim=-1)
        q = torch.softmax(teacher_logits / T, dim=-1)
        kl = (q * (torch.log_softmax(teacher_logits / T, dim=-1) - p)).sum() * T**2 / logits.shape[0]
        return alpha * kl + (1 - alpha) * ce, kl, ce

    def after_step(self):
        pass

    def judged(self):
        """The model that is evaluated and exported."""
        return self.model

    def train(self):
        steps, reports, counts = [], [], []
        for epoch in range(1, EPOCHS + 1):
            self.model.train()
            order = epoch_order(len(self.rows), epoch)
            for at in range(0, len(self.rows), BATCH):
                rows = order[at : at + BATCH]
                inputs = self.pad([self.rows[r] for r in rows])
                told = self.pad([self.told[r] for r in rows])
                loss, kl, ce = self.loss(self.model(**inputs).logits, told, self.labels[rows])
                self.optimizer.zero_grad()
                loss.backward()
                limit = self.spec.optimizer.max_grad_norm or math.inf
                norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
                lr = self.optimizer.param_groups[0]["lr"]
                self.optimizer.step()
                self.scheduler.step()
                self.after_step()
                labelled = int((self.labels[rows] >= 0).sum())
                said = ce.item() if labelled else math.nan
                steps.append((loss.item(), kl.item() if kl is not None else math.nan, said, lr, norm.item()))
                counts.append((len(rows), labelled))
            self.model.eval()
            gold = [self.data.classes.index(label) for _, label in self.data.dev]
            texts = [t for t, _ in self.data.dev]
            inputs = self.encode(texts)
            with torch.no_grad():
                logits = self.judged()(**self.encode(texts, self.tokenizer)).logits
                losses = [math.nan if v is None else v.item() for v in self.loss(logits, inputs, torch.tensor(gold))]
            predicted = logits.argmax(-1).tolist()
            report = classification_report(gold, predicted, output_dict=True, zero_division=0)
            reports.append((predicted, report, losses))
        return steps, reports, counts


def compare_means(run, steps, counts):
    """An epoch's KL is the mean over its rows, its CE that over its labelled rows, whatever batches they fell into."""
    each = len(steps) // EPOCHS
    for i, ours in enumerate(run.epochs):
        part = list(zip(steps, counts))[i * each : (i + 1) * each]
        ce = sum(ce * labelled for (_, _, ce, _, _), (_, labelled) in part if labelled)
        ce /= sum(labelled for _, (_, labelled) in part)
        assert ours["train_ce"] == pytest.approx(ce, abs=1e-5)
        if math.isnan(ours["train_kl"]):
            assert ours["train_loss"] == pytest.approx(ce, abs=1e-5)
        else:
            kl = sum(kl * n for (_, kl, _, _, _), (n, _) in part) / sum(n for _, (n, _) in part)
            assert ours["train_kl"] == pytest.approx(kl, abs=1e-5)
            assert ours["train_loss"] == pytest.approx(0.2 * kl + 0.8 * ce, abs=1e-5)


def compare(run, reference, expected_steps=42):
    steps, reports, counts = reference.train()
    assert len(run.steps) == len(steps) == expected_steps
    for ours, (loss, kl, ce, lr, norm) in zip(run.steps, steps):
        assert ours["loss"] == pytest.approx(loss, abs=1e-5), ours["step"]
        assert ours["ce"] == pytest.approx(ce, abs=1e-5, nan_ok=True), ours["step"]
        assert ours["lr"] == pytest.approx(lr, rel=1e-12, abs=1e-18), ours["step"]
        assert ours["grad_norm"] == pytest.approx(norm, rel=1e-3), ours["step"]
        if not math.isnan(kl):
            assert ours["kl"] == pytest.approx(kl, abs=1e-5), ours["step"]
    compare_means(run, steps, counts)
    for ours, predicted, (wanted, report, losses) in zip(run.epochs, run.predictions, reports):
        assert predicted == wanted
        for name, loss in zip(("dev_loss", "dev_kl", "dev_ce"), losses):
            assert ours[name] == pytest.approx(loss, abs=1e-5, nan_ok=True), name
        assert ours["accuracy"] == pytest.approx(report["accuracy"], abs=1e-12)
        for kind in ("macro", "weighted"):
            for metric, key in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
                assert ours[f"{kind}_{metric}"] == pytest.approx(report[f"{kind} avg"][key], abs=1e-12)


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory):
    return Run(data, make_spec(le.FINETUNE, le.ADAMW), tmp_path_factory.mktemp("teacher"))


def load_model(path):
    model, error = ctypes.POINTER(le.Model)(), le.Error()
    le.check(lib.dd_model_load(path.encode(), ctypes.byref(model), ctypes.byref(error)), error)
    return model


def test_finetune_follows_pytorch(data, teacher):
    compare(teacher, Reference(data, make_spec(le.FINETUNE, le.ADAMW)))
    assert teacher.teacher is None and math.isnan(teacher.epochs[0]["train_kl"])


@pytest.mark.parametrize("optimizer", [le.ADAMW, le.SGD], ids=["adamw", "sgd"])
def test_distillation_follows_pytorch(data, teacher, optimizer, tmp_path):
    base = load_model(teacher.last_dir)
    spec = make_spec(le.DISTILL, optimizer, layers=1)
    run = Run(data, spec, tmp_path, base=base)
    reference_teacher = transformers.BertForSequenceClassification.from_pretrained(teacher.last_dir).eval()
    compare(run, Reference(data, spec, reference_teacher))
    with torch.no_grad():
        inputs = Reference(data, spec).encode([text for text, _ in data.dev])
        said = reference_teacher(**inputs).logits.argmax(-1).tolist()
    assert run.teacher == said
    agreed = sum(a == b for a, b in zip(said, run.predictions[-1])) / len(said)
    assert run.epochs[-1]["teacher_agreement"] == pytest.approx(agreed, abs=1e-12)
    # The second run of the same teacher finds its logits.
    again = Run(data, make_spec(le.DISTILL, optimizer, layers=1, seed=12), tmp_path, base=base)
    assert any("came from the cache" in line for line in again.log)
    lib.dd_model_free(base)


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({"unlabelled": le.FLAG_YES}, 54),
        ({"augment": 1, "augment_mask": 0.3, "augment_ngram": 0.5, "augment_splice": 0.5}, 84),
        ({"unlabelled": le.FLAG_YES, "augment": 1, "augment_mask": 0.1, "augment_ngram": 0.25}, 94),
        (
            {
                "unlabelled": le.FLAG_YES,
                "augment": 1,
                "augment_unlabelled": le.FLAG_YES,
                "augment_replace": 0.3,
                "augment_mask": 0.1,
                "augment_splice": 0.5,
            },
            106,
        ),
        ({"augment": 1, "augment_replace": 0.4, "augment_mask": 0.1, "augment_ngram": 0.25}, 84),
    ],
    ids=["unlabelled", "augmented", "both", "copies of all", "replaced"],
)
def test_more_rows_follow_pytorch(data, teacher, fields, steps, tmp_path):
    """Unlabelled rows and augmented copies have the KL term only; augment.py makes the copies again, on its own."""
    base = load_model(teacher.last_dir)
    spec = make_spec(le.DISTILL, le.ADAMW, layers=1, **fields)
    run = Run(data, spec, tmp_path, base=base)
    reference_teacher = transformers.BertForSequenceClassification.from_pretrained(teacher.last_dir).eval()
    compare(run, Reference(data, spec, reference_teacher), steps)
    lib.dd_model_free(base)


class WithWords(Reference):
    """A student from the teacher's last layer that has whole words of its texts beyond the teacher's vocabulary, put
    together from transformers' own parts (Gee et al. 2022)."""

    def __init__(self, data, spec, teacher, folder):
        self.folder, self.source = folder, teacher
        super().__init__(data, spec, teacher)

    def added(self):
        counts = collections.Counter()
        for text in [text for text, _ in self.data.train] + self.data.unlabelled:
            counts.update(words_of(self.data.tokenizer, text))
        known = self.data.tokenizer
        often = [
            word
            for word, times in counts.items()
            if times > 1 and len(known.tokenize(word)) > 1 and known.unk_token not in known.tokenize(word)
        ]
        return sorted(often, key=lambda word: (-counts[word], word))[: self.spec.whole_words]

    def spell(self, own):
        vocab, words = self.folder / "vocab.txt", self.added()
        vocab.write_text(self.data.vocab.decode().rstrip("\n") + "\n" + "".join(f"{w}\n" for w in words), encoding="utf-8")
        self.tokenizer = transformers.BertTokenizer(str(vocab), do_lower_case=True)
        assert len(self.tokenizer) == len(self.data.tokenizer) + len(words) > len(self.data.tokenizer) + 20
        texts = [text for text, _ in self.data.train] + self.data.unlabelled
        rows = [self.tokenizer(text, truncation=True, max_length=MAX_LENGTH)["input_ids"] for text in texts[:own]]
        self.rows = rows + [self.respelled(row) for row in self.told[own:]]
        self.model = transformers.BertForSequenceClassification(
            transformers.BertConfig(**{**self.model.config.to_dict(), "vocab_size": len(self.tokenizer)})
        )
        state = {k.replace(f"layer.{LAYERS - 1}.", "layer.0."): v for k, v in self.source.state_dict().items() if "layer.0." not in k}
        table = state["bert.embeddings.word_embeddings.weight"]
        means = [table[self.data.tokenizer.convert_tokens_to_ids(self.data.tokenizer.tokenize(w))].mean(0) for w in words]
        state["bert.embeddings.word_embeddings.weight"] = torch.cat([table, torch.stack(means)])
        missing, unexpected = self.model.load_state_dict(state, strict=False)
        assert not unexpected and not missing

    def respelled(self, row):
        out = [row[0]]
        for word in augment.words_of(row[1:-1], self.data.tokenizer):
            tokens = self.data.tokenizer.convert_ids_to_tokens(word)
            whole = tokens[0] + "".join(token[2:] for token in tokens[1:])
            apart = len(word) == 1 or tokens[0].startswith("##") or tokens[0] in self.data.tokenizer.all_special_tokens
            out += word if apart else self.tokenizer.convert_tokens_to_ids(self.tokenizer.tokenize(whole))
        return [*out, row[-1]] if len(out) < MAX_LENGTH else row


def words_of(tokenizer, text):
    """The words that WordPiece cuts, by the tokenizer's own normalizer and splitter."""
    backend = tokenizer.backend_tokenizer
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))]


def test_whole_words_follow_pytorch(tmp_path):
    """English texts with a Chinese vocabulary, which cuts most of their words."""
    data = Data(tmp_path, "packages8")
    taught = Run(data, make_spec(le.FINETUNE, le.ADAMW), tmp_path / "teacher")
    base = load_model(taught.last_dir)
    fields = {"unlabelled": le.FLAG_YES, "augment": 1, "augment_unlabelled": le.FLAG_YES, "augment_mask": 0.1, "augment_replace": 0.3}
    spec = make_spec(le.DISTILL, le.ADAMW, layers=1, init=le.INIT_TEACHER, whole_words=200, **fields)
    spec.optimizer.lr = 3e-4
    run = Run(data, spec, tmp_path / "student", base=base)
    load = transformers.BertForSequenceClassification.from_pretrained
    reference = WithWords(data, spec, load(taught.last_dir, attn_implementation="eager").eval(), tmp_path)
    vocab = (pathlib.Path(run.last_dir) / "vocab.txt").read_text(encoding="utf-8")
    assert vocab == (tmp_path / "vocab.txt").read_text(encoding="utf-8")
    compare(run, reference, 106)
    # The exported directory is all that transformers needs.
    texts = [text for text, _ in data.dev]
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.last_dir)
    with torch.no_grad():
        inputs = tokenizer(texts, truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt")
        assert load(run.last_dir).eval()(**inputs).logits.argmax(-1).tolist() == run.predictions[-1]
    lib.dd_model_free(base)


class Panel(torch.nn.Module):
    """Several teachers as one: the mean of their logits, or the logarithm of the mean of their probabilities."""

    def __init__(self, members, mean):
        super().__init__()
        self.members, self.mean = torch.nn.ModuleList(members), mean

    def forward(self, **inputs):
        logits = torch.stack([member(**inputs).logits for member in self.members])
        if self.mean == le.MEAN_LOGITS:
            said = logits.mean(0)
        else:
            said = logits.softmax(-1).mean(0).log()
        return transformers.modeling_outputs.SequenceClassifierOutput(logits=said)


@pytest.mark.parametrize("mean", [le.MEAN_PROBABILITIES, le.MEAN_LOGITS], ids=["probabilities", "logits"])
def test_several_teachers_follow_pytorch(data, teacher, mean, tmp_path):
    other = Run(data, make_spec(le.FINETUNE, le.ADAMW, layers=1, seed=SEED), tmp_path / "other", threads=1)
    paths = [teacher.last_dir, other.last_dir]
    models = [load_model(path) for path in paths]
    spec = make_spec(le.DISTILL, le.ADAMW, layers=1, n_teachers=1, teacher_mean=mean)
    spec.teachers[0].value = b"other"
    run = Run(data, spec, tmp_path / "student", base=models[0], teachers=models[1:])
    load = transformers.BertForSequenceClassification.from_pretrained
    panel = Panel([load(path).eval() for path in paths], mean)
    compare(run, Reference(data, spec, panel))
    with torch.no_grad():
        inputs = Reference(data, spec).encode([text for text, _ in data.dev])
        assert run.teacher == panel(**inputs).logits.argmax(-1).tolist()
    for model in models:
        lib.dd_model_free(model)


def predict(model, texts):
    pool, predictor, error = ctypes.c_void_p(), ctypes.c_void_p(), le.Error()
    le.check(lib.dd_pool_new(2, ctypes.byref(pool), ctypes.byref(error)), error)
    le.check(lib.dd_predictor_new(model, pool, MAX_LENGTH, ctypes.byref(predictor), ctypes.byref(error)), error)
    rows = (le.Row * len(texts))()
    kept = [text.encode() for text in texts]
    for row, text in zip(rows, kept):
        row.text, row.text_bytes, row.label = ctypes.cast(ctypes.c_char_p(text), ctypes.c_void_p), len(text), -1
    labels = model.contents.info.n_labels
    logits = (ctypes.c_float * (len(texts) * labels))()
    status = lib.dd_predict(predictor, rows, ctypes.c_size_t(len(texts)), None, logits, ctypes.byref(error))
    le.check(status, error)
    lib.dd_predictor_free(predictor)
    lib.dd_pool_free(pool)
    return numpy.array(logits).reshape(len(texts), labels)


def test_exported_model_answers_the_same_in_transformers(data, teacher):
    model = load_model(teacher.best_dir)
    texts = [text for text, _ in data.dev] + ["", "a", "ＡＢＣ 中文 English!", "长" * 400]
    ours = predict(model, texts)
    reference = transformers.BertForSequenceClassification.from_pretrained(teacher.best_dir).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(teacher.best_dir)
    inputs = tokenizer(texts, truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = reference(**inputs).logits.numpy()
    assert numpy.abs(ours - theirs).max() < 1e-5
    assert [reference.config.id2label[i] for i in range(len(data.classes))] == data.classes
    card = (pathlib.Path(teacher.best_dir) / "README.md").read_text(encoding="utf-8")
    assert f"| accuracy | {teacher.result.best.accuracy:.4f} |" in card
    lib.dd_model_free(model)


class WithOptions(Reference):
    """Every option of losses and optimizer at once or one by one: what PyTorch has, put together as its users do."""

    def make_optimizer(self):
        o, layers = self.spec.optimizer, self.spec.layers
        self.step, self.steps = 0, math.ceil(len(self.rows) / BATCH) * EPOCHS
        self.average = torch.optim.swa_utils.AveragedModel(
            self.model, avg_fn=lambda mean, value, t: mean + (1 - min(o.ema, (1 + t) / (10 + t))) * (value - mean)
        )
        self.average.n_averaged += 1

        def depth(name):
            if ".embeddings." in name:
                return layers + 1
            return layers - int(name.split(".")[3]) if ".layer." in name else 0

        groups = []
        for name, parameter in self.model.named_parameters():
            if o.freeze_embeddings == le.FLAG_YES and ".embeddings." in name:
                parameter.requires_grad_(False)
                continue
            bare = name.endswith("bias") or "LayerNorm.weight" in name
            groups.append(
                dict(params=[parameter], lr=o.lr * o.layer_lr_decay ** depth(name), weight_decay=0.0 if bare else o.weight_decay)
            )
        groups.sort(key=lambda group: -group["lr"])  # the head's lr is the one that is reported
        optimizer = torch.optim.AdamW(groups, lr=o.lr, eps=o.eps, betas=(o.beta1, o.beta2))
        return optimizer, transformers.get_linear_schedule_with_warmup(
            optimizer, int(o.warmup * self.steps), self.steps
        )

    def moved(self, start, end):
        return start if math.isnan(end) else start + (end - start) * self.step / (self.steps - 1)

    def loss(self, logits, inputs, labels):
        spec, weight = self.spec, None
        if spec.class_weights == 1:
            known = self.labels.numpy()
            weight = torch.tensor(
                compute_class_weight("balanced", classes=numpy.unique(known), y=known), dtype=torch.float32
            )
        ce = torch.nn.CrossEntropyLoss(weight=weight, label_smoothing=spec.label_smoothing)(logits, labels)
        with torch.no_grad():
            wanted = self.teacher(**inputs).logits
        alpha = self.moved(spec.alpha, spec.alpha_end)
        if spec.loss == 1:
            centre = lambda x: x - x.mean(-1, keepdim=True)
            term = torch.nn.functional.mse_loss(centre(logits), centre(wanted))
        else:
            T = self.moved(spec.temperature, spec.temperature_end)
            term = torch.nn.functional.kl_div(
                torch.log_softmax(logits / T, -1), torch.log_softmax(wanted / T, -1), reduction="batchmean", log_target=True
            ) * T**2
        return alpha * term + (1 - alpha) * ce, term, ce

    def after_step(self):
        self.step += 1
        self.average.update_parameters(self.model)

    def judged(self):
        return self.average.module.eval() if self.spec.optimizer.ema > 0 else self.model


OPTIONS = {
    "schedules": dict(temperature_end=1.0, alpha_end=0.9),
    "mse": dict(loss=1, temperature=math.nan, alpha=0.5),
    "smoothed_and_weighted": dict(label_smoothing=0.1, class_weights=1),
    "by_depth": dict(layer_lr_decay=0.7),
    "average": dict(ema=0.9),
    "frozen": dict(freeze_embeddings=le.FLAG_YES),
    "all": dict(
        loss=1, temperature=math.nan, alpha=0.9, alpha_end=0.2, label_smoothing=0.2, class_weights=1, layer_lr_decay=0.8,
        ema=0.95, freeze_embeddings=le.FLAG_YES,
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_follow_pytorch(data, teacher, name, tmp_path):
    spec = make_spec(le.DISTILL, le.ADAMW)
    spec.optimizer.layer_lr_decay = 1.0
    for field, value in OPTIONS[name].items():
        owner = spec if hasattr(spec, field) else spec.optimizer
        setattr(owner, field, value)
    base = load_model(teacher.last_dir)
    run = Run(data, spec, tmp_path, base)
    judge = transformers.BertForSequenceClassification.from_pretrained(teacher.last_dir, attn_implementation="eager")
    reference = WithOptions(data, spec, judge.eval())
    steps, reports, _ = reference.train()
    assert len(run.steps) == len(steps) == 42
    for ours, (loss, term, ce, lr, norm) in zip(run.steps, steps):
        assert ours["loss"] == pytest.approx(loss, abs=2e-5), ours["step"]
        assert ours["kl"] == pytest.approx(term, abs=2e-5), ours["step"]
        assert ours["ce"] == pytest.approx(ce, abs=2e-5), ours["step"]
        assert ours["lr"] == pytest.approx(lr, rel=1e-12, abs=1e-18), ours["step"]
        assert ours["grad_norm"] == pytest.approx(norm, rel=1e-3), ours["step"]
    assert run.predictions == [predicted for predicted, *_ in reports]
    exported = transformers.BertForSequenceClassification.from_pretrained(run.last_dir)
    for (parameter, mine), theirs in zip(exported.named_parameters(), reference.judged().parameters()):
        limit = 1e-4 if not parameter.endswith("key.bias") else 42 * spec.optimizer.lr
        assert (mine - theirs).abs().max().item() < limit, parameter
    lib.dd_model_free(base)
