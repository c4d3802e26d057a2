/* dataset_classes: see the header.  Thread: one per set. */
#include "engine/dataset_classes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The slot that holds the label, or the empty one where it would go. */
static unsigned find_slot(const struct dd_classes *classes, const char *label, size_t len) {
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < len; i++) {
        hash = (hash ^ (unsigned char)label[i]) * 16777619u;
    }
    for (unsigned at = hash % DD_CLASS_SLOTS;; at = (at + 1) % DD_CLASS_SLOTS) {
        int index = classes->slots[at] - 1;
        if (index < 0 || (memcmp(classes->names[index], label, len) == 0 && classes->names[index][len] == '\0')) {
            return at;
        }
    }
}

enum dd_status dd_classes_add(struct dd_classes *classes, const char *label, size_t len, int *ret_index,
                              struct dd_error *err) {
    unsigned slot = find_slot(classes, label, len);
    if (classes->slots[slot] == 0) {
        if (classes->count == DD_MAX_CLASSES) {
            return dd_fail(err, DD_INVALID, "dataset_too_many_classes",
                           "there are over %d different labels; is the label column the right one?", DD_MAX_CLASSES);
        }
        memcpy(classes->names[classes->count], label, len);
        classes->names[classes->count][len] = '\0';
        classes->final_index[classes->count] = classes->count;
        classes->slots[slot] = (int16_t)++classes->count;
    }
    *ret_index = classes->slots[slot] - 1;
    return DD_OK;
}

int dd_classes_find(const struct dd_classes *classes, const char *label, size_t len) {
    if (len >= DD_LABEL_BYTES) {
        return -1;
    }
    int index = classes->slots[find_slot(classes, label, len)] - 1;
    return index < 0 ? -1 : classes->final_index[index];
}

static bool parse_integer(const char *label, long long *ret_value) {
    char *end = NULL;
    char again[32];
    errno = 0;
    long long value = strtoll(label, &end, 10);
    snprintf(again, sizeof again, "%lld", value);
    *ret_value = value;
    return errno == 0 && *end == '\0' && strcmp(again, label) == 0;
}

void dd_classes_order(struct dd_classes *classes) {
    long long values[DD_MAX_CLASSES];
    for (int i = 0; i < classes->count; i++) {
        if (!parse_integer(classes->names[i], &values[i])) {
            return;
        }
    }
    for (int i = 0; i < classes->count; i++) {
        classes->final_index[i] = 0;
        for (int j = 0; j < classes->count; j++) {
            classes->final_index[i] += values[j] < values[i];
        }
    }
}
