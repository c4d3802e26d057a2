"""The engine through ctypes, for the live comparisons: $DISTILLD_LIBENGINE (default build/libengine.so).

Struct mirrors of engine/engine.h and base/base.h stand here, once.  Shared data: $DISTILLD_SHARED (default ../shared);
tests that need it skip visibly when it is absent.
"""

import ctypes
import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = pathlib.Path(os.environ.get("DISTILLD_SHARED", ROOT / "../shared"))
SPLITS = ("train", "dev", "test", "unlabelled")
MAX_CLASSES = 256


class Error(ctypes.Structure):
    _fields_ = [("status", ctypes.c_int), ("code", ctypes.c_char * 48), ("message", ctypes.c_char * 720)]


class Buffer(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("len", ctypes.c_size_t),
        ("cap", ctypes.c_size_t),
        ("max", ctypes.c_size_t),
        ("failed", ctypes.c_bool),
    ]


class TokenizerOptions(ctypes.Structure):
    _fields_ = [
        ("do_lower_case", ctypes.c_bool),
        ("strip_accents", ctypes.c_bool),
        ("tokenize_chinese_chars", ctypes.c_bool),
    ]


class Import(ctypes.Structure):
    _fields_ = [
        ("paths", ctypes.c_char_p * 4),
        ("file_names", ctypes.c_char_p * 4),
        ("format", ctypes.c_int),
        ("text_column", ctypes.c_char_p),
        ("pair_column", ctypes.c_char_p),
        ("label_column", ctypes.c_char_p),
        ("dev_fraction", ctypes.c_double),
        ("seed", ctypes.c_uint64),
        ("skip_bad_rows", ctypes.c_bool),
        ("cancel", ctypes.c_void_p),
    ]


class BadRow(ctypes.Structure):
    _fields_ = [("split", ctypes.c_int), ("line", ctypes.c_uint64), ("reason", ctypes.c_char * 200)]


class ImportReport(ctypes.Structure):
    _fields_ = [("bad", BadRow * 20), ("n_bad", ctypes.c_int), ("bad_total", ctypes.c_uint64)]


class Row(ctypes.Structure):
    _fields_ = [
        ("text", ctypes.c_void_p),
        ("text_bytes", ctypes.c_size_t),
        ("pair", ctypes.c_void_p),
        ("pair_bytes", ctypes.c_size_t),
        ("label", ctypes.c_int32),
    ]


class LengthStats(ctypes.Structure):
    _fields_ = [
        ("mean", ctypes.c_double),
        ("min", ctypes.c_int64),
        ("p50", ctypes.c_int64),
        ("p95", ctypes.c_int64),
        ("max", ctypes.c_int64),
    ]


class SplitInfo(ctypes.Structure):
    _fields_ = [
        ("present", ctypes.c_bool),
        ("rows", ctypes.c_uint64),
        ("class_rows", ctypes.c_uint64 * 256),
        ("characters", LengthStats),
        ("duplicates", ctypes.c_uint64),
        ("duplicates_of", ctypes.c_uint64 * 4),
        ("sha256", ctypes.c_char * 65),
    ]


class ReportRow(ctypes.Structure):
    _fields_ = [
        ("precision", ctypes.c_double),
        ("recall", ctypes.c_double),
        ("f1", ctypes.c_double),
        ("support", ctypes.c_int64),
    ]


class BertConfig(ctypes.Structure):
    _fields_ = [
        *[
            (name, ctypes.c_int)
            for name in (
                "vocab_size",
                "hidden_size",
                "layers",
                "heads",
                "intermediate_size",
                "max_positions",
                "type_vocab_size",
                "n_labels",
                "pad_token_id",
            )
        ],
        ("hidden_act", ctypes.c_char * 16),
        *[
            (name, ctypes.c_double)
            for name in (
                "layer_norm_eps",
                "initializer_range",
                "hidden_dropout",
                "attention_dropout",
                "classifier_dropout",
            )
        ],
    ]


class Tensor(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char * 96),
        ("rank", ctypes.c_int),
        ("shape", ctypes.c_size_t * 2),
        ("offset", ctypes.c_size_t),
        ("count", ctypes.c_size_t),
        ("decay", ctypes.c_bool),
    ]


class Params(ctypes.Structure):
    _fields_ = [
        ("slab", ctypes.POINTER(ctypes.c_float)),
        ("count", ctypes.c_size_t),
        ("tensors", ctypes.POINTER(Tensor)),
        ("n_tensors", ctypes.c_int),
        ("n_training", ctypes.c_int),
        ("int8", ctypes.c_void_p),
    ]


class FoldRecord(ctypes.Structure):
    _fields_ = [("folds", ctypes.c_int), ("fold", ctypes.c_int), ("train_sha256", ctypes.c_char * 65)]


class ModelInfo(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_int),
        ("config", BertConfig),
        ("parameters", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("has_pooler", ctypes.c_bool),
        ("has_tokenizer", ctypes.c_bool),
        ("n_labels", ctypes.c_int),
        ("labels", (ctypes.c_char * 128) * MAX_CLASSES),
        ("do_lower_case", ctypes.c_bool),
        ("weights_file", ctypes.c_char * 64),
        ("weights_format", ctypes.c_char * 24),
        ("sha256", ctypes.c_char * 65),
        ("int8", ctypes.c_bool),
        ("fold", FoldRecord),
    ]


class Model(ctypes.Structure):
    _fields_ = [
        ("info", ModelInfo),
        ("params", ctypes.POINTER(Params)),
        ("tokenizer", ctypes.c_void_p),
        ("path", ctypes.c_char_p),
    ]


ENCODER, CLASSIFIER = 0, 1


class Batch(ctypes.Structure):
    _fields_ = [
        ("n_sequences", ctypes.c_int),
        ("n_tokens", ctypes.c_int),
        ("ids", ctypes.POINTER(ctypes.c_int32)),
        ("segments", ctypes.POINTER(ctypes.c_uint8)),
        ("offsets", ctypes.POINTER(ctypes.c_int32)),
    ]


class Dropout(ctypes.Structure):
    _fields_ = [("on", ctypes.c_bool), ("seed", ctypes.c_uint64), ("step", ctypes.c_uint64)]


class Loss(ctypes.Structure):
    _fields_ = [
        ("total", ctypes.c_double), ("kl", ctypes.c_double), ("ce", ctypes.c_double), ("ce_weight", ctypes.c_double)
    ]


class LossOptions(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_int),
        ("temperature", ctypes.c_double),
        ("alpha", ctypes.c_double),
        ("label_smoothing", ctypes.c_double),
        ("class_weight", ctypes.c_void_p),
    ]


class OptimizerSpec(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("lr", ctypes.c_double),
        ("weight_decay", ctypes.c_double),
        ("eps", ctypes.c_double),
        ("beta1", ctypes.c_double),
        ("beta2", ctypes.c_double),
        ("momentum", ctypes.c_double),
        ("warmup", ctypes.c_double),
        ("schedule", ctypes.c_int),
        ("max_grad_norm", ctypes.c_double),
        ("layer_lr_decay", ctypes.c_double),
        ("ema", ctypes.c_double),
        ("freeze_embeddings", ctypes.c_int),
        ("nesterov", ctypes.c_int),
    ]


class OptimizerSlab(ctypes.Structure):
    _fields_ = [("floats", ctypes.POINTER(ctypes.c_float)), ("count", ctypes.c_size_t)]


class EngineFailure(Exception):
    def __init__(self, error):
        self.status, self.code = error.status, error.code.decode()
        super().__init__(f"{self.code}: {error.message.decode(errors='replace')}")


def load():
    """The library, or a visible skip where it has not been built."""
    path = pathlib.Path(os.environ.get("DISTILLD_LIBENGINE", ROOT / "build/libengine.so"))
    if not path.exists():
        pytest.skip(f"{path} is not built (make build/libengine.so)", allow_module_level=True)
    return ctypes.CDLL(str(path))


def shared(*parts):
    """A path below the shared data, or a visible skip."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no shared data at {path} (set DISTILLD_SHARED)")
    return path


def check(status, error):
    if status != 0:
        raise EngineFailure(error)


def tensors(params):
    """{name: numpy array} over the slab of a Params, without copying."""
    import numpy

    slab = numpy.ctypeslib.as_array(params.slab, shape=(params.count,))
    views = {}
    for i in range(params.n_tensors):
        tensor = params.tensors[i]
        shape = tuple(tensor.shape[: tensor.rank])
        views[tensor.name.decode()] = slab[tensor.offset : tensor.offset + tensor.count].reshape(shape)
    return views


class Spec(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char * 1024),
        ("notes", ctypes.c_char * 16384),
        ("tags", (ctypes.c_char * 256) * 32),
        ("n_tags", ctypes.c_int),
        ("priority", ctypes.c_int),
        ("preset", ctypes.c_int),
        ("task", ctypes.c_int),
        ("dataset", ctypes.c_char * 65),
        ("teacher", ctypes.c_char * 65),
        ("teachers", (ctypes.c_char * 65) * 8),
        ("n_teachers", ctypes.c_int),
        ("teacher_mean", ctypes.c_int),
        ("model", ctypes.c_char * 65),
        ("vocabulary", ctypes.c_char * 65),
        ("folds", ctypes.c_int),
        ("fold", ctypes.c_int),
        ("vocab_size", ctypes.c_int),
        ("lower_case", ctypes.c_int),
        ("layers", ctypes.c_int),
        ("heads", ctypes.c_int),
        ("hidden_size", ctypes.c_int),
        ("intermediate_size", ctypes.c_int),
        ("init", ctypes.c_int),
        ("init_model", ctypes.c_char * 65),
        ("layer_map", ctypes.c_int * 96),
        ("n_layer_map", ctypes.c_int),
        ("whole_words", ctypes.c_int),
        ("hidden_dropout", ctypes.c_double),
        ("attention_dropout", ctypes.c_double),
        ("classifier_dropout", ctypes.c_double),
        ("hidden_act", ctypes.c_char * 16),
        ("optimizer", OptimizerSpec),
        ("temperature", ctypes.c_double),
        ("alpha", ctypes.c_double),
        ("unlabelled", ctypes.c_int),
        ("augment", ctypes.c_int),
        ("augment_unlabelled", ctypes.c_int),
        ("augment_mask", ctypes.c_double),
        ("augment_ngram", ctypes.c_double),
        ("augment_splice", ctypes.c_double),
        ("augment_replace", ctypes.c_double),
        ("hidden_weight", ctypes.c_double),
        ("cls_weight", ctypes.c_double),
        ("attention_weight", ctypes.c_double),
        ("relation_weight", ctypes.c_double),
        ("relation_heads", ctypes.c_int),
        ("epochs", ctypes.c_int),
        ("batch_size", ctypes.c_int),
        ("max_length", ctypes.c_int),
        ("seed", ctypes.c_uint64),
        ("precision", ctypes.c_int),
        ("metric", ctypes.c_int),
        ("selection", ctypes.c_int),
        ("patience", ctypes.c_int),
        ("guard", ctypes.c_int),
        ("loss", ctypes.c_int),
        ("temperature_end", ctypes.c_double),
        ("alpha_end", ctypes.c_double),
        ("label_smoothing", ctypes.c_double),
        ("class_weights", ctypes.c_int),
        ("save_as", ctypes.c_char * 65),
    ]


MEAN_PROBABILITIES, MEAN_LOGITS = 0, 1
FLAG_UNSET, FLAG_NO, FLAG_YES = 0, 1, 2
DISTILL, FINETUNE = 0, 1
ADAMW, SGD = 0, 1
LINEAR, COSINE, CONSTANT = 0, 1, 2
INIT_RANDOM, INIT_TEACHER, INIT_MODEL = 0, 1, 2


class StepMetrics(ctypes.Structure):
    _fields_ = [
        ("step", ctypes.c_int64),
        ("steps", ctypes.c_int64),
        ("epoch", ctypes.c_int),
        ("epochs", ctypes.c_int),
        *[
            (name, ctypes.c_double)
            for name in (
                "loss", "kl", "ce", "lr", "grad_norm", "elapsed_seconds", "tokens_per_second", "eta_seconds",
            )
        ],
    ]


class EpochMetrics(ctypes.Structure):
    _fields_ = [
        ("epoch", ctypes.c_int),
        *[
            (name, ctypes.c_double)
            for name in (
                "train_loss", "train_kl", "train_ce", "train_hidden", "train_cls", "train_attention", "train_relation", "dev_loss", "dev_kl", "dev_ce", "accuracy", "macro_precision", "macro_recall",
                "macro_f1", "weighted_precision", "weighted_recall", "weighted_f1", "teacher_agreement", "lr",
                "seconds", "elapsed_seconds", "tokens_per_second",
            )
        ],
        ("is_best", ctypes.c_bool),
        ("rollback", ctypes.c_int),
        ("rollback_to", ctypes.c_int),
    ]


class Predictions(ctypes.Structure):
    _fields_ = [
        ("n", ctypes.c_size_t),
        ("label", ctypes.POINTER(ctypes.c_int32)),
        ("score", ctypes.POINTER(ctypes.c_float)),
    ]


STEP_EVENT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(StepMetrics))
EPOCH_EVENT = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(EpochMetrics), ctypes.POINTER(Predictions), ctypes.POINTER(Error)
)
REFERENCE_EVENT = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_int32),
    ctypes.c_size_t,
    ctypes.POINTER(Predictions),
    ctypes.POINTER(Error),
)
LOG_EVENT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
PHASE_EVENT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_double)


class TrainEvents(ctypes.Structure):
    _fields_ = [
        ("context", ctypes.c_void_p),
        ("step", STEP_EVENT),
        ("epoch", EPOCH_EVENT),
        ("reference", REFERENCE_EVENT),
        ("log", LOG_EVENT),
        ("phase", PHASE_EVENT),
    ]


class TrainInput(ctypes.Structure):
    _fields_ = [
        ("spec", ctypes.POINTER(Spec)),
        ("dataset", ctypes.c_void_p),
        ("base", ctypes.POINTER(Model)),
        ("init", ctypes.POINTER(Model)),
        ("teachers", ctypes.POINTER(Model) * 8),
        ("vocab", ctypes.c_char_p),
        ("vocab_bytes", ctypes.c_size_t),
        ("vocab_options", TokenizerOptions),
        ("pool", ctypes.c_void_p),
        ("run_dir", ctypes.c_char_p),
        ("cache_dir", ctypes.c_char_p),
        ("cancel", ctypes.c_void_p),
        ("checkpoint_seconds", ctypes.c_double),
        ("states_bytes", ctypes.c_uint64),
        ("card_title", ctypes.c_char_p),
        ("events", TrainEvents),
    ]


class TrainResult(ctypes.Structure):
    _fields_ = [
        ("epochs_done", ctypes.c_int),
        ("best_epoch", ctypes.c_int),
        ("steps_done", ctypes.c_int64),
        ("best", EpochMetrics),
        ("last", EpochMetrics),
        ("parameters", ctypes.c_uint64),
        ("model_bytes", ctypes.c_uint64),
        ("best_dir", ctypes.c_char * 4096),
        ("last_dir", ctypes.c_char * 4096),
    ]


class TrainEstimate(ctypes.Structure):
    _fields_ = [
        ("memory_bytes", ctypes.c_uint64),
        ("disk_bytes", ctypes.c_uint64),
        ("parameters", ctypes.c_uint64),
        ("model_bytes", ctypes.c_uint64),
        ("matmul_flops", ctypes.c_double),
        ("seconds", ctypes.c_double),
    ]


class Stream(ctypes.Structure):
    _fields_ = [
        ("seed", ctypes.c_uint64),
        ("purpose", ctypes.c_uint32),
        ("tensor", ctypes.c_uint32),
        ("step", ctypes.c_uint64),
    ]


PURPOSE_SHUFFLE = 2
