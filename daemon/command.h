/* Subcommands: one file each, registered in one table (main.c).
 *
 * Exit codes: 0 done; 1 refused or failed; 64 wrong usage; 65 the input is wrong; 66 not found; 70 our bug; 71 no
 * memory; 74 input or output; 75 try again later; 77 not allowed; 130 interrupted.
 */
#ifndef DD_DAEMON_COMMAND_H
#define DD_DAEMON_COMMAND_H

#include "daemon/daemon.h"

#define DD_EXIT_USAGE 64

struct dd_command {
    const char *name;
    unsigned options; /* DD_FOR_…: which rows of the option table it knows */
    const char *arguments, *summary, *details;
    int min_args, max_args;
    int (*run)(const struct dd_options *options, const char *const *args);
};
const struct dd_command *dd_commands(size_t *ret_count);
void dd_command_help(const struct dd_command *command, FILE *out);

int dd_serve_command(const struct dd_options *options, const char *const *args);
int dd_run_command(const struct dd_options *options, const char *const *args);
int dd_predict_command(const struct dd_options *options, const char *const *args);
int dd_inspect_command(const struct dd_options *options, const char *const *args);
int dd_quantize_command(const struct dd_options *options, const char *const *args);
int dd_prune_command(const struct dd_options *options, const char *const *args);
int dd_submit_command(const struct dd_options *options, const char *const *args);
int dd_watch_command(const struct dd_options *options, const char *const *args);
int dd_list_command(const struct dd_options *options, const char *const *args);
int dd_show_command(const struct dd_options *options, const char *const *args);
int dd_token_command(const struct dd_options *options, const char *const *args);
int dd_backup_command(const struct dd_options *options, const char *const *args);
int dd_restore_command(const struct dd_options *options, const char *const *args);
int dd_gc_command(const struct dd_options *options, const char *const *args);
int dd_doctor_command(const struct dd_options *options, const char *const *args);
int dd_version_command(const struct dd_options *options, const char *const *args);
int dd_help_command(const struct dd_options *options, const char *const *args);

int dd_report_error(const struct dd_error *err);       /* to stderr; returns the exit code */
void dd_report_faults(const struct dd_faults *faults); /* to stderr, a line each */
int dd_cores(const struct dd_options *options);        /* --threads or the number of cores */
/* A whole stream, at most max_bytes; the caller frees. */
enum dd_status dd_read_stream(FILE *file, size_t max_bytes, char **ret_text, size_t *ret_len,
                              struct dd_error *err) DD_MUST_CHECK;

/* --- admin.c: commands that look after a data directory
 * ---------------------------------------------------------------
 */

/* --data-dir, else the default. */
enum dd_status dd_chosen_data_dir(const struct dd_options *options, char out[PATH_MAX],
                                  struct dd_error *err) DD_MUST_CHECK;
/* The same for token, backup, restore and doctor; there root means the service's, where there is one. */
enum dd_status dd_admin_data_dir(const struct dd_options *options, char out[PATH_MAX],
                                 struct dd_error *err) DD_MUST_CHECK;
/* Root works on a data directory as the user who owns it, so that nothing is left that its daemon cannot read; what is
 * written is readable by that user alone. */
enum dd_status dd_admin_become_owner(const char *dir, struct dd_error *err) DD_MUST_CHECK;

/* --- terminal.c: one line that is redrawn in a terminal, plain lines elsewhere ---------------------------------------
 */

struct dd_line {
    FILE *out;
    bool terminal, drawn, quiet;
    int64_t drawn_us;
};
void dd_line_init(struct dd_line *line, FILE *out, bool quiet);
void dd_line_draw(struct dd_line *line, bool now, const char *fmt, ...) DD_PRINTF(3, 4); /* at most 10 a second */
void dd_line_print(struct dd_line *line, const char *fmt, ...) DD_PRINTF(2, 3);          /* stays */
void dd_line_clear(struct dd_line *line);
/* "12 s", "3 min 20 s", "2 h 05 min"; "" for NaN. */
void dd_duration_text(double seconds, char out[32]);
/* Columns that a text takes, East Asian wide characters as two; cuts or pads to width. */
void dd_put_padded(FILE *out, const char *text, int width);

/* --- client.c: a daemon over HTTP (libcurl)
 * --------------------------------------------------------------------------- */

struct dd_client;
enum dd_status dd_client_open(const struct dd_options *options, struct dd_client **ret_client,
                              struct dd_error *err) DD_MUST_CHECK;
void dd_client_close(struct dd_client *client);
/* path below /api/v1.  body NULL: none.  A problem answer becomes the error, its errors[] are printed to stderr. */
enum dd_status dd_client_call(struct dd_client *client, const char *method, const char *path, const char *body,
                              cJSON **ret_json, struct dd_error *err) DD_MUST_CHECK;
/* Server-Sent Events until on_event says false or the line ends. */
enum dd_status dd_client_events(struct dd_client *client, const char *path,
                                bool (*on_event)(void *context, const char *type, const cJSON *data), void *context,
                                struct dd_error *err) DD_MUST_CHECK;
void dd_client_url_encode(struct dd_client *client, const char *text, struct dd_buffer *out);
/* Sets "preset" in the text of a spec, which is replaced; what is no JSON object is left as it is. */
enum dd_status dd_spec_text_preset(char **text, const char *preset, struct dd_error *err) DD_MUST_CHECK;
bool dd_id_parse(const char *text, int64_t *ret_id);           /* "12" or "#12" */
int dd_watch_experiment(struct dd_client *client, int64_t id); /* returns the exit code */

#endif
