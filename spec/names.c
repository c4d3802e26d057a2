/* Names of data sets and models, and near misses between names.
 * Threads: pure functions, any thread.
 */
#include <limits.h>
#include <string.h>

#include "spec/spec.h"

#define MAX_COMPARED 64

bool dd_name_valid(const char *name) {
    size_t length = strlen(name);
    if (length == 0 || length >= DD_NAME_BYTES)
        return false;
    if (strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789._-") != length)
        return false;
    return strchr("._-", name[0]) == NULL;
}

/* Optimal string alignment distance, three rows of the table at a time. */
int dd_edit_distance(const char *a, const char *b) {
    size_t n = strnlen(a, MAX_COMPARED), m = strnlen(b, MAX_COMPARED);
    int rows[3][MAX_COMPARED + 1];
    for (size_t j = 0; j <= m; j++)
        rows[0][j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int *row = rows[i % 3];
        const int *above = rows[(i - 1) % 3], *above2 = rows[(i + 1) % 3];
        row[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int best = above[j - 1] + (a[i - 1] != b[j - 1]);
            best = DD_MIN(best, above[j] + 1);
            best = DD_MIN(best, row[j - 1] + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                best = DD_MIN(best, above2[j - 2] + 1);
            row[j] = best;
        }
    }
    return rows[n % 3][m];
}

bool dd_near_miss(const char *given, const char *candidate, int *best_distance) {
    size_t length = DD_MAX(strlen(given), strlen(candidate));
    int distance = dd_edit_distance(given, candidate);
    int tolerance = length <= 3 ? 1 : (int)DD_MIN(length / 3 + 1, (size_t)8);
    bool prefix = strlen(given) >= 3 && strncmp(given, candidate, strlen(given)) == 0;
    if (prefix)
        distance = DD_MIN(distance, tolerance);
    if (distance > tolerance || distance >= *best_distance)
        return false;
    *best_distance = distance;
    return true;
}
