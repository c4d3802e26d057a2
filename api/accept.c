/* Content negotiation: Accept and Accept-Encoding with q-values (RFC 9110 §12.5), If-None-Match lists (§13.1.2).
 * Malformed elements are skipped.  Pure functions, any thread.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/internal.h"

static const char *skip_space(const char *at) {
    return at + strspn(at, " \t");
}

struct element {
    const char *value; /* "text/csv", "*", "gzip" */
    size_t len;
    double q;
};

/* The q-value in the parameters at `at`, and where the element ends. */
static double element_q(const char *at, const char **ret_end) {
    double q = 1;
    while (*at == ';') {
        at = skip_space(at + 1);
        size_t n = strcspn(at, ";,");
        if (n >= 3 && (at[0] == 'q' || at[0] == 'Q') && at[1] == '=') {
            char *end;
            q = at[2] >= '0' && at[2] <= '1' ? strtod(at + 2, &end) : 0;
            q = q >= 0 && q <= 1 ? q : 0;
        }
        at += n;
    }
    *ret_end = at + strcspn(at, ",");
    return q;
}

/* Next element of the list; false at its end. */
static bool next_element(const char **at, struct element *ret_element) {
    const char *from = *at + strspn(*at, " \t,");
    if (*from == '\0') {
        return false;
    }
    size_t n = strcspn(from, ";,");
    const char *after = from + n;
    while (n > 0 && (from[n - 1] == ' ' || from[n - 1] == '\t')) {
        n--;
    }
    *ret_element = (struct element){.value = from, .len = n};
    ret_element->q = element_q(after, at);
    return true;
}

/* 0: the range does not fit the media type; 1: any; 2: its type; 3: exactly. */
static int range_fit(const struct element *range, const char *media) {
    if (range->len == 3 && memcmp(range->value, "*/*", 3) == 0) {
        return 1;
    }
    size_t type_len = strcspn(media, "/") + 1;
    if (range->len == type_len + 1 && range->value[type_len] == '*' &&
        strncasecmp(range->value, media, type_len) == 0) {
        return 2;
    }
    return range->len == strcspn(media, ";") && strncasecmp(range->value, media, range->len) == 0 ? 3 : 0;
}

const char *dd_accept_pick(const char *accept, const char *const *offers) {
    if (accept == NULL || *skip_space(accept) == '\0') {
        return offers[0];
    }
    const char *best = NULL;
    double best_q = 0;
    for (; *offers != NULL; offers++) {
        int fit = 0;
        double q = 0;
        struct element range;
        for (const char *at = accept; next_element(&at, &range);) {
            int this_fit = range_fit(&range, *offers);
            if (this_fit > fit) {
                fit = this_fit;
                q = range.q;
            }
        }
        if (q > best_q) {
            best_q = q;
            best = *offers;
        }
    }
    return best;
}

bool dd_accept_gzip(const char *accept_encoding) {
    struct element coding;
    double any = 0, gzip = -1;
    for (const char *at = accept_encoding == NULL ? "" : accept_encoding; next_element(&at, &coding);) {
        if (coding.len == 1 && coding.value[0] == '*') {
            any = coding.q;
        } else if (coding.len == 4 && strncasecmp(coding.value, "gzip", 4) == 0) {
            gzip = coding.q;
        }
    }
    return gzip >= 0 ? gzip > 0 : any > 0;
}

bool dd_etag_listed(const char *if_none_match, const char *etag) {
    size_t len = strlen(etag);
    for (const char *at = if_none_match; *at != '\0';) {
        at += strspn(at, " \t,");
        if (*at == '*') {
            return true;
        }
        if (strncmp(at, "W/", 2) == 0) {
            at += 2;
        }
        if (*at != '"') { /* not an entity tag: skip it */
            at += strcspn(at, ",");
            continue;
        }
        size_t n = strcspn(++at, "\"");
        if (n == len && memcmp(at, etag, n) == 0) {
            return true;
        }
        at += n;
        at += *at == '"';
    }
    return false;
}
