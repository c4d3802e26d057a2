/* report: what the report can do beyond engine.h.  Private to engine/. */
#ifndef DD_ENGINE_REPORT_H
#define DD_ENGINE_REPORT_H

#include "engine/engine.h"

/* As dd_report_compute, for the given distinct classes only, in the given order (labels= of scikit-learn): n_labels in
 * [1, n_classes], each in [0, n_classes).  Rows that the labels leave out turn the accuracy row into "micro avg". */
enum dd_status dd_report_compute_labels(const int32_t *gold, const int32_t *predicted, size_t n, int n_classes,
                                        const int *labels, int n_labels, struct dd_report *ret_report,
                                        struct dd_error *err) DD_MUST_CHECK;

/* bootstrap.c: the rows that a resample draws, [n].  n below 2^32. */
void dd_bootstrap_rows(uint64_t seed, int resample, size_t n, uint32_t *rows);

#endif
