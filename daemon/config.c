/* The table of options and its readers.
 * Threads: start of the program only.
 *
 * Format of the file: lines "name = value"; '#' begins a comment line; blank lines count for nothing.  Names are those
 * of the command line without the dashes.  An option that may be given several times stands on several lines.  Where a
 * source gives a list, it replaces the list of the weaker source.
 */
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/config.h"
#include "spec/spec.h"

#define MAX_CONFIG_BYTES (64 * 1024)

enum kind { TEXT, LIST, INT, BYTES, FLAG, CHOICE };
struct option {
    const char *name;
    enum kind kind;
    unsigned commands;
    bool lasting; /* may stand in the file and in the environment */
    size_t offset;
    double min, max;
    const char *choices;  /* space-separated */
    const char *value;    /* name of the value in --help */
    const char *fallback; /* as shown to people */
    const char *help;
};

#define AT(member) .offset = offsetof(struct dd_options, member)
#define LOCAL (DD_FOR_SERVE | DD_FOR_RUN)
#define ADMIN (DD_FOR_TOKEN | DD_FOR_BACKUP) /* commands that look after a data directory */
static const struct option options[] = {
    {"listen", TEXT, DD_FOR_SERVE, true, AT(listen), .value = "ADDRESS:PORT", .fallback = "127.0.0.1:8080",
     .help = "Where to listen. Loopback needs no token; any other address is refused without one."},
    {"data-dir", TEXT, LOCAL | ADMIN, true, AT(data_dir), .value = "DIR",
     .fallback = "$STATE_DIRECTORY, else ~/.local/share/distilld",
     .help =
         "Everything that lasts: the database, data sets, models, runs. Root's token, backup, restore and doctor take "
         "/var/lib/distilld, the service's, where it exists."},
    {"cache-dir", TEXT, LOCAL, true, AT(cache_dir), .value = "DIR", .fallback = "DATA-DIR/cache",
     .help = "Teachers' logits and inner states, shared by runs. May be deleted while the daemon is stopped."},
    {"workers", INT, DD_FOR_SERVE, true, AT(workers), .min = 1, .max = 64, .value = "N",
     .fallback = "one for each 4 cores", .help = "Experiments that run at once; the cores are shared among them."},
    {"threads", INT, LOCAL | DD_FOR_PREDICT | DD_FOR_QUANTIZE, true, AT(threads), .min = 1, .max = 256, .value = "N",
     .fallback = "the number of cores", .help = "Cores to compute on. The results do not depend on it."},
    {"model-root", LIST, DD_FOR_SERVE, true, AT(model_roots), .value = "DIR", .fallback = "none",
     .help =
         "Models on this machine may be registered by path only below such a directory. May be given several times."},
    {"token-file", TEXT, DD_FOR_SERVE | DD_FOR_CLIENT, true, AT(token_file), .value = "FILE", .fallback = "none",
     .help = "A file whose first line is a bearer token with every right. `distilld token` makes more."},
    {"tls-cert", TEXT, DD_FOR_SERVE, true, AT(tls_cert), .value = "FILE", .fallback = "none",
     .help = "Certificate chain, PEM. With tls-key the daemon speaks HTTPS."},
    {"tls-key", TEXT, DD_FOR_SERVE, true, AT(tls_key), .value = "FILE", .fallback = "none",
     .help = "Its private key, PEM."},
    {"host", LIST, DD_FOR_SERVE, true, AT(hosts), .value = "NAME", .fallback = "none",
     .help = "A further name by which browsers may call this daemon (its Host header). May be given several times."},
    {"memory-limit", BYTES, DD_FOR_SERVE, true, AT(memory_limit_bytes), .min = 1 << 20, .max = 1e15, .value = "BYTES",
     .fallback = "80 % of the machine's memory",
     .help = "Experiments estimated to need more are refused; several at once wait for each other. Suffixes K, M, G."},
    {"max-upload", BYTES, DD_FOR_SERVE, true, AT(max_upload_bytes), .min = 1 << 20, .max = 1e15, .value = "BYTES",
     .fallback = "4G", .help = "The largest upload."},
    {"max-connections", INT, DD_FOR_SERVE, true, AT(max_connections), .min = 2, .max = 100000, .value = "N",
     .fallback = "2000",
     .help = "Connections at a time; one address may have half of them, unless the daemon listens on loopback alone."},
    {"max-event-readers", INT, DD_FOR_SERVE, true, AT(max_event_readers), .min = 1, .max = 100000, .value = "N",
     .fallback = "256", .help = "Event streams at a time."},
    {"idle-seconds", INT, DD_FOR_SERVE, true, AT(idle_seconds), .min = 1, .max = 86400, .value = "N", .fallback = "60",
     .help = "A connection on which nothing has moved for so long is closed, also in the middle of a body."},
    {"checkpoint-seconds", INT, LOCAL, true, AT(checkpoint_seconds), .min = 1, .max = 86400, .value = "N",
     .fallback = "600", .help = "Long epochs are checkpointed this often too."},
    {"keep-runs-days", INT, DD_FOR_SERVE, true, AT(keep_runs_days), .min = 1, .max = 36500, .value = "N",
     .fallback = "for ever",
     .help =
         "Runs that ended longer ago are deleted with their curves, unless they have the tag keep; their models stay."},
    {"keep-checkpoints-days", INT, DD_FOR_SERVE, true, AT(keep_checkpoints_days), .min = 1, .max = 36500, .value = "N",
     .fallback = "for ever",
     .help = "Checkpoints of runs that failed or were cancelled longer ago are deleted; a retry then begins anew."},
    {"keep-checkpoints-bytes", BYTES, DD_FOR_SERVE, true, AT(keep_checkpoints_bytes), .min = 1, .max = 1e15,
     .value = "BYTES", .fallback = "no limit", .help = "So many of them in all; the oldest go first."},
    {"keep-orphaned-days", INT, DD_FOR_SERVE, true, AT(keep_orphaned_days), .min = 1, .max = 36500, .value = "N",
     .fallback = "for ever",
     .help = "What was set aside in orphaned/ longer ago, because an older database did not know it, is deleted."},
    {"keep-cache-bytes", BYTES, DD_FOR_SERVE, true, AT(keep_cache_bytes), .min = 1, .max = 1e15, .value = "BYTES",
     .fallback = "no limit", .help = "Teachers' logits and inner states in all; those unused for longest go first."},
    {"log-level", CHOICE, LOCAL, true, AT(log_level), .choices = "debug info warning error", .value = "LEVEL",
     .fallback = "info", .help = "Least level that is logged. Read again on SIGHUP."},
    {"log-format", CHOICE, LOCAL, true, AT(log_format), .choices = "text json journal", .value = "FORMAT",
     .fallback = "text, or journal under systemd", .help = "How log lines look."},
    {"config", TEXT, LOCAL | ADMIN | DD_FOR_PREDICT | DD_FOR_QUANTIZE, false, AT(config), .value = "FILE",
     .fallback = DD_CONFIG_FILE, .help = "The configuration file."},
    {"url", TEXT, DD_FOR_CLIENT, true, AT(url), .value = "URL", .fallback = "http://127.0.0.1:8080",
     .help = "The daemon to talk to."},
    {"out", TEXT, DD_FOR_RUN | DD_FOR_PRUNE | DD_FOR_QUANTIZE, false, AT(out), .value = "DIR",
     .fallback = "./NAME-OF-SPEC-model; ./MODEL-pruned, ./MODEL-int8",
     .help = "Where the finished model goes. A model that is there already is replaced."},
    {"dataset", TEXT, DD_FOR_PRUNE | DD_FOR_QUANTIZE, false, AT(dataset), .value = "PATH", .fallback = "none",
     .help = "A file of rows, a directory with train, dev and test files, or a data set of a data directory."},
    {"texts", TEXT, DD_FOR_PRUNE, false, AT(texts), .value = "FILE", .fallback = "none",
     .help = "A text a line; a tab separates the two of a pair."},
    {"split", CHOICE, DD_FOR_QUANTIZE, false, AT(split), .choices = "train dev test", .value = "SPLIT",
     .fallback = "dev", .help = "Where accuracy is measured, before and after."},
    {"keep-characters", FLAG, DD_FOR_PRUNE, false, AT(keep_characters),
     .help = "Keep all single ASCII characters and ideographs, too, for texts that are not among these."},
    {"quiet", FLAG, DD_FOR_RUN, false, AT(quiet), .help = "No progress line."},
    {"json", FLAG, DD_FOR_DOCTOR | DD_FOR_PREDICT | DD_FOR_LIST | DD_FOR_SHOW | DD_FOR_INSPECT, false, AT(json),
     .help = "JSON instead of a table."},
    {"max-length", INT, DD_FOR_PREDICT | DD_FOR_QUANTIZE, false, AT(max_length), .min = 4, .max = 8192, .value = "N",
     .fallback = "the model's", .help = "Tokens of a text that count."},
    {"status", TEXT, DD_FOR_LIST, false, AT(status), .value = "LIST", .fallback = "all",
     .help = "Only these, comma-separated: queued, running, paused, finished, failed, cancelled."},
    {"query", TEXT, DD_FOR_LIST, false, AT(query), .value = "TEXT", .fallback = "none",
     .help = "Only those with TEXT in name, notes or tags."},
    {"limit", INT, DD_FOR_LIST, false, AT(limit), .min = 1, .max = 500, .value = "N", .fallback = "50",
     .help = "At most so many."},
    {"preset", TEXT, DD_FOR_SUBMIT | DD_FOR_RUN, false, AT(preset), .value = "NAME", .fallback = "none",
     .help = "Fills what the spec does not give: note, balanced, strong or tiny."},
    {"dry-run", FLAG, DD_FOR_SUBMIT | DD_FOR_GC, false, AT(dry_run), .help = "Only show what would be done."},
    {"read-only", FLAG, DD_FOR_TOKEN, false, AT(read_only),
     .help = "The token may look at everything and ask models, and change nothing."},
    {"watch", FLAG, DD_FOR_SUBMIT, false, AT(watch), .help = "Follow the experiment to its end."},
};

static void *at(struct dd_options *o, const struct option *option) {
    return (char *)o + option->offset;
}

static void list_clear(char **list) {
    for (int i = 0; i <= DD_OPTION_LIST_MAX; i++) {
        free(list[i]);
        list[i] = NULL;
    }
}

void dd_options_release(struct dd_options *o) {
    for (size_t i = 0; i < DD_ARRAY_LEN(options); i++) {
        if (options[i].kind == LIST)
            list_clear(at(o, &options[i]));
        else if (options[i].kind == TEXT || options[i].kind == CHOICE)
            dd_free_ptr(at(o, &options[i]));
    }
    memset(o, 0, sizeof *o);
}

static bool choice_known(const char *choices, const char *value) {
    size_t length = strlen(value);
    for (const char *p = choices; *p != '\0'; p += strcspn(p, " "), p += *p == ' ')
        if (strcspn(p, " ") == length && strncmp(p, value, length) == 0)
            return true;
    return false;
}

static bool parse_number(const struct option *option, const char *value, int64_t *ret_number) {
    char *end;
    errno = 0;
    long long number = strtoll(value, &end, 10);
    double factor = 1;
    if (option->kind == BYTES && *end != '\0') {
        const char *suffixes = "kmgt", *suffix = strchr(suffixes, tolower((unsigned char)*end));
        if (suffix == NULL)
            return false;
        for (const char *p = suffixes; p <= suffix; p++)
            factor *= 1024;
        end += 1 + (end[1] == 'i' && end[2] == 'B' ? 2 : end[1] == 'B' ? 1 : 0);
    }
    if (errno != 0 || end == value || *end != '\0')
        return false;
    if ((double)number * factor < option->min || (double)number * factor > option->max)
        return false;
    *ret_number = number * (int64_t)factor;
    return true;
}

/* place: "--workers" or "/etc/…:12" or "DISTILLD_WORKERS"; code: of the error. */
static enum dd_status set(struct dd_options *o, const struct option *option, const char *value, const char *place,
                          const char *code, struct dd_error *err) {
    if (option->kind == INT || option->kind == BYTES) {
        if (parse_number(option, value, at(o, option)))
            return DD_OK;
        return dd_fail(err, DD_INVALID, code, "%s: %s must be a whole number from %.0f to %.0f%s, got \"%s\"", place,
                       option->name, option->min, option->max,
                       option->kind == BYTES ? ", with K, M, G or T behind it if you like" : "", value);
    }
    if (option->kind == CHOICE && !choice_known(option->choices, value))
        return dd_fail(err, DD_INVALID, code, "%s: %s must be one of: %s; got \"%s\"", place, option->name,
                       option->choices, value);
    if (value[0] == '\0')
        return dd_fail(err, DD_INVALID, code, "%s: %s must not be empty", place, option->name);
    char *copy = dd_strdup(value);
    if (copy == NULL)
        return dd_fail_memory(err, strlen(value));
    if (option->kind != LIST) {
        char **text = at(o, option);
        free(*text);
        *text = copy;
        return DD_OK;
    }
    char **list = at(o, option);
    for (int i = 0; i < DD_OPTION_LIST_MAX; i++) {
        if (list[i] == NULL) {
            list[i] = copy;
            return DD_OK;
        }
    }
    free(copy);
    return dd_fail(err, DD_INVALID, code, "%s: %s may be given at most %d times", place, option->name,
                   DD_OPTION_LIST_MAX);
}

static const struct option *find(const char *name, size_t length, unsigned commands, bool lasting_only) {
    for (size_t i = 0; i < DD_ARRAY_LEN(options); i++)
        if ((options[i].commands & commands) != 0 && (options[i].lasting || !lasting_only) &&
            strlen(options[i].name) == length && strncmp(options[i].name, name, length) == 0)
            return &options[i];
    return NULL;
}

static const char *nearest(const char *name, unsigned commands, bool lasting_only) {
    const char *near = NULL;
    int best = INT_MAX;
    for (size_t i = 0; i < DD_ARRAY_LEN(options); i++)
        if ((options[i].commands & commands) != 0 && (options[i].lasting || !lasting_only) &&
            dd_near_miss(name, options[i].name, &best))
            near = options[i].name;
    return near;
}

static enum dd_status fail_unknown(const char *place, const char *name, unsigned commands, bool lasting_only,
                                   const char *code, struct dd_error *err) {
    const char *near = nearest(name, commands, lasting_only);
    if (near != NULL)
        return dd_fail(err, DD_INVALID, code, "%s: there is no option \"%s\"; did you mean \"%s\"?", place, name, near);
    return dd_fail(err, DD_INVALID, code, "%s: there is no option \"%s\"", place, name);
}

static char *trim(char *text) {
    while (isspace((unsigned char)*text))
        text++;
    size_t length = strlen(text);
    while (length > 0 && isspace((unsigned char)text[length - 1]))
        text[--length] = '\0';
    return text;
}

static enum dd_status read_line(struct dd_options *o, char *line, const char *place, bool *cleared,
                                struct dd_error *err) {
    char *name = trim(line);
    if (*name == '\0' || *name == '#')
        return DD_OK;
    char *equals = strchr(name, '=');
    if (equals == NULL)
        return dd_fail(err, DD_INVALID, "config_invalid", "%s: a line must be \"name = value\"", place);
    *equals = '\0';
    name = trim(name);
    const struct option *option = find(name, strlen(name), ~0u, true);
    if (option == NULL)
        return fail_unknown(place, name, ~0u, true, "config_invalid", err);
    if (option->kind == LIST && !cleared[option - options]) {
        list_clear(at(o, option));
        cleared[option - options] = true;
    }
    return set(o, option, trim(equals + 1), place, "config_invalid", err);
}

enum dd_status dd_options_read_text(struct dd_options *o, const char *text, const char *place, struct dd_error *err) {
    bool cleared[DD_ARRAY_LEN(options)] = {false};
    int number = 0;
    for (const char *p = text; *p != '\0';) {
        size_t length = strcspn(p, "\n");
        DD_CLEANUP(dd_free_ptr) char *line = dd_strndup(p, length);
        if (line == NULL)
            return dd_fail_memory(err, length);
        char where[PATH_MAX + 16];
        snprintf(where, sizeof where, "%s:%d", place, ++number);
        enum dd_status status = read_line(o, line, where, cleared, err);
        if (status != DD_OK)
            return status;
        p += length;
        p += *p == '\n';
    }
    return DD_OK;
}

/* asked: the file was named, so it must exist. */
static enum dd_status read_file(struct dd_options *o, const char *path, bool asked, struct dd_error *err) {
    if (!asked && access(path, F_OK) != 0)
        return DD_OK;
    DD_CLEANUP(dd_free_ptr) char *text = NULL;
    size_t length;
    enum dd_status status = dd_file_read(path, MAX_CONFIG_BYTES, &text, &length, err);
    if (status != DD_OK)
        return dd_error_prefix(err, "the configuration file");
    if (strlen(text) != length)
        return dd_fail(err, DD_INVALID, "config_invalid", "%s: has a NUL byte", path);
    return dd_options_read_text(o, text, path, err);
}

static void environment_name(const struct option *option, char out[64]) {
    snprintf(out, 64, "DISTILLD_%s", option->name);
    for (char *p = out; *p != '\0'; p++)
        *p = *p == '-' ? '_' : (char)toupper((unsigned char)*p);
}

static enum dd_status read_environment(struct dd_options *o, unsigned command, struct dd_error *err) {
    for (size_t i = 0; i < DD_ARRAY_LEN(options); i++) {
        const struct option *option = &options[i];
        char name[64];
        environment_name(option, name);
        const char *value = getenv(name);
        if (value == NULL || !option->lasting || (option->commands & command) == 0)
            continue;
        if (option->kind != LIST) {
            enum dd_status status = set(o, option, value, name, "config_invalid", err);
            if (status != DD_OK)
                return status;
            continue;
        }
        list_clear(at(o, option));
        for (const char *p = value; *p != '\0'; p += strcspn(p, ":"), p += *p == ':') {
            DD_CLEANUP(dd_free_ptr) char *item = dd_strndup(p, strcspn(p, ":"));
            enum dd_status status =
                item == NULL ? dd_fail_memory(err, strlen(p)) : set(o, option, item, name, "config_invalid", err);
            if (status != DD_OK)
                return status;
        }
    }
    return DD_OK;
}

/* One option of the command line; *index moves to its value. */
static enum dd_status read_argument(struct dd_options *o, unsigned command, int argc, char **argv, int *index,
                                    bool *cleared, struct dd_error *err) {
    const char *argument = argv[*index] + 2;
    size_t length = strcspn(argument, "=");
    const struct option *option = find(argument, length, command, false);
    char shown[64];
    snprintf(shown, sizeof shown, "%.*s", (int)DD_MIN(length, (size_t)60), argument);
    if (option == NULL)
        return fail_unknown("command line", shown, command, false, "usage", err);
    if (option->kind == FLAG) {
        if (argument[length] == '=')
            return dd_fail(err, DD_INVALID, "usage", "--%s takes no value", option->name);
        *(bool *)at(o, option) = true;
        return DD_OK;
    }
    const char *value = argument[length] == '=' ? argument + length + 1 : *index + 1 < argc ? argv[++*index] : NULL;
    if (value == NULL)
        return dd_fail(err, DD_INVALID, "usage", "--%s needs a value: --%s %s", option->name, option->name,
                       option->value);
    if (option->kind == LIST && !cleared[option - options]) {
        list_clear(at(o, option));
        cleared[option - options] = true;
    }
    return set(o, option, value, "command line", "usage", err);
}

static enum dd_status read_command_line(struct dd_options *o, unsigned command, int argc, char **argv,
                                        const char **ret_args, struct dd_error *err) {
    bool cleared[DD_ARRAY_LEN(options)] = {false};
    int n_args = 0;
    bool only_args = false;
    for (int i = 0; i < argc; i++) {
        if (only_args || argv[i][0] != '-' || argv[i][1] == '\0') {
            ret_args[n_args++] = argv[i];
        } else if (strcmp(argv[i], "--") == 0) {
            only_args = true;
        } else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            o->help = true;
        } else if (argv[i][1] != '-') {
            return dd_fail(err, DD_INVALID, "usage", "there is no option \"%s\"; options begin with two dashes",
                           argv[i]);
        } else {
            enum dd_status status = read_argument(o, command, argc, argv, &i, cleared, err);
            if (status != DD_OK)
                return status;
        }
    }
    ret_args[n_args] = NULL;
    return DD_OK;
}

enum dd_status dd_options_read(unsigned command, int argc, char **argv, struct dd_options *ret_options,
                               const char **ret_args, struct dd_error *err) {
    struct dd_options o = {.checkpoint_seconds = 600, .limit = 50};
    enum dd_status status = read_command_line(&o, command, argc, argv, ret_args, err);
    if (status == DD_OK && !o.help) {
        /* The command line is read first, to find --config and to reject a typo before anything else, and once more at
         * the end, because it is the strongest. */
        const char *asked = o.config != NULL ? o.config : getenv("DISTILLD_CONFIG");
        if ((command & (LOCAL | ADMIN | DD_FOR_PREDICT | DD_FOR_QUANTIZE)) != 0)
            status = read_file(&o, asked != NULL ? asked : DD_CONFIG_FILE, asked != NULL, err);
        if (status == DD_OK)
            status = read_environment(&o, command, err);
        if (status == DD_OK)
            status = read_command_line(&o, command, argc, argv, ret_args, err);
    }
    if (status != DD_OK) {
        dd_options_release(&o);
        return status;
    }
    *ret_options = o;
    return DD_OK;
}

/* help as lines of at most 96 columns, each behind prefix. */
static void put_wrapped(struct dd_buffer *out, const char *prefix, const char *text) {
    size_t column = 0;
    while (*text != '\0') {
        size_t word = strcspn(text, " ");
        if (column > 0 && column + word + 1 > 96) {
            dd_buffer_putc(out, '\n');
            column = 0;
        }
        dd_buffer_puts(out, column == 0 ? prefix : " ");
        dd_buffer_append(out, text, word);
        column += word + 1;
        text += word;
        text += *text == ' ';
    }
    dd_buffer_putc(out, '\n');
}

void dd_options_help(unsigned command, struct dd_buffer *out) {
    for (size_t i = 0; i < DD_ARRAY_LEN(options); i++) {
        const struct option *option = &options[i];
        if ((option->commands & command) == 0)
            continue;
        char text[512], name[64];
        environment_name(option, name);
        dd_buffer_printf(out, "  --%s%s%s\n", option->name, option->value != NULL ? " " : "",
                         option->value != NULL ? option->value : "");
        snprintf(text, sizeof text, "%s%s%s%s%s%s", option->help, option->choices != NULL ? " One of: " : "",
                 option->choices != NULL ? option->choices : "", option->choices != NULL ? "." : "",
                 option->fallback != NULL ? " Default: " : "", option->fallback != NULL ? option->fallback : "");
        put_wrapped(out, "      ", text);
        if (option->lasting)
            dd_buffer_printf(out, "      Environment: %s\n", name);
    }
}

void dd_options_sample(struct dd_buffer *out) {
    dd_buffer_puts(
        out, "# distilld.conf: read by `distilld serve` and `distilld run`; `distilld help config` prints this file.\n"
             "# The environment (DISTILLD_...) and the command line are stronger.  Lines are \"name = value\".\n");
    for (size_t i = 0; i < DD_ARRAY_LEN(options); i++) {
        const struct option *option = &options[i];
        if (!option->lasting || (option->commands & LOCAL) == 0)
            continue;
        dd_buffer_putc(out, '\n');
        put_wrapped(out, "# ", option->help);
        if (option->choices != NULL)
            dd_buffer_printf(out, "# One of: %s\n", option->choices);
        dd_buffer_printf(out, "# Default: %s\n#%s = %s\n", option->fallback, option->name, option->value);
    }
}
