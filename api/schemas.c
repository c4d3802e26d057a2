/* The shapes of the API's answers, as JSON Schema for openapi.json.
 *
 * Each schema is a line of fields: name[!]:type[?], separated by spaces.  ! = always there; ? = may be null.
 *   type     int  num  str  bool  time  obj (any object)  any  Name (another schema)  [type] (array)  {type} (map)
 *            a|b|c (one of these strings)
 * Fields may be added to answers at any time, so no schema forbids others.
 */
#include <ctype.h>
#include <string.h>

#include "api/internal.h"

struct schema {
    const char *name, *fields;
};

#define EXPERIMENT                                                                                                     \
    "id!:int name!:str status!:queued|running|paused|finished|failed|cancelled tags!:[str] notes!:str priority!:int "  \
    "spec!:obj created_at!:time? started_at!:time? finished_at!:time? progress!:Progress best!:Scores? last!:Scores? " \
    "teacher!:TeacherScores? retention!:Retention? model!:Student? error!:RunError? attempts!:int revision!:int "      \
    "spec_hash:str "                                                                                                   \
    "pause_requested:bool cancel_requested:bool allowed_actions:[str] sweep_id:int? stopped:str?"
#define PAGE(of) "items!:[" of "] next_cursor!:str?"
#define SCORES                                                                                                         \
    "accuracy!:num? macro_precision:num? macro_recall:num? macro_f1!:num? weighted_precision:num? "                    \
    "weighted_recall:num? weighted_f1:num? dev_loss:num? train_loss:num?"

static const struct schema schemas[] = {
    {"Object", ""},
    {"Health", "status:str"},
    {"Removal", "kind!:str name!:str bytes!:int reason!:str"},
    {"Removals", "items!:[Removal] bytes!:int dry_run!:bool more!:bool"},
    {"Session", "required!:bool name!:str? scope!:str expires_at!:time?"},
    {"Fault", "pointer!:str detail!:str"},
    {"Problem", "type!:str title!:str status!:int code!:str detail!:str request_id!:str errors:[Fault] "
                "errors_total:int allowed_actions:[str]"},

    {"Lengths", "min!:int mean!:num? p50!:int p95!:int max!:int"},
    {"Class", "name!:str rows!:{int}"},
    {"Split", "rows!:int characters!:Lengths tokens!:Lengths? duplicates!:int duplicates_of!:{int} sha256!:str"},
    {"DevSplit", "fraction!:num seed!:int"},
    {"Dataset", "name!:str created_at!:time? classes!:[Class] rows!:{int} splits!:{Split} pairs!:bool "
                "dev_split!:DevSplit? skipped:int tokens_counted_with:str?"},
    {"DatasetList", PAGE("Dataset")},
    {"DatasetRow", "index!:int text!:str? pair:str? label:str?"},
    {"DatasetRowList", PAGE("DatasetRow")},

    {"Shape", "layers!:int heads!:int hidden_size!:int intermediate_size!:int vocab_size!:int max_positions:int "
              "hidden_act:str"},
    {"Model", "name!:str created_at!:time? kind!:encoder|classifier shape!:Shape parameters!:int bytes!:int "
              "labels!:[str] sha256!:str source!:obj lower_case:bool has_pooler:bool has_tokenizer:bool "
              "weights_format:str max_length:int fold:Fold"},
    {"Fold", "folds!:int fold!:int train_sha256!:str"},
    {"ModelList", PAGE("Model")},
    {"Prediction", "label!:str score!:num? scores!:{num} logits!:[num]"},
    {"PredictionAnswer", "predictions!:[Prediction]"},

    {"Progress", "epoch!:int epochs!:int step!:int steps!:int eta_seconds!:num? tokens_per_second!:num? "
                 "elapsed_seconds:num? phase:str? phase_done:num? stopped_early:bool"},
    {"Scores", "epoch!:int " SCORES},
    {"TeacherScores", SCORES},
    {"Retention", "accuracy!:num? macro_f1!:num?"},
    {"Student", "name!:str parameters!:int bytes!:int"},
    {"RunError", "code!:str message!:str?"},
    {"Experiment", EXPERIMENT},
    {"Estimate", "memory_bytes!:int disk_bytes!:int seconds!:num parameters!:int model_bytes!:int matmul_flops:num"},
    {"DryRun", "spec!:obj estimate!:Estimate"},
    {"ExperimentList", PAGE("Experiment")},
    {"Epoch",
     "epoch!:int train_loss!:num? train_kl!:num? train_ce!:num? dev_loss!:num? accuracy!:num? macro_precision!:num? "
     "macro_recall!:num? macro_f1!:num? weighted_precision!:num? weighted_recall!:num? weighted_f1!:num? "
     "teacher_agreement!:num? lr!:num? seconds!:num? tokens_per_second!:num? is_best!:bool elapsed_seconds:num? "
     "recorded_at:time? train_hidden:num train_cls:num train_attention:num train_relation:num dev_kl:num dev_ce:num "
     "rollback:Rollback? "
     "attempt:int smooth:{num?}"},
    {"Rollback", "reason!:not_finite|one_class|f1_fell to_epoch!:int"},
    {"Metrics", "epochs!:[Epoch] reduced:bool"},
    {"Step", "step!:int epoch!:int loss!:num? kl:num? ce:num? lr!:num? grad_norm!:num? elapsed_seconds:num? "
             "tokens_per_second:num? smooth:{num?}"},
    {"Steps", "steps!:[Step] recorded!:int reduced!:bool"},
    {"ReportRow", "precision!:num recall!:num f1-score!:num support!:num"},
    {"Report", "confusion_matrix!:[[int]] labels:[str]"},
    {"PredictionRow", "index!:int text!:str? pair:str? gold!:str? student!:str? student_score!:num? teacher!:str? "
                      "teacher_score!:num?"},
    {"PredictionRowList", PAGE("PredictionRow")},
    {"LogLine", "seq!:int time!:time? level!:str message!:str?"},
    {"Log", "items!:[LogLine]"},
    {"Difference", "field!:str values!:[any]"},
    {"ComparedRun", EXPERIMENT " series!:{[any]} smooth:{[any]}"},
    {"Comparison", "ids!:[int] experiments!:[ComparedRun] differences!:[Difference] significance!:Significance?"},
    {"Lead", "point:int id:int difference!:num? low!:num? high!:num? within_noise!:bool?"},
    {"Significance", "test!:str metric!:str resamples!:int confidence!:num rows!:int baseline!:int others!:[Lead]"},
    {"SweepScore", "mean!:num? min!:num? max!:num? std!:num?"},
    {"SweepPoint", "point!:int values!:{any} experiments!:[int] states!:{int} n!:int macro_f1!:SweepScore "
                   "accuracy!:SweepScore retention!:num? seconds!:num? epochs_done!:int stopped!:str?"},
    {"SweepBest", "point!:int values!:{any} metric!:str score!:num runner_up!:int? difference!:num? "
                  "standard_error!:num? within_noise!:bool? within_noise_test!:str"},
    {"SweepRung", "rung!:int epoch!:int points!:int promoted!:int"},
    {"SweepAsha", "min_epochs!:int eta!:int metric!:str rungs:[SweepRung]"},
    {"SweepProgress", "total!:int queued!:int running!:int paused!:int finished!:int failed!:int cancelled!:int"},
    {"Sweep",
     "id!:int name!:str status!:running|finished|cancelled created_at!:time? base!:obj grid:{any} random:{any} "
     "count:int seed:int seeds:[int] axes!:[str] points_total!:int progress!:SweepProgress "
     "points:[SweepPoint] best:SweepBest? asha:SweepAsha epochs_done:int epochs_total:int "
     "significance:Significance?"},
    {"SweepList", PAGE("Sweep")},
    {"Preset", "name!:str why!:str fields!:obj"},
    {"PresetList", "items!:[Preset]"},
    {"Workers", "total!:int busy!:int"},
    {"Queue", "queued!:int running!:int paused!:int finished!:int failed!:int cancelled!:int"},
    {"Memory", "resident_bytes!:int limit_bytes:int"},
    {"Disk", "free_bytes!:int total_bytes!:int"},
    {"System", "version!:str build!:str cpu!:str blas!:str threads!:int workers!:Workers queue!:Queue memory:Memory "
               "disk:Disk data_dir:str started_at:time? uptime_seconds:num bf16:bool schema_version:int"},
};

static cJSON *type_schema(const char *type, size_t len);

static cJSON *named_type(const char *name) {
    cJSON *schema = cJSON_CreateObject();
    cJSON_AddStringToObject(schema, "type", name);
    return schema;
}

static cJSON *reference(const char *name, size_t len) {
    char ref[96];
    snprintf(ref, sizeof ref, "#/components/schemas/%.*s", (int)len, name);
    cJSON *schema = cJSON_CreateObject();
    cJSON_AddStringToObject(schema, "$ref", ref);
    return schema;
}

static cJSON *one_of_strings(const char *type, size_t len) {
    cJSON *schema = named_type("string");
    cJSON *values = cJSON_AddArrayToObject(schema, "enum");
    while (len > 0) {
        const char *bar = memchr(type, '|', len);
        size_t n = bar == NULL ? len : (size_t)(bar - type);
        char word[48];
        snprintf(word, sizeof word, "%.*s", (int)n, type);
        cJSON_AddItemToArray(values, cJSON_CreateString(word));
        n += bar != NULL;
        type += n;
        len -= n;
    }
    return schema;
}

/* {"type": t} → {"type": [t, "null"]}; a reference → {"oneOf": [ref, {"type": "null"}]} */
static cJSON *nullable(cJSON *schema) {
    cJSON *type = cJSON_DetachItemFromObjectCaseSensitive(schema, "type");
    if (type != NULL) {
        cJSON *both = cJSON_AddArrayToObject(schema, "type");
        cJSON_AddItemToArray(both, type);
        cJSON_AddItemToArray(both, cJSON_CreateString("null"));
        return schema;
    }
    cJSON *either = cJSON_CreateObject();
    cJSON *list = cJSON_AddArrayToObject(either, "oneOf");
    cJSON_AddItemToArray(list, schema);
    cJSON_AddItemToArray(list, named_type("null"));
    return either;
}

static cJSON *type_schema(const char *type, size_t len) {
    static const char *const plain[][2] = {
        {"int", "integer"}, {"num", "number"}, {"str", "string"}, {"bool", "boolean"}, {"obj", "object"}};
    if (type[len - 1] == '?') {
        return nullable(type_schema(type, len - 1));
    }
    if (type[0] == '[' || type[0] == '{') {
        cJSON *schema = named_type(type[0] == '[' ? "array" : "object");
        cJSON_AddItemToObject(schema, type[0] == '[' ? "items" : "additionalProperties",
                              type_schema(type + 1, len - 2));
        return schema;
    }
    if (memchr(type, '|', len) != NULL) {
        return one_of_strings(type, len);
    }
    for (size_t i = 0; i < DD_ARRAY_LEN(plain); i++) {
        if (strlen(plain[i][0]) == len && memcmp(plain[i][0], type, len) == 0) {
            return named_type(plain[i][1]);
        }
    }
    if (len == 4 && memcmp(type, "time", 4) == 0) {
        cJSON *schema = named_type("string");
        cJSON_AddStringToObject(schema, "format", "date-time");
        return schema;
    }
    return isupper((unsigned char)type[0]) ? reference(type, len) : cJSON_CreateObject();
}

static cJSON *object_schema(const char *fields) {
    cJSON *schema = named_type("object");
    cJSON *properties = cJSON_AddObjectToObject(schema, "properties");
    cJSON *required = cJSON_CreateArray();
    while (*fields != '\0') {
        size_t len = strcspn(fields, " ");
        size_t name_len = strcspn(fields, ":");
        bool always = fields[name_len - 1] == '!';
        char name[48];
        snprintf(name, sizeof name, "%.*s", (int)(name_len - always), fields);
        cJSON_AddItemToObject(properties, name, type_schema(fields + name_len + 1, len - name_len - 1));
        if (always) {
            cJSON_AddItemToArray(required, cJSON_CreateString(name));
        }
        fields += len;
        fields += *fields == ' ';
    }
    if (cJSON_GetArraySize(required) > 0) {
        cJSON_AddItemToObject(schema, "required", required);
    } else {
        cJSON_Delete(required);
    }
    return schema;
}

cJSON *dd_schemas(void) {
    cJSON *all = cJSON_CreateObject();
    for (size_t i = 0; i < DD_ARRAY_LEN(schemas); i++) {
        cJSON_AddItemToObject(all, schemas[i].name, object_schema(schemas[i].fields));
    }
    /* A class's row, or accuracy, which is one number. */
    cJSON *report = cJSON_GetObjectItemCaseSensitive(all, "Report");
    cJSON_AddItemToObject(cJSON_GetObjectItemCaseSensitive(report, "properties"), "macro avg",
                          reference("ReportRow", 9));
    cJSON_AddItemToObject(cJSON_GetObjectItemCaseSensitive(report, "properties"), "weighted avg",
                          reference("ReportRow", 9));
    return all;
}
