/* dataset_classes: the classes met while reading train.  Private to engine/dataset_*.c. */
#ifndef DD_ENGINE_DATASET_CLASSES_H
#define DD_ENGINE_DATASET_CLASSES_H

#include "engine/dataset.h"

#define DD_CLASS_SLOTS 1024 /* a power of two, at least 4 × DD_MAX_CLASSES */
struct dd_classes {
    int count;
    char names[DD_MAX_CLASSES][DD_LABEL_BYTES]; /* in order of first appearance */
    int16_t slots[DD_CLASS_SLOTS];              /* open hash table: index + 1, 0 = empty */
    int final_index[DD_MAX_CLASSES];            /* after dd_classes_order; the identity before */
};
/* Zeroed memory is an empty set. */

/* Index in order of first appearance; a new label is added.  DD_INVALID over DD_MAX_CLASSES.  len < DD_LABEL_BYTES. */
enum dd_status dd_classes_add(struct dd_classes *classes, const char *label, size_t len, int *ret_index,
                              struct dd_error *err) DD_MUST_CHECK;
/* Final index, -1 when unknown. */
int dd_classes_find(const struct dd_classes *classes, const char *label, size_t len);
/* Settles final_index: numeric order when every label is an integer (as written by printf("%lld")), else order of first
 * appearance. */
void dd_classes_order(struct dd_classes *classes);

#endif
