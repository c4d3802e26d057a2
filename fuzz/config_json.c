/* config.json of a model.  What is accepted has possible sizes, and what we write of it is read back the same. */
#include "engine/model.h"
#include "fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    static struct dd_model_info info, again;
    struct dd_config_facts facts;
    struct dd_error err;
    char *text = fuzz_text(bytes, count), *written = NULL;
    cJSON *json = dd_json_parse(text, count);
    if (json != NULL) {
        memset(&info, 0, sizeof info);
        enum dd_status status = dd_model_config_read(json, &info, &facts, &err);
        fuzz_check_error(status, &err);
        if (status == DD_OK && dd_bert_config_check(&info.config, &err) == DD_OK) {
            struct dd_params *layout = NULL;
            status = dd_params_layout(&info.config, &layout, &err);
            fuzz_check_error(status, &err);
            dd_params_free(status == DD_OK ? layout : NULL);
            FUZZ_CHECK(info.n_labels >= 0 && info.n_labels <= DD_MAX_CLASSES);
            FUZZ_CHECK(dd_model_config_write(&info, DD_DTYPE_F32, &written, &err) == DD_OK);
            cJSON *back = dd_json_parse(written, strlen(written));
            FUZZ_CHECK(back != NULL);
            memset(&again, 0, sizeof again);
            FUZZ_CHECK(dd_model_config_read(back, &again, &facts, &err) == DD_OK);
            FUZZ_CHECK(again.config.hidden_size == info.config.hidden_size && again.kind == info.kind);
            FUZZ_CHECK(again.config.layers == info.config.layers && again.n_labels == info.n_labels);
            FUZZ_CHECK(memcmp(again.labels, info.labels, sizeof info.labels) == 0);
            cJSON_Delete(back);
            free(written);
        }
        cJSON_Delete(json);
    }
    free(text);
    return 0;
}
