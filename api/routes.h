/* What a route is.  The one table (routes.c) drives dispatch, parameter validation, Allow, and openapi.json. */
#ifndef DD_API_ROUTES_H
#define DD_API_ROUTES_H

#include "api/api.h"

enum dd_field_type {
    DD_FIELD_STRING,    /* least…most: length in bytes */
    DD_FIELD_NAME,      /* dd_name_valid */
    DD_FIELD_INT,       /* least…most */
    DD_FIELD_NUMBER,    /* least…most, both included */
    DD_FIELD_BOOL,      /* 1, 0, true, false */
    DD_FIELD_ENUM,      /* one of `values` */
    DD_FIELD_ENUM_LIST, /* comma-separated, each one of `values` */
    DD_FIELD_INT_LIST,  /* comma-separated; least…most: how many */
    DD_FIELD_SORT,      /* one of `values`, "-" before it for descending */
    DD_FIELD_STRINGS,   /* JSON bodies only: array of strings; least…most: how many */
    DD_FIELD_PAIRS,     /* JSON bodies only: array of [string, string] */
    DD_FIELD_FILE,      /* forms only: at most one file */
    DD_FIELD_FILES,     /* forms only: any number of files */
};

/* A query parameter, a form field or a member of a simple JSON body. */
struct dd_field {
    const char *name;
    enum dd_field_type type;
    bool required;
    double least, most;
    const char *values;    /* space-separated */
    const char *otherwise; /* the default, as text; NULL = none */
    const char *help;
};

enum dd_method { DD_GET = 1, DD_POST = 2, DD_PATCH = 4, DD_DELETE = 8 };

enum dd_route_flags {
    DD_ROUTE_JSON = 1u << 0,      /* takes a JSON object */
    DD_ROUTE_MULTIPART = 1u << 1, /* takes multipart/form-data */
    DD_ROUTE_BODY_OPTIONAL = 1u << 2,
    DD_ROUTE_SPEC = 1u << 3,         /* the JSON is an experiment's spec, checked by the operation */
    DD_ROUTE_SPEC_PART = 1u << 4,    /* … or some fields of one */
    DD_ROUTE_LIST = 1u << 5,         /* next_cursor and Link */
    DD_ROUTE_SLOW = 1u << 6,         /* may take longer than a commit: runs on a request thread */
    DD_ROUTE_HEAVY = 1u << 7,        /* may take seconds: leaves one request thread for the merely slow */
    DD_ROUTE_SLOW_DRY_RUN = 1u << 8, /* slow only with ?dry_run=1 */
    DD_ROUTE_IDEMPOTENT = 1u << 9,   /* honours Idempotency-Key */
    DD_ROUTE_FILE = 1u << 10,        /* answers a file */
    DD_ROUTE_OPEN = 1u << 11,        /* needs no token */
    DD_ROUTE_NO_CACHE = 1u << 12,    /* changes with every look: no ETag */
    DD_ROUTE_SWEEP = 1u << 13,       /* the JSON is a sweep over specs, checked by the operation */
    DD_ROUTE_QUESTION = 1u << 14,    /* a POST that changes nothing: a read-only token may ask */
    DD_ROUTE_KEPT = 1u << 15, /* a function of what the daemon's revision counts (api.h): need not be made again */
    DD_ROUTE_LIVE = 1u << 16, /* … and of how far the running experiments are, or of the daemon's own counters */
};

enum dd_builtin { DD_BUILTIN_NONE = 0, DD_BUILTIN_OPENAPI, DD_BUILTIN_EVENTS, DD_BUILTIN_HEALTH, DD_BUILTIN_SESSION };

struct dd_route {
    enum dd_method method;
    const char *pattern; /* "/api/v1/experiments/{id}"; captures: {id} {name} {epoch} */
    size_t op;           /* offset of the operation in struct dd_api_ops; unused by builtins */
    enum dd_builtin builtin;
    unsigned flags;
    int success;                                /* documented status */
    const struct dd_field *query, *form, *body; /* each ends with name NULL; NULL = none */
    const char *produces[3];                    /* the first is the default */
    const char *response;                       /* name of a schema in schemas.c; NULL = no JSON */
    const char *tag, *operation_id, *summary;
};

#define DD_API_PREFIX "/api/v1"

const struct dd_route *dd_routes(size_t *ret_count);
/* The operation behind a route; NULL for builtins and for what is not built in. */
dd_api_fn *dd_route_op(const struct dd_route *route, const struct dd_api_ops *ops);
bool dd_route_enabled(const struct dd_route *route, const struct dd_api_ops *ops);

struct dd_captures {
    int64_t id;
    char name[65], epoch[16];
};
/* Whether the raw (still percent-encoded) path fits the pattern. */
bool dd_route_match(const char *pattern, const char *path, struct dd_captures *ret_captures);
/* Finds the route; NULL when there is none: then *ret_allow is 0 (no such path) or the methods the path has. */
const struct dd_route *dd_route_find(const struct dd_api_ops *ops, const char *method, const char *path,
                                     struct dd_captures *ret_captures, unsigned *ret_allow);
void dd_allow_text(unsigned methods, char *out, size_t out_bytes); /* "GET, HEAD, POST, OPTIONS" */
const char *dd_method_name(enum dd_method method);

#endif
