/* The route table.  One row a call of the REST contract; everything that can be said about a call is said here once:
 * dispatch (router.c), parameter and body checks (params.c), the Allow of a 405 and openapi.json (openapi.c) read it.
 * To add a call: a member of struct dd_api_ops, a row here, and, where it answers a new shape, a schema in schemas.c.
 *
 * Constant data, any thread.
 */
#include "api/routes.h"

#define OP(member) offsetof(struct dd_api_ops, member)
#define END                                                                                                            \
    { .name = NULL }
#define JSON_ONLY                                                                                                      \
    { "application/json" }
#define JSON_OR_CSV                                                                                                    \
    { "application/json", "text/csv" }
#define JSON_OR_TEXT                                                                                                   \
    { "application/json", "text/plain" }
#define TAR_GZ                                                                                                         \
    { "application/gzip" }
#define MAX_SAFE_INTEGER 9007199254740991.0 /* 2^53 - 1 */

static const char state_values[] = "queued running paused finished failed cancelled";
static const char split_values[] = "train dev test unlabelled";
static const char series_values[] =
    "train_loss train_kl train_ce dev_loss accuracy macro_precision macro_recall macro_f1 weighted_precision "
    "weighted_recall weighted_f1 teacher_agreement lr seconds elapsed_seconds tokens_per_second train_hidden train_cls "
    "dev_kl dev_ce recorded_at";
static const char sort_values[] =
    "id name status created_at started_at finished_at best_macro_f1 best_accuracy priority dataset layers T alpha lr "
    "elapsed_seconds model_bytes queue";

/* --- query parameters ------------------------------------------------------------------------------------------- */

static const struct dd_field search_query[] = {
    {"q", DD_FIELD_STRING, .most = 256, .help = "text to find in the name"},
    END,
};
static const struct dd_field model_list_query[] = {
    {"q", DD_FIELD_STRING, .most = 256, .help = "text to find in the name"},
    {"kind", DD_FIELD_ENUM, .values = "encoder classifier", .help = "only models of this kind"},
    END,
};
static const struct dd_field dataset_rows_query[] = {
    {"split", DD_FIELD_ENUM, .values = split_values, .otherwise = "train", .help = "which split to browse"},
    {"label", DD_FIELD_STRING, .most = 256, .help = "only rows of this class"},
    {"q", DD_FIELD_STRING, .most = 256, .help = "text to find in the row"},
    END,
};
static const struct dd_field experiment_create_query[] = {
    {"dry_run", DD_FIELD_BOOL, .otherwise = "0",
     .help = "1: answer the resolved spec and the memory and time estimates without queueing"},
    END,
};
static const struct dd_field gc_query[] = {
    {"dry_run", DD_FIELD_BOOL, .otherwise = "0", .help = "1: only say what would be removed"},
    END,
};
static const struct dd_field sweep_create_query[] = {
    {"dry_run", DD_FIELD_BOOL, .otherwise = "0", .help = "1: check every point and answer the table without queueing"},
    END,
};
static const struct dd_field sweep_get_query[] = {
    {"metric", DD_FIELD_ENUM, .values = "macro_f1 accuracy", .otherwise = "macro_f1", .help = "what is best"},
    {"format", DD_FIELD_ENUM, .values = "json csv", .help = "overrides Accept"},
    END,
};
static const struct dd_field experiment_list_query[] = {
    {"status", DD_FIELD_ENUM_LIST, .values = state_values, .help = "only these states, comma-separated"},
    {"dataset", DD_FIELD_NAME, .help = "only runs on this data set"},
    {"teacher", DD_FIELD_NAME, .help = "only runs with this teacher, be it one of several"},
    {"tag", DD_FIELD_STRING, .least = 1, .most = 63, .help = "only runs with this tag"},
    {"task", DD_FIELD_ENUM, .values = "distill finetune", .help = "only this task"},
    {"optimizer", DD_FIELD_ENUM, .values = "adamw sgd", .help = "only this optimizer"},
    {"sweep", DD_FIELD_INT, .least = 1, .most = MAX_SAFE_INTEGER, .help = "only runs of this sweep"},
    {"q", DD_FIELD_STRING, .most = 256, .help = "text to find in name, notes, tags, data set and teacher; or #id"},
    {"sort", DD_FIELD_SORT, .values = sort_values, .otherwise = "-id", .help = "order; a leading - means descending"},
    END,
};
#define SMOOTH_FIELD(unit)                                                                                             \
    {                                                                                                                  \
        "smooth", DD_FIELD_NUMBER, .least = 1e-6, .most = 1e9,                                                         \
                                   .help = "adds exponential moving averages, taken over all " unit                    \
                                           " before any are left out; so many " unit " until a value has faded to 1/e" \
    }
static const struct dd_field metrics_query[] = {
    {"after", DD_FIELD_INT, .least = 0, .most = 2147483647.0, .otherwise = "0", .help = "only epochs after this one"},
    {"before", DD_FIELD_INT, .least = 0, .most = 2147483647.0, .help = "only epochs up to this one"},
    SMOOTH_FIELD("epochs"),
    {"max_points", DD_FIELD_INT, .least = 4, .most = 20000,
     .help = "JSON: at most this many epochs; extremes are kept. Without it all of them"},
    {"format", DD_FIELD_ENUM, .values = "json csv", .help = "overrides Accept"},
    END,
};
static const struct dd_field steps_query[] = {
    {"max_points", DD_FIELD_INT, .least = 4, .most = 20000, .otherwise = "1500",
     .help = "at most this many points; extremes are kept"},
    {"after", DD_FIELD_INT, .least = 0, .most = MAX_SAFE_INTEGER, .help = "only steps after this one"},
    {"before", DD_FIELD_INT, .least = 0, .most = MAX_SAFE_INTEGER, .help = "only steps up to this one"},
    SMOOTH_FIELD("steps"),
    END,
};
static const struct dd_field report_query[] = {
    {"split", DD_FIELD_ENUM, .values = "dev test", .otherwise = "dev", .help = "which split"},
    END,
};
static const struct dd_field predictions_query[] = {
    {"epoch", DD_FIELD_STRING, .least = 1, .most = 10, .otherwise = "best", .help = "a number, best or last"},
    {"wrong", DD_FIELD_BOOL, .otherwise = "0", .help = "1: only rows that the student gets wrong"},
    END,
};
static const struct dd_field log_query[] = {
    {"after", DD_FIELD_INT, .least = 0, .most = MAX_SAFE_INTEGER, .otherwise = "0",
     .help = "only lines after this seq"},
    {"limit", DD_FIELD_INT, .least = 1, .most = 500, .otherwise = "50", .help = "at most this many lines"},
    END,
};
#define WEIGHTS_FIELD                                                                                                  \
    {                                                                                                                  \
        "weights", DD_FIELD_ENUM,                                                                                      \
            .values = "fp32 fp16",                                                                                     \
            .help = "fp16: half the size, the nearest fp16 values; without it, weights as they are kept"               \
    }
static const struct dd_field archive_query[] = {
    {"epoch", DD_FIELD_ENUM, .values = "best last", .otherwise = "best", .help = "which epoch's weights"},
    WEIGHTS_FIELD,
    END,
};
static const struct dd_field model_archive_query[] = {
    WEIGHTS_FIELD,
    END,
};
static const struct dd_field compare_query[] = {
    {"ids", DD_FIELD_INT_LIST, .required = true, .least = 1, .most = 50, .help = "experiments, comma-separated"},
    {"baseline", DD_FIELD_INT, .least = 1, .most = MAX_SAFE_INTEGER,
     .help = "the one of them whose lead over the others is tested; the best when not given. With fields the lead is "
             "tested only when this is given"},
    {"metric", DD_FIELD_ENUM, .values = "macro_f1 accuracy", .otherwise = "macro_f1", .help = "what is tested"},
    {"fields", DD_FIELD_ENUM_LIST, .values = series_values, .help = "only these series; epoch is always there"},
    {"max_points", DD_FIELD_INT, .least = 4, .most = 20000,
     .help = "at most this many epochs of each run; extremes are kept. Without it all of them"},
    SMOOTH_FIELD("epochs"),
    END,
};
static const struct dd_field events_query[] = {
    {"types", DD_FIELD_ENUM_LIST, .values = "status step epoch log", .help = "only these events, comma-separated"},
    {"steps_of", DD_FIELD_INT, .least = 1, .most = MAX_SAFE_INTEGER, .help = "step events of this experiment alone"},
    {"step_every", DD_FIELD_INT, .least = 0, .most = 3600, .otherwise = "0",
     .help = "at most one step event in so many seconds; those between are left out"},
    {"last_event_id", DD_FIELD_STRING, .most = 64,
     .help = "resume after this event, where the Last-Event-ID header cannot be set"},
    END,
};

/* --- bodies ------------------------------------------------------------------------------------------------------ */

static const struct dd_field dataset_form[] = {
    {"name", DD_FIELD_NAME, .required = true, .help = "[a-z0-9][a-z0-9._-]{0,63}"},
    {"train", DD_FIELD_FILE, .required = true, .help = "TSV, CSV or JSON Lines"},
    {"dev", DD_FIELD_FILE, .help = "without one, a stratified split of train is made and recorded"},
    {"test", DD_FIELD_FILE, .help = "rows that are never trained on"},
    {"unlabelled", DD_FIELD_FILE, .help = "rows without labels"},
    {"format", DD_FIELD_ENUM, .values = "tsv csv jsonl", .help = "found from file name or content when not given"},
    {"text_column", DD_FIELD_STRING, .least = 1, .most = 256, .help = "name or 0-based number"},
    {"pair_column", DD_FIELD_STRING, .least = 1, .most = 256, .help = "second text of a pair: name or number"},
    {"label_column", DD_FIELD_STRING, .least = 1, .most = 256, .help = "name or 0-based number"},
    {"dev_fraction", DD_FIELD_NUMBER, .least = 0.001, .most = 0.9, .otherwise = "0.1",
     .help = "share of train that becomes dev when no dev file is given"},
    {"seed", DD_FIELD_INT, .least = 0, .most = MAX_SAFE_INTEGER, .otherwise = "1", .help = "of the stratified split"},
    {"on_error", DD_FIELD_ENUM, .values = "fail skip", .otherwise = "fail", .help = "what a bad row does"},
    END,
};
static const struct dd_field model_form[] = {
    {"name", DD_FIELD_NAME, .required = true, .help = "[a-z0-9][a-z0-9._-]{0,63}"},
    {"files", DD_FIELD_FILES, .help = "config.json, vocab.txt, model.safetensors …"},
    {"archive", DD_FIELD_FILE, .help = "all of them in one .tar.gz or .zip"},
    END,
};
static const struct dd_field model_body[] = {
    {"name", DD_FIELD_NAME, .required = true, .help = "[a-z0-9][a-z0-9._-]{0,63}"},
    {"path", DD_FIELD_STRING, .required = true, .least = 1, .most = 4096,
     .help = "directory or file on the server, below a configured model root"},
    END,
};
static const struct dd_field predict_body[] = {
    {"texts", DD_FIELD_STRINGS, .least = 1, .most = 10000, .help = "one prediction a text"},
    {"pairs", DD_FIELD_PAIRS, .least = 1, .most = 10000, .help = "one prediction a pair; instead of texts"},
    END,
};
static const struct dd_field evaluate_body[] = {
    {"dataset", DD_FIELD_NAME, .required = true, .help = "name of a data set"},
    {"split", DD_FIELD_ENUM, .values = "train dev test", .otherwise = "dev", .help = "which split"},
    END,
};
static const struct dd_field prune_body[] = {
    {"dataset", DD_FIELD_NAME, .required = true,
     .help = "the data set whose texts, of all splits, are to be read as before"},
    {"save_as", DD_FIELD_NAME, .required = true, .help = "name of the new model"},
    {"keep_characters", DD_FIELD_BOOL, .otherwise = "0",
     .help = "keep all single ASCII characters and ideographs, too, for texts that are not in the data set"},
    END,
};
static const struct dd_field session_body[] = {
    {"token", DD_FIELD_STRING, .required = true, .least = 1, .most = 512, .help = "a token of this daemon"},
    END,
};
static const struct dd_field quantize_body[] = {
    {"save_as", DD_FIELD_NAME, .required = true, .help = "name of the new model"},
    {"dataset", DD_FIELD_NAME, .help = "measure accuracy and macro F1 on it, before and after"},
    {"split", DD_FIELD_ENUM, .values = "train dev test", .otherwise = "dev", .help = "which split of it"},
    END,
};
static const struct dd_field experiment_patch_body[] = {
    {"name", DD_FIELD_STRING, .most = 255, .help = "what people call the run"},
    {"tags", DD_FIELD_STRINGS, .most = 32, .help = "labels to filter by"},
    {"notes", DD_FIELD_STRING, .most = 4095, .help = "free text"},
    {"priority", DD_FIELD_INT, .least = -1000, .most = 1000, .help = "larger first"},
    END,
};

/* --- the table --------------------------------------------------------------------------------------------------- */

#define V1 DD_API_PREFIX
#define EXPERIMENT V1 "/experiments/{id}"
#define ACTION(verb, text)                                                                                             \
    {                                                                                                                  \
        DD_POST, EXPERIMENT "/" #verb, OP(experiment_##verb),                                                          \
            .success = 202, .flags = DD_ROUTE_SLOW | DD_ROUTE_IDEMPOTENT, .produces = JSON_ONLY,                       \
            .response = "Experiment", .tag = "experiments", .operation_id = #verb "_experiment", .summary = (text)     \
    }

static const struct dd_route routes[] = {
    {DD_POST, V1 "/datasets", OP(dataset_create), .success = 201,
     .flags = DD_ROUTE_MULTIPART | DD_ROUTE_HEAVY | DD_ROUTE_IDEMPOTENT, .form = dataset_form, .produces = JSON_ONLY,
     .response = "Dataset", .tag = "datasets", .operation_id = "create_dataset",
     .summary = "Upload a data set; a bad row is an error with file, line and reason"},
    {DD_GET, V1 "/datasets", OP(dataset_list), .success = 200, .flags = DD_ROUTE_KEPT | DD_ROUTE_LIST | DD_ROUTE_SLOW,
     .query = search_query, .produces = JSON_ONLY, .response = "DatasetList", .tag = "datasets",
     .operation_id = "list_datasets", .summary = "Data sets by name"},
    {DD_GET, V1 "/datasets/{name}", OP(dataset_get), .success = 200, .flags = DD_ROUTE_KEPT, .produces = JSON_ONLY,
     .response = "Dataset", .tag = "datasets", .operation_id = "get_dataset",
     .summary = "Classes, rows, lengths, duplicates, hashes"},
    {DD_GET, V1 "/datasets/{name}/rows", OP(dataset_rows), .success = 200, .flags = DD_ROUTE_LIST | DD_ROUTE_SLOW,
     .query = dataset_rows_query, .produces = JSON_ONLY, .response = "DatasetRowList", .tag = "datasets",
     .operation_id = "browse_dataset", .summary = "Rows of a split, in file order"},
    {DD_DELETE, V1 "/datasets/{name}", OP(dataset_delete), .success = 204, .flags = DD_ROUTE_SLOW, .tag = "datasets",
     .operation_id = "delete_dataset", .summary = "Delete; 409 while an unfinished experiment uses it"},

    {DD_POST, V1 "/models", OP(model_create), .success = 201,
     .flags = DD_ROUTE_JSON | DD_ROUTE_MULTIPART | DD_ROUTE_HEAVY | DD_ROUTE_IDEMPOTENT, .form = model_form,
     .body = model_body, .produces = JSON_ONLY, .response = "Model", .tag = "models", .operation_id = "create_model",
     .summary = "Register a model on the server (JSON) or upload one (multipart)"},
    {DD_GET, V1 "/models", OP(model_list), .success = 200, .flags = DD_ROUTE_KEPT | DD_ROUTE_LIST | DD_ROUTE_SLOW,
     .query = model_list_query, .produces = JSON_ONLY, .response = "ModelList", .tag = "models",
     .operation_id = "list_models", .summary = "Models by name"},
    {DD_GET, V1 "/models/{name}", OP(model_get), .success = 200, .flags = DD_ROUTE_KEPT, .produces = JSON_ONLY,
     .response = "Model", .tag = "models", .operation_id = "get_model",
     .summary = "Kind, shape, size, labels, hash, origin"},
    {DD_GET, V1 "/models/{name}/archive", OP(model_archive), .success = 200, .flags = DD_ROUTE_HEAVY | DD_ROUTE_FILE,
     .query = model_archive_query, .produces = TAR_GZ, .tag = "models", .operation_id = "download_model",
     .summary = "The model as a Hugging Face directory, .tar.gz; the file's name carries epoch and macro P, R, F1"},
    {DD_POST, V1 "/models/{name}/predict", OP(model_predict), .success = 200,
     .flags = DD_ROUTE_JSON | DD_ROUTE_HEAVY | DD_ROUTE_QUESTION, .body = predict_body, .produces = JSON_ONLY,
     .response = "PredictionAnswer", .tag = "models", .operation_id = "predict",
     .summary = "Classify texts or pairs, in order"},
    {DD_POST, V1 "/models/{name}/evaluate", OP(model_evaluate), .success = 200,
     .flags = DD_ROUTE_JSON | DD_ROUTE_HEAVY | DD_ROUTE_QUESTION, .body = evaluate_body, .produces = JSON_OR_TEXT,
     .response = "Report", .tag = "models", .operation_id = "evaluate",
     .summary = "Classification report of a model on a split"},
    {DD_POST, V1 "/models/{name}/prune", OP(model_prune), .success = 201,
     .flags = DD_ROUTE_JSON | DD_ROUTE_HEAVY | DD_ROUTE_IDEMPOTENT, .body = prune_body, .produces = JSON_ONLY,
     .response = "Model", .tag = "models", .operation_id = "prune_model",
     .summary = "A smaller model with only the vocabulary that a data set needs; the same logits on it"},
    {DD_POST, V1 "/models/{name}/quantize", OP(model_quantize), .success = 201,
     .flags = DD_ROUTE_JSON | DD_ROUTE_HEAVY | DD_ROUTE_IDEMPOTENT, .body = quantize_body, .produces = JSON_ONLY,
     .response = "Model", .tag = "models", .operation_id = "quantize_model",
     .summary = "An int8 copy of a classifier: a quarter of the size, faster where the CPU multiplies bytes"},
    {DD_DELETE, V1 "/models/{name}", OP(model_delete), .success = 204, .flags = DD_ROUTE_SLOW, .tag = "models",
     .operation_id = "delete_model", .summary = "Delete; 409 while in use"},

    {DD_POST, V1 "/experiments", OP(experiment_create), .success = 201,
     .flags = DD_ROUTE_JSON | DD_ROUTE_SPEC | DD_ROUTE_SLOW_DRY_RUN | DD_ROUTE_SLOW | DD_ROUTE_IDEMPOTENT,
     .query = experiment_create_query, .produces = JSON_ONLY, .response = "Experiment", .tag = "experiments",
     .operation_id = "create_experiment", .summary = "Queue a run"},
    {DD_GET, V1 "/experiments", OP(experiment_list), .success = 200,
     .flags = DD_ROUTE_LIVE | DD_ROUTE_LIST | DD_ROUTE_SLOW, .query = experiment_list_query, .produces = JSON_ONLY,
     .response = "ExperimentList", .tag = "experiments", .operation_id = "list_experiments", .summary = "The history"},
    {DD_GET, EXPERIMENT, OP(experiment_get), .success = 200, .flags = DD_ROUTE_LIVE, .produces = JSON_ONLY,
     .response = "Experiment", .tag = "experiments", .operation_id = "get_experiment", .summary = "One run"},
    {DD_PATCH, EXPERIMENT, OP(experiment_patch), .success = 200, .flags = DD_ROUTE_JSON | DD_ROUTE_SLOW,
     .body = experiment_patch_body, .produces = JSON_ONLY, .response = "Experiment", .tag = "experiments",
     .operation_id = "patch_experiment", .summary = "Change name, tags, notes or priority (JSON merge patch)"},
    {DD_DELETE, EXPERIMENT, OP(experiment_delete), .success = 204, .flags = DD_ROUTE_SLOW, .tag = "experiments",
     .operation_id = "delete_experiment", .summary = "Delete with all it recorded; 409 while running"},
    ACTION(cancel, "Stop for good"),
    ACTION(pause, "Stop, keeping the checkpoint"),
    ACTION(resume, "Queue a paused run again"),
    ACTION(retry, "Queue a failed or cancelled run again"),
    {DD_POST, EXPERIMENT "/clone", OP(experiment_clone), .success = 201,
     .flags = DD_ROUTE_JSON | DD_ROUTE_BODY_OPTIONAL | DD_ROUTE_SPEC_PART | DD_ROUTE_SLOW | DD_ROUTE_IDEMPOTENT,
     .produces = JSON_ONLY, .response = "Experiment", .tag = "experiments", .operation_id = "clone_experiment",
     .summary = "Queue a copy; the body holds the fields to change"},
    {DD_GET, EXPERIMENT "/metrics", OP(experiment_metrics), .success = 200, .flags = DD_ROUTE_KEPT,
     .query = metrics_query, .produces = JSON_OR_CSV, .response = "Metrics", .tag = "experiments",
     .operation_id = "get_metrics", .summary = "Every epoch's figures"},
    {DD_GET, EXPERIMENT "/steps", OP(experiment_steps), .success = 200, .flags = DD_ROUTE_KEPT | DD_ROUTE_SLOW,
     .query = steps_query, .produces = JSON_ONLY, .response = "Steps", .tag = "experiments",
     .operation_id = "get_steps", .summary = "Loss, learning rate and gradient norm by step, downsampled"},
    {DD_GET, EXPERIMENT "/epochs/{epoch}/report", OP(experiment_report), .success = 200, .flags = DD_ROUTE_SLOW,
     .query = report_query, .produces = JSON_OR_TEXT, .response = "Report", .tag = "experiments",
     .operation_id = "get_report", .summary = "scikit-learn's classification report of an epoch"},
    {DD_GET, EXPERIMENT "/predictions", OP(experiment_predictions), .success = 200,
     .flags = DD_ROUTE_LIST | DD_ROUTE_SLOW, .query = predictions_query, .produces = JSON_ONLY,
     .response = "PredictionRowList", .tag = "experiments", .operation_id = "get_predictions",
     .summary = "Dev rows in file order with the student's and the teacher's answers"},
    {DD_GET, EXPERIMENT "/log", OP(experiment_log), .success = 200, .flags = DD_ROUTE_KEPT, .query = log_query,
     .produces = JSON_OR_TEXT, .response = "Log", .tag = "experiments", .operation_id = "get_log",
     .summary = "The run's log lines"},
    {DD_GET, EXPERIMENT "/archive", OP(experiment_archive), .success = 200, .flags = DD_ROUTE_HEAVY | DD_ROUTE_FILE,
     .query = archive_query, .produces = TAR_GZ, .tag = "experiments", .operation_id = "download_student",
     .summary = "The student as a Hugging Face directory, .tar.gz; the file's name carries epoch and macro P, R, F1"},
    {DD_GET, EXPERIMENT "/events", OP(experiment_get), DD_BUILTIN_EVENTS, .success = 200, .flags = DD_ROUTE_NO_CACHE,
     .query = events_query, .produces = {"text/event-stream"}, .tag = "events", .operation_id = "stream_experiment",
     .summary = "Server-Sent Events of one run"},
    {DD_GET, V1 "/compare", OP(compare), .success = 200, .flags = DD_ROUTE_LIVE | DD_ROUTE_SLOW, .query = compare_query,
     .produces = JSON_ONLY, .response = "Comparison", .tag = "experiments", .operation_id = "compare",
     .summary = "Columnar series of several runs and the fields in which their specs differ"},

    {DD_POST, V1 "/sweeps", OP(sweep_create), .success = 201,
     .flags = DD_ROUTE_JSON | DD_ROUTE_SWEEP | DD_ROUTE_HEAVY | DD_ROUTE_IDEMPOTENT, .query = sweep_create_query,
     .produces = JSON_ONLY, .response = "Sweep", .tag = "sweeps", .operation_id = "create_sweep",
     .summary = "Queue a grid or random sample of runs, each with each seed"},
    {DD_GET, V1 "/sweeps", OP(sweep_list), .success = 200, .flags = DD_ROUTE_LIVE | DD_ROUTE_LIST | DD_ROUTE_SLOW,
     .produces = JSON_ONLY, .response = "SweepList", .tag = "sweeps", .operation_id = "list_sweeps",
     .summary = "Sweeps, newest first"},
    {DD_GET, V1 "/sweeps/{id}", OP(sweep_get), .success = 200, .flags = DD_ROUTE_LIVE | DD_ROUTE_SLOW,
     .query = sweep_get_query, .produces = JSON_OR_CSV, .response = "Sweep", .tag = "sweeps",
     .operation_id = "get_sweep",
     .summary = "Progress, table of points with mean and spread over the seeds, best point"},
    {DD_POST, V1 "/sweeps/{id}/cancel", OP(sweep_cancel), .success = 202, .flags = DD_ROUTE_SLOW | DD_ROUTE_IDEMPOTENT,
     .produces = JSON_ONLY, .response = "Sweep", .tag = "sweeps", .operation_id = "cancel_sweep",
     .summary = "Cancel what has not finished"},

    {DD_GET, V1 "/events", 0, DD_BUILTIN_EVENTS, .success = 200, .flags = DD_ROUTE_NO_CACHE, .query = events_query,
     .produces = {"text/event-stream"}, .tag = "events", .operation_id = "stream_events",
     .summary = "Server-Sent Events of all runs"},
    {DD_GET, V1 "/session", 0, DD_BUILTIN_SESSION, .success = 200, .flags = DD_ROUTE_NO_CACHE, .produces = JSON_ONLY,
     .response = "Session", .tag = "server", .operation_id = "get_session",
     .summary = "Who is asking, and what they may do"},
    {DD_POST, V1 "/session", 0, DD_BUILTIN_SESSION, .success = 201, .flags = DD_ROUTE_JSON | DD_ROUTE_OPEN,
     .body = session_body, .produces = JSON_ONLY, .response = "Session", .tag = "server", .operation_id = "sign_in",
     .summary = "Sign a browser in: a token for a cookie; 409 where no token is needed"},
    {DD_DELETE, V1 "/session", 0, DD_BUILTIN_SESSION, .success = 204, .tag = "server", .operation_id = "sign_out",
     .summary = "End the session of this cookie"},
    {DD_GET, V1 "/presets", OP(preset_list), .success = 200, .flags = DD_ROUTE_KEPT, .produces = JSON_ONLY,
     .response = "PresetList", .tag = "experiments", .operation_id = "list_presets",
     .summary = "Named sets of fields that fill a spec"},
    {DD_GET, V1 "/system", OP(system), .success = 200, .flags = DD_ROUTE_NO_CACHE | DD_ROUTE_LIVE,
     .produces = JSON_ONLY, .response = "System", .tag = "server", .operation_id = "get_system",
     .summary = "Version, CPU, threads, workers, queue, disk"},
    {DD_POST, V1 "/gc", OP(gc), .success = 200, .flags = DD_ROUTE_HEAVY, .query = gc_query, .produces = JSON_ONLY,
     .response = "Removals", .tag = "server", .operation_id = "collect_garbage",
     .summary = "Remove now what the configured retention does not keep"},
    {DD_GET, V1 "/openapi.json", 0, DD_BUILTIN_OPENAPI, .success = 200, .produces = JSON_ONLY, .response = "Object",
     .tag = "server", .operation_id = "get_openapi", .summary = "This document"},
    {DD_GET, "/healthz", 0, DD_BUILTIN_HEALTH, .success = 200, .flags = DD_ROUTE_OPEN | DD_ROUTE_NO_CACHE,
     .produces = JSON_ONLY, .response = "Health", .tag = "server", .operation_id = "healthz",
     .summary = "Whether the process answers"},
    {DD_GET, "/readyz", OP(ready), .success = 200, .flags = DD_ROUTE_OPEN | DD_ROUTE_NO_CACHE, .produces = JSON_ONLY,
     .response = "Health", .tag = "server", .operation_id = "readyz",
     .summary = "Whether work can be taken: 503 while it cannot"},
    {DD_GET, "/metrics", OP(metrics_text), .success = 200, .flags = DD_ROUTE_NO_CACHE | DD_ROUTE_LIVE,
     .produces = {"text/plain; version=0.0.4; charset=utf-8"}, .tag = "server", .operation_id = "prometheus",
     .summary = "Prometheus text format, version 0.0.4"},
};

const struct dd_route *dd_routes(size_t *ret_count) {
    *ret_count = DD_ARRAY_LEN(routes);
    return routes;
}
