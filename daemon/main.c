/* distilld: the table of subcommands and what they share.
 * Threads: main only.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/command.h"

static const struct dd_command commands[] = {
    {"serve", DD_FOR_SERVE, "", "run the daemon",
     "Takes experiments over HTTP, trains them in worker threads, shows them in the dashboard. SIGTERM and Ctrl-C stop "
     "it\n"
     "cleanly within five seconds; what was training goes on at the next start. SIGHUP reads the\nlog level, the "
     "certificate and its key again.\n",
     0, 0, dd_serve_command},
    {"run", DD_FOR_RUN, "SPEC.json", "train one experiment in the foreground, without a daemon",
     "SPEC.json is what POST /experiments takes; - reads it from standard input. dataset, teacher, model, vocabulary "
     "and\n"
     "init may be paths: a data file (train; a dev split is made), a directory with train, dev and test files, a "
     "model\n"
     "directory. Other names are looked up in --data-dir. Ctrl-C writes a checkpoint; the same command goes on from "
     "it.\n",
     1, 1, dd_run_command},
    {"predict", DD_FOR_PREDICT, "MODEL [TEXT…]", "classify texts with a model directory",
     "Each TEXT, or without any each line of standard input, gives one line: label, tab, score. A tab in a line of\n"
     "standard input separates the two texts of a pair.\n",
     1, 1 << 20, dd_predict_command},
    {"inspect", DD_FOR_INSPECT, "MODEL", "show what a model directory or file holds", "", 1, 1, dd_inspect_command},
    {"prune", DD_FOR_PRUNE, "MODEL", "make a model smaller: only the vocabulary that given texts need",
     "Its answers to these texts stay the same to the bit. Words of other texts may be cut into smaller pieces or be\n"
     "unknown: give all the texts there are (dataset, texts or both), and think of keep-characters.\n",
     1, 1, dd_prune_command},
    {"quantize", DD_FOR_QUANTIZE, "MODEL", "make a classifier smaller and faster: int8 weights",
     "A quarter of the size; faster where the CPU multiplies bytes (VNNI). It answers and can do nothing else: keep "
     "the\n"
     "model it was made from. With dataset, accuracy and macro F1 of both are measured, shown, and put into the "
     "card.\n",
     1, 1, dd_quantize_command},
    {"submit", DD_FOR_CLIENT | DD_FOR_SUBMIT, "SPEC.json | - | FIELD=VALUE…", "queue an experiment on a daemon",
     "For example: distilld submit dataset=milk teacher=milk-teacher layers=3 optimizer.type=sgd optimizer.lr=0.05\n",
     1, 1 << 10, dd_submit_command},
    {"watch", DD_FOR_CLIENT, "ID", "follow an experiment to its end",
     "Exits 0 when it finished, 1 when it failed or was cancelled.\n", 1, 1, dd_watch_command},
    {"list", DD_FOR_CLIENT | DD_FOR_LIST, "", "list a daemon's experiments", "", 0, 0, dd_list_command},
    {"show", DD_FOR_CLIENT | DD_FOR_SHOW, "ID", "show one experiment", "", 1, 1, dd_show_command},
    {"token", DD_FOR_TOKEN, "create NAME | list | revoke NAME", "make, list or revoke the tokens that a daemon accepts",
     "Works on the data directory; a running daemon takes notice at once. A new token is printed once and kept as a "
     "hash.\n"
     "As soon as there is one, callers must send a token: \"Authorization: Bearer TOKEN\"; the dashboard asks for "
     "it.\n",
     1, 2, dd_token_command},
    {"backup", DD_FOR_BACKUP, "DEST", "copy a data directory, also while its daemon works",
     "DEST must be missing or empty. The cache of teachers' logits is not copied: it is computed again. DEST/MANIFEST "
     "has\n"
     "the SHA-256 of every file, so `sha256sum -c MANIFEST` checks a backup. Run by root it works as the owner of the "
     "data\n"
     "directory, who must be able to reach DEST.\n",
     1, 1, dd_backup_command},
    {"restore", DD_FOR_BACKUP, "BACKUP", "fill an empty data directory from a backup",
     "Every file is held against its checksum. Runs go on where the backup found them, to the same bits.\n", 1, 1,
     dd_restore_command},
    {"gc", DD_FOR_CLIENT | DD_FOR_GC, "", "remove now what a daemon's retention does not keep",
     "What is kept is configured with keep-runs-days, keep-checkpoints-days, keep-checkpoints-bytes and "
     "keep-cache-bytes;\n"
     "without them nothing is removed. The daemon looks by itself at its start and once an hour.\n",
     0, 0, dd_gc_command},
    {"doctor", DD_FOR_SERVE | DD_FOR_DOCTOR, "", "look whether machine, configuration and data are as they should be",
     "Takes the options of serve and looks at what serve would do with them, also while it runs: processor, limits, "
     "clock,\n"
     "address, tokens, rights, space, the database, and the checksum of every data set, model, checkpoint and cache "
     "file.\n"
     "Exits 1 when something fails; a warning is no failure.\n",
     0, 0, dd_doctor_command},
    {"version", 0, "", "print the version", "", 0, 0, dd_version_command},
    {"help", 0, "[COMMAND | config]", "this text, a command's, or the sample configuration file", "", 0, 1,
     dd_help_command},
};

const struct dd_command *dd_commands(size_t *ret_count) {
    *ret_count = DD_ARRAY_LEN(commands);
    return commands;
}

static const struct dd_command *find_command(const char *name) {
    for (size_t i = 0; i < DD_ARRAY_LEN(commands); i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

void dd_command_help(const struct dd_command *command, FILE *out) {
    fprintf(out, "Usage: distilld %s%s%s%s\n\n%c%s.\n", command->name, command->options != 0 ? " [OPTIONS]" : "",
            command->arguments[0] != '\0' ? " " : "", command->arguments, command->summary[0] - 'a' + 'A',
            command->summary + 1);
    if (command->details[0] != '\0')
        fprintf(out, "%s", command->details);
    struct dd_buffer text;
    dd_buffer_init(&text, 1 << 20);
    dd_options_help(command->options, &text);
    if (text.len > 0)
        fprintf(out, "\nOptions:\n%s", text.data);
    dd_buffer_release(&text);
}

static void print_overview(FILE *out) {
    fprintf(out,
            "Usage: distilld COMMAND [OPTIONS] [ARGUMENTS]\n\n"
            "distilld distils BERT text classifiers: a daemon that queues experiments, trains them, and shows their\n"
            "curves; and a command line that talks to it or trains without it.\n\nCommands:\n");
    for (size_t i = 0; i < DD_ARRAY_LEN(commands); i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fprintf(
        out,
        "\n`distilld COMMAND --help` tells more.\n\n"
        "Exit codes: 0 done; 1 refused or failed; 64 wrong usage; 65 the input is wrong; 66 not found; 70 a bug of\n"
        "ours; 71 no memory; 74 input or output failed; 75 try again later; 77 not allowed; 130 interrupted.\n");
}

int dd_help_command(const struct dd_options *options, const char *const *args) {
    (void)options;
    if (args[0] == NULL) {
        print_overview(stdout);
        return 0;
    }
    if (strcmp(args[0], "config") == 0) {
        struct dd_buffer text;
        dd_buffer_init(&text, 1 << 20);
        dd_options_sample(&text);
        fputs(text.data, stdout);
        dd_buffer_release(&text);
        return 0;
    }
    const struct dd_command *command = find_command(args[0]);
    if (command == NULL) {
        fprintf(stderr, "distilld: there is no command \"%s\"; `distilld help` lists them\n", args[0]);
        return DD_EXIT_USAGE;
    }
    dd_command_help(command, stdout);
    return 0;
}

int dd_version_command(const struct dd_options *options, const char *const *args) {
    (void)options;
    (void)args;
    const char *blas = dd_engine_blas();
    printf("distilld %s (%s, %s%s)\n", DD_VERSION, dd_engine_cpu(), blas != NULL ? blas : "no BLAS",
           dd_engine_has_bf16() ? ", bf16" : "");
    return 0;
}

int dd_report_error(const struct dd_error *err) {
    fprintf(stderr, "distilld: %s\n", err->message);
    return strcmp(err->code, "usage") == 0 ? DD_EXIT_USAGE : dd_status_exit_code(err->status);
}

void dd_report_faults(const struct dd_faults *faults) {
    for (size_t i = 0; i < faults->count; i++)
        fprintf(stderr, "  %s: %s\n", faults->items[i].pointer[0] != '\0' ? faults->items[i].pointer : "/",
                faults->items[i].detail);
    if (faults->total > faults->count)
        fprintf(stderr, "  and %zu more\n", faults->total - faults->count);
}

int dd_cores(const struct dd_options *options) {
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return options->threads > 0 ? (int)options->threads : (int)DD_MIN(DD_MAX(cores, 1), 256);
}

enum dd_status dd_read_stream(FILE *file, size_t max_bytes, char **ret_text, size_t *ret_len, struct dd_error *err) {
    struct dd_buffer buffer;
    dd_buffer_init(&buffer, max_bytes);
    char chunk[16384];
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, file)) > 0;)
        dd_buffer_append(&buffer, chunk, n);
    enum dd_status status = ferror(file) ? dd_fail_errno(err, errno, "standard input") : dd_buffer_check(&buffer, err);
    if (status == DD_OK) {
        *ret_text = dd_buffer_take(&buffer, ret_len);
        if (*ret_text == NULL)
            status = dd_fail_memory(err, max_bytes);
    }
    dd_buffer_release(&buffer);
    return status;
}

static int run_command(const struct dd_command *command, int argc, char **argv) {
    const char **args = dd_calloc((size_t)argc + 1, sizeof *args);
    struct dd_options options;
    struct dd_error err = {0};
    if (args == NULL) {
        (void)dd_fail_memory(&err, 0);
        return dd_report_error(&err);
    }
    int code, count = 0;
    if (dd_options_read(command->options, argc, argv, &options, args, &err) != DD_OK) {
        code = dd_report_error(&err);
        if (code == DD_EXIT_USAGE)
            fprintf(stderr, "`distilld %s --help` lists what it takes\n", command->name);
        free(args);
        return code;
    }
    while (args[count] != NULL)
        count++;
    if (options.help) {
        dd_command_help(command, stdout);
        code = 0;
    } else if (count < command->min_args || count > command->max_args) {
        fprintf(stderr, "distilld: usage: distilld %s %s\n", command->name, command->arguments);
        code = DD_EXIT_USAGE;
    } else {
        code = command->run(&options, args);
    }
    dd_options_release(&options);
    free(args);
    return code;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        print_overview(stderr);
        return DD_EXIT_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0)
        name = "version";
    else if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        name = "help";
    const struct dd_command *command = find_command(name);
    if (command == NULL) {
        const char *near = NULL;
        int best = INT_MAX;
        for (size_t i = 0; i < DD_ARRAY_LEN(commands); i++)
            if (dd_near_miss(name, commands[i].name, &best))
                near = commands[i].name;
        fprintf(stderr, "distilld: there is no command \"%s\"%s%s%s\n", name, near != NULL ? "; did you mean \"" : "",
                near != NULL ? near : "", near != NULL ? "\"?" : "; `distilld help` lists them");
        return DD_EXIT_USAGE;
    }
    setenv("OPENBLAS_NUM_THREADS", "1", 1); /* one product, one thread; OpenBLAS reads it when the engine opens it */
    int code = run_command(command, argc - 2, argv + 2);
    if (fflush(stdout) != 0 || ferror(stdout))
        return code != 0 ? code : dd_status_exit_code(DD_IO);
    return code;
}
