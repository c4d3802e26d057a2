/* Options: one table (config.c) gives the command line, the environment, the configuration file, --help and the sample
 * file.  Command line over DISTILLD_… over /etc/distilld/distilld.conf (or --config).
 */
#ifndef DD_DAEMON_CONFIG_H
#define DD_DAEMON_CONFIG_H

#include "base/base.h"

#define DD_CONFIG_FILE "/etc/distilld/distilld.conf"
#define DD_OPTION_LIST_MAX 16

/* Which commands know an option. */
enum {
    DD_FOR_SERVE = 1u << 0,
    DD_FOR_RUN = 1u << 1,
    DD_FOR_PREDICT = 1u << 2,
    DD_FOR_CLIENT = 1u << 3,
    DD_FOR_LIST = 1u << 4,
    DD_FOR_SHOW = 1u << 5,
    DD_FOR_SUBMIT = 1u << 6,
    DD_FOR_INSPECT = 1u << 7,
    DD_FOR_PRUNE = 1u << 8,
    DD_FOR_QUANTIZE = 1u << 9,
    DD_FOR_TOKEN = 1u << 16, /* from here on: commands that look after a data directory */
    DD_FOR_BACKUP = 1u << 17,
    DD_FOR_GC = 1u << 18,
    DD_FOR_DOCTOR = 1u << 19, /* beside DD_FOR_SERVE: it looks at what serve would do */
};

struct dd_options { /* strings are owned; NULL where there is none */
    char *config, *listen, *data_dir, *cache_dir, *token_file, *tls_cert, *tls_key, *log_level, *log_format;
    char *model_roots[DD_OPTION_LIST_MAX + 1]; /* NULL-terminated */
    char *hosts[DD_OPTION_LIST_MAX + 1];
    int64_t workers, threads;                     /* 0: by the number of cores */
    int64_t memory_limit_bytes, max_upload_bytes; /* 0: a share of what the machine has; the api's default */
    int64_t max_connections, max_event_readers, idle_seconds;
    int64_t checkpoint_seconds;
    char *url, *out, *status, *query;
    char *dataset, *texts, *split, *preset;
    int64_t limit, max_length;
    bool json, quiet, dry_run, watch, help, keep_characters;
    bool read_only;
    int64_t keep_runs_days, keep_checkpoints_days, keep_checkpoints_bytes, keep_orphaned_days,
        keep_cache_bytes; /* 0: for ever */
};

/* Reads the sources that the command's options ask for.  argv begins after the command's name; positional arguments
 * come back in args (pointers into argv, NULL-terminated; room for argc + 1).  Errors: DD_INVALID "usage" for the
 * command line, DD_INVALID "config_invalid" for file and environment; the message names the place and what would be
 * right. */
enum dd_status dd_options_read(unsigned command, int argc, char **argv, struct dd_options *ret_options,
                               const char **ret_args, struct dd_error *err) DD_MUST_CHECK;
void dd_options_release(struct dd_options *options);
/* Only the file and the environment, from text: for tests. */
enum dd_status dd_options_read_text(struct dd_options *options, const char *text, const char *place,
                                    struct dd_error *err) DD_MUST_CHECK;
void dd_options_help(unsigned command, struct dd_buffer *out); /* the options of a command, for --help */
void dd_options_sample(struct dd_buffer *out);                 /* the documented sample file */

#endif
