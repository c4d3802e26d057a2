/* Checkpoints and finished records.  A checksum would keep the fuzzer out, so the target puts the right one at the
 * end, and with an even first byte also the head that belongs to this run (offset 0 to 144); what remains is what a
 * stranger who knows the format could write.  After a refusal nothing may have changed.
 * `--seed=FILE` writes an input that is accepted, and ends. */
#include "engine/record.h"
#include "fuzz/fuzz.h"

#define HEAD_BYTES 144

static const struct dd_bert_config config = {.vocab_size = 7,
                                             .hidden_size = 4,
                                             .layers = 1,
                                             .heads = 2,
                                             .intermediate_size = 4,
                                             .max_positions = 8,
                                             .type_vocab_size = 2,
                                             .n_labels = 3,
                                             .hidden_act = "gelu",
                                             .layer_norm_eps = 1e-12,
                                             .initializer_range = 0.02};
static const struct dd_run_identity identity = {.spec = {1, 2, 3}, .data = {4, 5}, .base = {6}};
static const struct dd_run_shape shape = {.epochs = 5, .steps_per_epoch = 10, .dev_rows = 4, .n_classes = 3};
static struct dd_params *params;
static struct dd_optimizer *optimizer;
static uint8_t head[HEAD_BYTES];

static void read_whole(const char *path, uint8_t **ret_bytes, size_t *ret_count) {
    struct dd_error err;
    char *bytes;
    FUZZ_CHECK(dd_file_read(path, (size_t)1 << 24, &bytes, ret_count, &err) == DD_OK);
    *ret_bytes = (uint8_t *)bytes;
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    struct dd_error err;
    struct dd_pool *pool;
    struct dd_team *team;
    struct dd_run_state state;
    const struct dd_optimizer_spec spec = {
        .type = DD_OPTIMIZER_ADAMW, .lr = 1e-3, .eps = 1e-8, .beta1 = 0.9, .beta2 = 0.999};
    FUZZ_CHECK(dd_pool_new(1, &pool, &err) == DD_OK && dd_team_join(pool, &team, &err) == DD_OK);
    FUZZ_CHECK(dd_params_new(&config, &params, &err) == DD_OK);
    FUZZ_CHECK(dd_optimizer_new(&spec, params, &config, 50, team, &optimizer, &err) == DD_OK);
    dd_run_state_init(&state);
    state.epoch = 1;
    state.step = state.epoch_step = 2;
    dd_optimizer_set_step(optimizer, 2);
    const struct dd_step_metrics step = {.step = 1, .steps = 50, .epoch = 1, .epochs = 5, .loss = 0.5};
    FUZZ_CHECK(dd_run_state_add_step(&state, &step, &err) == DD_OK);
    FUZZ_CHECK(dd_checkpoint_write(fuzz_dir(), &identity, &state, params, optimizer, 0, &err) == DD_OK);
    dd_run_state_release(&state);
    char path[128];
    uint8_t *whole;
    size_t count;
    (void)snprintf(path, sizeof path, "%s/checkpoint", fuzz_dir());
    read_whole(path, &whole, &count);
    memcpy(head, whole, HEAD_BYTES);
    static const char option[] = "--seed=";
    if (*argc > 1 && strncmp((*argv)[1], option, sizeof option - 1) == 0) {
        whole[HEAD_BYTES - 1] = 0; /* the byte of choices */
        FILE *file = fopen((*argv)[1] + sizeof option - 1, "wb");
        size_t body = count - DD_SHA256_BYTES - HEAD_BYTES + 1;
        FUZZ_CHECK(file != NULL && fwrite(whole + HEAD_BYTES - 1, 1, body, file) == body && fclose(file) == 0);
        exit(0);
    }
    free(whole);
    return 0;
}

static void try_checkpoint(const char *path) {
    struct dd_error err;
    struct dd_checkpoint checkpoint;
    enum dd_status status = dd_checkpoint_open(path, &identity, &shape, params, optimizer, &checkpoint, &err);
    fuzz_check_error(status, &err);
    if (status != DD_OK) {
        return;
    }
    struct dd_run_state state;
    dd_run_state_init(&state);
    dd_checkpoint_apply(&checkpoint, &state, params, optimizer);
    FUZZ_CHECK(state.epoch >= 1 && state.epochs_done <= shape.epochs && state.epoch_step <= shape.steps_per_epoch);
    for (size_t i = 0; i < state.n_dev; i++) {
        FUZZ_CHECK(state.dev_label[i] >= 0 && state.dev_label[i] < shape.n_classes);
    }
    dd_checkpoint_close(&checkpoint);
    dd_run_state_release(&state);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    if (count == 0) {
        return 0;
    }
    size_t from = bytes[0] & 1 ? 0 : HEAD_BYTES, len = from + count - 1;
    uint8_t *file = calloc(len + DD_SHA256_BYTES, 1);
    FUZZ_CHECK(file != NULL);
    memcpy(file, head, from);
    memcpy(file + from, bytes + 1, count - 1);
    dd_record_checksum(file, len, bytes[0] & 2 ? DD_FINISHED_XXH3 : DD_CHECKPOINT_XXH3, file + len);
    char path[128];
    struct dd_finished finished;
    struct dd_error err;
    fuzz_file(bytes[0] & 2 ? "finished" : "input", file, len + DD_SHA256_BYTES, path);
    free(file);
    if (bytes[0] & 2) {
        fuzz_check_error(dd_finished_read(fuzz_dir(), &identity, &finished, &err), &err);
    } else {
        try_checkpoint(path);
    }
    return 0;
}
