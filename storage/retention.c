/* retention: which ended runs are old, and the end of their rows.
 *
 * A run may go when it is finished, failed or cancelled, has no tag "keep", and no other run of its sweep is still to
 * come (a sweep decides from its rows).  The condition stands in one place and is asked again in the very statement
 * that deletes, so that a run which somebody has just taken up again stays.
 */
#include <stdlib.h>

#include "storage/db.h"

#define MAY_GO                                                                                                         \
    " state IN (3, 4, 5) AND finished_ms < ?1 AND NOT EXISTS (SELECT 1 FROM json_each(e.tags) WHERE value = 'keep')"   \
    " AND NOT EXISTS (SELECT 1 FROM experiments o WHERE o.sweep_id = e.sweep_id AND o.state IN (0, 1, 2))"

enum dd_status dd_storage_ended_list(struct dd_storage *storage, int64_t before_ms, unsigned states, int limit,
                                     struct dd_ended_run **ret_items, size_t *ret_count, struct dd_error *err) {
    struct dd_ended_run *items = dd_calloc((size_t)limit, sizeof *items);
    if (!items) {
        return dd_fail_memory(err, (size_t)limit * sizeof *items);
    }
    DB_GUARD(&storage->read);
    DB_QUERY query = db_query_start(&storage->read, "SELECT id, state, finished_ms FROM experiments e WHERE" MAY_GO
                                                    " AND (?2 >> state) & 1 ORDER BY finished_ms, id LIMIT ?3");
    db_bind_int(&query, before_ms);
    db_bind_int(&query, states);
    db_bind_int(&query, limit);
    size_t count = 0;
    bool row = true;
    enum dd_status status = DD_OK;
    while (status == DD_OK && row) {
        status = db_query_next(&query, &row, err);
        if (status == DD_OK && row) {
            items[count++] = (struct dd_ended_run){.id = db_column_int(&query, 0),
                                                   .state = (enum dd_state)db_column_int(&query, 1),
                                                   .finished_ms = db_column_int(&query, 2)};
        }
    }
    if (status != DD_OK) {
        free(items);
        return status;
    }
    *ret_items = items;
    *ret_count = count;
    return DD_OK;
}

enum dd_status dd_storage_ended_delete(struct dd_storage *storage, int64_t id, int64_t before_ms, bool *ret_deleted,
                                       struct dd_error *err) {
    int changes = 0;
    DB_GUARD(&storage->write);
    DB_QUERY query = db_query_start(&storage->write, "DELETE FROM experiments AS e WHERE" MAY_GO " AND id = ?2");
    db_bind_int(&query, before_ms);
    db_bind_int(&query, id);
    enum dd_status status = db_query_run(&query, &changes, err);
    if (status == DD_OK) {
        *ret_deleted = changes > 0;
    }
    return status;
}
