/* Presets: named sets of fields that fill what a spec does not give.
 *
 * To change what a preset means, change its fields here; nothing else knows them.  Fields that mean nothing beside what
 * was given (the settings of SGD when the optimizer is AdamW) are left out.  A resolved spec holds the values and not
 * the preset's name, so that a run of yesterday is not changed by a preset of tomorrow.
 *
 * Threads: constant data, any thread.
 */
#include <string.h>

#include "spec/fields.h"

const struct dd_preset dd_presets[] = {
    {"note",
     "The recipe of the note that distilld grew from, to the letter: random weights and plain SGD, without clipping or "
     "guard. For comparisons; it "
     "often stays on the largest class for many epochs.",
     "{\"init\":\"random\",\"optimizer\":{\"type\":\"sgd\",\"lr\":0.05,\"momentum\":0,\"weight_decay\":0,\"warmup\":0,"
     "\"schedule\":\"constant\",\"max_grad_norm\":0},\"T\":4,\"alpha\":0.2,\"epochs\":60,\"batch_size\":32,"
     "\"guard\":false}"},
    {"balanced", "The defaults: what a spec without a preset gets.", "{}"},
    {"strong",
     "What a student of one layer does by default, but for whole_words, for any number of layers: starts from the "
     "teacher's layers, matches its [CLS] states, and learns from four copies of each row with words replaced, which "
     "the teacher labels. About twice the time. Add \"unlabelled\": true where the data set has such rows.",
     "{\"init\":\"teacher\",\"cls_weight\":1,\"augment\":4,\"augment_replace\":0.3,\"epochs\":8}"},
    {"tiny", "The smallest and fastest student: one layer, taken from the teacher.",
     "{\"layers\":1,\"init\":\"teacher\"}"},
};
const size_t dd_presets_count = DD_ARRAY_LEN(dd_presets);
const char *const dd_preset_names[] = {"note", "balanced", "strong", "tiny", NULL}; /* in the same order */
_Static_assert(DD_ARRAY_LEN(dd_preset_names) == DD_ARRAY_LEN(dd_presets) + 1, "a name for each preset");

cJSON *dd_preset_fields(const char *name) {
    for (size_t i = 0; i < dd_presets_count; i++)
        if (strcmp(dd_presets[i].name, name) == 0)
            return cJSON_Parse(dd_presets[i].fields);
    return NULL;
}
