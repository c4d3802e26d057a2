/* A form on its way in: files stream to the upload directory, fields to memory, against the form table of the route.
 * Faults of names and values are collected until the end, since the rest of the body has to be read anyway; a full disk
 * or a malformed body ends it at once.  Temporary files are called up-<random> and go away with the upload unless the
 * operation has renamed them.  Owner: one request (HTTP thread while the body arrives, then whoever runs it).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/internal.h"

#define MAX_FIELD_BYTES (64u << 10)
#define MAX_FIELDS_BYTES (1u << 20) /* of all fields together */

struct dd_upload {
    char *dir;
    const struct dd_field *form;
    struct dd_multipart *multipart;
    struct dd_sha256 *hash, *file_hash; /* NULL: not asked for */
    struct dd_faults faults;
    struct dd_api_file files[DD_MAX_PARTS];
    size_t n_files;
    struct dd_api_param fields[DD_MAX_PARTS];
    size_t n_fields, field_bytes;

    const struct dd_field *current; /* of the part being read; NULL: it is discarded */
    int fd;
    struct dd_buffer value;
};

static bool is_file(const struct dd_field *field) {
    return field->type == DD_FIELD_FILE || field->type == DD_FIELD_FILES;
}

static bool already(const struct dd_upload *u, const struct dd_field *field) {
    for (size_t i = 0; i < u->n_fields; i++) {
        if (u->fields[i].name == field->name) {
            return true;
        }
    }
    for (size_t i = 0; i < u->n_files && field->type == DD_FIELD_FILE; i++) {
        if (u->files[i].field == field->name) {
            return true;
        }
    }
    return false;
}

static enum dd_status begin_file(struct dd_upload *u, const struct dd_part *part, struct dd_error *err) {
    uint8_t random[12];
    char hex[2 * sizeof random + 1], path[4096];
    enum dd_status status = dd_random_bytes(random, sizeof random, err);
    if (status != DD_OK) {
        return status;
    }
    dd_hex(random, sizeof random, hex);
    if ((size_t)snprintf(path, sizeof path, "%s/up-%s", u->dir, hex) >= sizeof path) {
        return dd_fail(err, DD_INTERNAL, "path_too_long", "the upload directory's path is too long");
    }
    char *owned_path = dd_strdup(path);
    char *filename = dd_strdup(part->filename[0] != '\0' ? part->filename : part->name);
    if (owned_path == NULL || filename == NULL) {
        free(owned_path);
        free(filename);
        return dd_fail_memory(err, sizeof path);
    }
    u->fd = DD_FAILABLE("open", open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0640));
    if (u->fd < 0) {
        int saved = errno;
        free(owned_path);
        free(filename);
        return dd_fail_errno(err, saved, "cannot create a file for the upload");
    }
    u->files[u->n_files++] =
        (struct dd_api_file){.field = u->current->name, .filename = filename, .path = owned_path, .bytes = 0};
    return DD_OK;
}

static enum dd_status begin_part(void *context, const struct dd_part *part, struct dd_error *err) {
    struct dd_upload *u = context;
    char pointer[128];
    snprintf(pointer, sizeof pointer, "/%.120s", part->name);
    u->current = dd_field_find(u->form, part->name);
    if (u->current == NULL) {
        dd_faults_add(&u->faults, pointer, "there is no such form field here");
    } else if (already(u, u->current)) {
        dd_faults_add(&u->faults, pointer, "is given more than once");
        u->current = NULL;
    } else if (!is_file(u->current) && part->has_filename) {
        dd_faults_add(&u->faults, pointer, "must be text, not a file");
        u->current = NULL;
    }
    if (u->hash != NULL) {
        dd_sha256_update(u->hash, part->name, strlen(part->name) + 1);
        dd_sha256_update(u->hash, part->filename, strlen(part->filename) + 1);
    }
    dd_buffer_clear(&u->value);
    return u->current != NULL && is_file(u->current) ? begin_file(u, part, err) : DD_OK;
}

static enum dd_status write_all(int fd, const char *bytes, size_t count, struct dd_error *err) {
    while (count > 0) {
        int injected = dd_failpoint("write");
        ssize_t written = injected != 0 ? -1 : write(fd, bytes, count);
        if (written < 0 && (injected != 0 || errno != EINTR)) {
            return dd_fail_errno(err, injected != 0 ? injected : errno, "cannot store the upload");
        }
        if (written > 0) {
            bytes += written;
            count -= (size_t)written;
        }
    }
    return DD_OK;
}

static enum dd_status part_data(void *context, const char *bytes, size_t count, struct dd_error *err) {
    struct dd_upload *u = context;
    if (u->hash != NULL) {
        dd_sha256_update(u->file_hash, bytes, count);
    }
    if (u->current == NULL) {
        return DD_OK;
    }
    if (!is_file(u->current)) {
        dd_buffer_append(&u->value, bytes, count);
        if (u->value.failed && !u->value.over_max) {
            return dd_fail_memory(err, count);
        }
        if (u->value.failed) {
            return dd_fail(err, DD_TOO_LARGE, "field_too_large", "the form field %s is longer than %u bytes",
                           u->current->name, MAX_FIELD_BYTES);
        }
        return DD_OK;
    }
    u->files[u->n_files - 1].bytes += count;
    return write_all(u->fd, bytes, count, err);
}

static enum dd_status end_field(struct dd_upload *u, struct dd_error *err) {
    char pointer[128];
    snprintf(pointer, sizeof pointer, "/%.120s", u->current->name);
    u->field_bytes += u->value.len;
    if (u->field_bytes > MAX_FIELDS_BYTES) {
        return dd_fail(err, DD_TOO_LARGE, "field_too_large", "the form's fields are longer than %u bytes together",
                       MAX_FIELDS_BYTES);
    }
    if (memchr(u->value.data, '\0', u->value.len) != NULL || !dd_utf8_valid(u->value.data, u->value.len)) {
        dd_faults_add(&u->faults, pointer, "must be UTF-8 without NUL");
        return DD_OK;
    }
    if (dd_field_check_text(u->current, u->value.data, pointer, &u->faults)) {
        char *value = dd_strndup(u->value.data, u->value.len);
        if (value == NULL) {
            return dd_fail_memory(err, u->value.len);
        }
        u->fields[u->n_fields++] = (struct dd_api_param){u->current->name, value};
    }
    return DD_OK;
}

static enum dd_status end_part(void *context, struct dd_error *err) {
    struct dd_upload *u = context;
    if (u->hash != NULL) {
        uint8_t digest[DD_SHA256_BYTES];
        dd_sha256_digest(u->file_hash, digest);
        dd_sha256_update(u->hash, digest, sizeof digest);
    }
    if (u->current == NULL) {
        return DD_OK;
    }
    if (!is_file(u->current)) {
        return end_field(u, err);
    }
    int fd = u->fd;
    u->fd = -1;
    return close(fd) == 0 ? DD_OK : dd_fail_errno(err, errno, "cannot store the upload");
}

enum dd_status dd_upload_new(const char *upload_dir, const char *content_type, const struct dd_field *form, bool hashed,
                             struct dd_upload **ret_upload, struct dd_error *err) {
    struct dd_upload *u = dd_calloc(1, sizeof *u);
    if (u == NULL) {
        return dd_fail_memory(err, sizeof *u);
    }
    u->fd = -1;
    u->form = form;
    dd_faults_init(&u->faults);
    dd_buffer_init(&u->value, MAX_FIELD_BYTES);
    u->dir = dd_strdup(upload_dir);
    u->hash = hashed ? dd_sha256_new() : NULL;
    u->file_hash = hashed ? dd_sha256_new() : NULL;
    struct dd_multipart_sink sink = {u, begin_part, part_data, end_part};
    enum dd_status status = u->dir == NULL || (hashed && (u->hash == NULL || u->file_hash == NULL))
                                ? dd_fail_memory(err, sizeof *u)
                                : dd_multipart_new(content_type, &sink, &u->multipart, err);
    if (status != DD_OK) {
        dd_upload_free(u);
        return status;
    }
    *ret_upload = u;
    return DD_OK;
}

enum dd_status dd_upload_feed(struct dd_upload *upload, const char *bytes, size_t count, struct dd_error *err) {
    return dd_multipart_feed(upload->multipart, bytes, count, err);
}

enum dd_status dd_upload_finish(struct dd_upload *upload, struct dd_faults *faults, struct dd_error *err) {
    enum dd_status status = dd_multipart_finish(upload->multipart, err);
    if (status != DD_OK) {
        return status;
    }
    for (const struct dd_field *field = upload->form; field->name != NULL; field++) {
        bool given = !field->required;
        for (size_t i = 0; i < upload->n_fields && !given; i++) {
            given = upload->fields[i].name == field->name;
        }
        for (size_t i = 0; i < upload->n_files && !given; i++) {
            given = upload->files[i].field == field->name;
        }
        for (size_t i = 0; i < upload->faults.count && !given; i++) { /* given, but wrong: that is said already */
            given = strcmp(upload->faults.items[i].pointer + 1, field->name) == 0;
        }
        if (!given) {
            char pointer[128];
            snprintf(pointer, sizeof pointer, "/%.120s", field->name);
            dd_faults_add(&upload->faults, pointer, "is required: %s", field->help);
        }
    }
    for (size_t i = 0; i < upload->faults.count; i++) {
        dd_faults_add(faults, upload->faults.items[i].pointer, "%s", upload->faults.items[i].detail);
    }
    return DD_OK;
}

const struct dd_api_file *dd_upload_files(const struct dd_upload *upload, size_t *ret_count) {
    *ret_count = upload->n_files;
    return upload->files;
}

const struct dd_api_param *dd_upload_fields(const struct dd_upload *upload, size_t *ret_count) {
    *ret_count = upload->n_fields;
    return upload->fields;
}

void dd_upload_digest(struct dd_upload *upload, uint8_t out[DD_SHA256_BYTES]) {
    dd_sha256_digest(upload->hash, out);
}

void dd_upload_free(struct dd_upload *upload) {
    if (upload == NULL) {
        return;
    }
    if (upload->fd >= 0) {
        close(upload->fd);
    }
    for (size_t i = 0; i < upload->n_files; i++) {
        (void)unlink(upload->files[i].path); /* ENOENT: the operation has taken it */
        dd_free_ptr(&upload->files[i].path);
        dd_free_ptr(&upload->files[i].filename);
    }
    for (size_t i = 0; i < upload->n_fields; i++) {
        dd_free_ptr(&upload->fields[i].value);
    }
    dd_faults_release(&upload->faults);
    dd_buffer_release(&upload->value);
    dd_sha256_free(upload->hash);
    dd_sha256_free(upload->file_hash);
    dd_multipart_free(upload->multipart);
    free(upload->dir);
    free(upload);
}
