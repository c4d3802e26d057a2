/* What distilld doctor looks at.
 */
#ifndef DD_DAEMON_DOCTOR_H
#define DD_DAEMON_DOCTOR_H

#include "daemon/command.h"

enum dd_finding_level { DD_FINDING_OK = 0, DD_FINDING_WARN, DD_FINDING_FAIL };
struct dd_findings {
    cJSON *items; /* [{"check", "level", "detail", "remedy"}] */
    enum dd_finding_level worst;
};
extern const char *const dd_finding_names[]; /* by level */
/* remedy: what to do, "" for DD_FINDING_OK. */
void dd_finding(struct dd_findings *findings, enum dd_finding_level level, const char *check, const char *remedy,
                const char *fmt, ...) DD_PRINTF(5, 6);

/* doctor_machine.c: processor, BLAS, limits, clock, address, certificates and tokens. */
void dd_doctor_machine(struct dd_findings *findings, const struct dd_options *options, const char *data_dir);
/* doctor_data.c: rights, space, the database, and every checksum below the data directory. */
void dd_doctor_data(struct dd_findings *findings, const struct dd_options *options, const char *data_dir);

#endif
