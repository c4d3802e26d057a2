/* Data sets, models and idempotency keys. */
#include "tests/unit/storage/fixture.h"

static int64_t add(struct fixture *f, enum dd_asset_kind kind, const char *name) {
    char copy[128], dir[] = "datasets/1", info[] = "{\"classes\":[]}", type[] = "classifier";
    int64_t id = 0;
    snprintf(copy, sizeof copy, "%s", name);
    struct dd_asset asset = {
        .name = copy, .dir = dir, .owned = true, .info_json = info, .kind = type, .experiment_id = 4};
    assert_ok(f, dd_storage_asset_insert(f->storage, kind, &asset, &id, &f->err));
    return id;
}

static void test_assets(void **state) {
    struct fixture *f = *state;
    struct dd_asset got = {0};
    int64_t id = add(f, DD_ASSET_DATASET, "milk");
    add(f, DD_ASSET_MODEL, "milk"); /* its own name space */
    assert_ok(f, dd_storage_asset_get(f->storage, DD_ASSET_DATASET, "milk", &got, &f->err));
    assert_int_equal(got.id, id);
    assert_string_equal(got.name, "milk");
    assert_string_equal(got.dir, "datasets/1");
    assert_string_equal(got.info_json, "{\"classes\":[]}");
    assert_string_equal(got.kind, "classifier");
    assert_true(got.owned);
    assert_int_equal(got.experiment_id, 4);
    assert_int_equal(got.revision, 1);
    assert_true(got.created_ms > 0);
    int64_t other = 0;
    assert_fails(f, DD_CONFLICT, "name_taken",
                 dd_storage_asset_insert(f->storage, DD_ASSET_DATASET, &got, &other, &f->err));
    assert_int_equal(other, 0);
    dd_asset_release(&got);
    assert_fails(f, DD_NOT_FOUND, "dataset_not_found",
                 dd_storage_asset_get(f->storage, DD_ASSET_DATASET, "none", &got, &f->err));
    assert_fails(f, DD_NOT_FOUND, "model_not_found",
                 dd_storage_asset_delete(f->storage, DD_ASSET_MODEL, "none", &got, &f->err));
    assert_ok(f, dd_storage_asset_delete(f->storage, DD_ASSET_DATASET, "milk", &got, &f->err));
    assert_string_equal(got.dir, "datasets/1");
    dd_asset_release(&got);
    assert_true(add(f, DD_ASSET_DATASET, "milk") > id); /* the name again, the id never */
    assert_ok(f, dd_storage_asset_delete(f->storage, DD_ASSET_DATASET, "milk", NULL, &f->err));
}

static void test_in_use(void **state) {
    struct fixture *f = *state;
    static char spec[] =
        "{\"init\":\"start\",\"vocabulary\":\"words\",\"layers\":3,\"teachers\":[\"second\",\"third\"]}",
                base[] = "encoder";
    struct dd_experiment row = sample("x");
    int64_t id = 0;
    row.spec_json = spec;
    row.base_model = base;
    assert_ok(f, dd_storage_experiment_insert(f->storage, &row, &id, &f->err));
    static const struct {
        enum dd_asset_kind kind;
        const char *name;
        bool used;
    } cases[] = {
        {DD_ASSET_DATASET, "milk", true},   {DD_ASSET_MODEL, "milk-teacher", true}, {DD_ASSET_MODEL, "encoder", true},
        {DD_ASSET_MODEL, "start", true},    {DD_ASSET_MODEL, "second", true},       {DD_ASSET_MODEL, "third", true},
        {DD_ASSET_DATASET, "third", false}, {DD_ASSET_MODEL, "words", true},        {DD_ASSET_MODEL, "milk", false},
        {DD_ASSET_DATASET, "other", false}, {DD_ASSET_DATASET, "start", false}};
    static const struct {
        int state;
        bool holds;
    } states[] = {{DD_QUEUED, true},    {DD_RUNNING, true}, {DD_PAUSED, true},
                  {DD_FINISHED, false}, {DD_FAILED, false}, {DD_CANCELLED, false}};
    for (size_t s = 0; s < DD_ARRAY_LEN(states); s++) {
        char sql[96];
        snprintf(sql, sizeof sql, "UPDATE experiments SET state = %d", states[s].state);
        raw_sql(f, sql);
        for (size_t c = 0; c < DD_ARRAY_LEN(cases); c++) {
            add(f, cases[c].kind, cases[c].name);
            enum dd_status status = dd_storage_asset_delete(f->storage, cases[c].kind, cases[c].name, NULL, &f->err);
            assert_int_equal(status, states[s].holds && cases[c].used ? DD_CONFLICT : DD_OK);
            if (status != DD_OK) {
                assert_string_equal(f->err.code, "in_use");
                assert_non_null(strstr(f->err.message, cases[c].name));
            }
            raw_sql(f, "DELETE FROM assets");
        }
    }
    /* A spec that is no JSON must not stop a deletion with an error. */
    raw_sql(f, "UPDATE experiments SET state = 0, spec = '{broken'");
    add(f, DD_ASSET_MODEL, "start");
    assert_ok(f, dd_storage_asset_delete(f->storage, DD_ASSET_MODEL, "start", NULL, &f->err));
}

static void test_list(void **state) {
    struct fixture *f = *state;
    struct dd_asset *items = NULL;
    size_t count = 0, seen = 0;
    char *cursor = NULL, previous[64] = "";
    for (int i = 0; i < 23; i++) {
        char name[32];
        snprintf(name, sizeof name, "m%02d%s", (i * 7) % 23, i % 2 ? "_x" : "-x");
        add(f, DD_ASSET_MODEL, name);
    }
    add(f, DD_ASSET_DATASET, "m-data");
    do {
        char *next = NULL;
        assert_ok(f,
                  dd_storage_asset_list(f->storage, DD_ASSET_MODEL, NULL, cursor, 5, &items, &count, &next, &f->err));
        for (size_t i = 0; i < count; i++) {
            assert_true(strcmp(previous, items[i].name) < 0);
            snprintf(previous, sizeof previous, "%s", items[i].name);
        }
        seen += count;
        dd_assets_free(items, count);
        free(cursor);
        cursor = next;
        if (seen == 5) { /* a cursor of models is none of data sets */
            assert_fails(
                f, DD_INVALID, "cursor_invalid",
                dd_storage_asset_list(f->storage, DD_ASSET_DATASET, NULL, cursor, 5, &items, &count, &next, &f->err));
        }
    } while (cursor);
    assert_int_equal(seen, 23);
    assert_ok(f, dd_storage_asset_list(f->storage, DD_ASSET_MODEL, "_", NULL, 50, &items, &count, &cursor, &f->err));
    assert_int_equal(count, 11);
    assert_null(cursor);
    dd_assets_free(items, count);
    assert_fails(f, DD_INVALID, "limit_invalid",
                 dd_storage_asset_list(f->storage, DD_ASSET_MODEL, NULL, NULL, 0, &items, &count, &cursor, &f->err));
    assert_fails(f, DD_INVALID, "cursor_invalid",
                 dd_storage_asset_list(f->storage, DD_ASSET_MODEL, NULL, "x", 5, &items, &count, &cursor, &f->err));
}

static void test_idempotency(void **state) {
    struct fixture *f = *state;
    char hash[] = "abc", other_hash[] = "abd", location[] = "/api/v1/experiments/1", body[] = "{\"id\":1}";
    struct dd_idempotent record = {hash, 201, location, body}, got = {0};
    assert_fails(f, DD_NOT_FOUND, "idempotency_key_new", dd_storage_idempotent_get(f->storage, "k", &got, &f->err));
    assert_ok(f, dd_storage_idempotent_put(f->storage, "k", &record, &f->err));
    assert_ok(f, dd_storage_idempotent_put(f->storage, "k", &record, &f->err));
    assert_ok(f, dd_storage_idempotent_get(f->storage, "k", &got, &f->err));
    assert_string_equal(got.request_hash, hash);
    assert_int_equal(got.status, 201);
    assert_string_equal(got.location, location);
    assert_string_equal(got.body, body);
    dd_idempotent_release(&got);
    assert_fails(f, DD_NOT_FOUND, "idempotency_key_new", dd_storage_idempotent_get(f->storage, "K", &got, &f->err));
    struct dd_idempotent foreign = {other_hash, 200, NULL, NULL};
    assert_fails(f, DD_CONFLICT, "idempotency_key_reused",
                 dd_storage_idempotent_put(f->storage, "k", &foreign, &f->err));
    /* Just short of a day old, then a day. */
    raw_sql(f, "UPDATE idempotency SET created_ms = created_ms - 86400000 + 60000");
    assert_ok(f, dd_storage_idempotent_get(f->storage, "k", &got, &f->err));
    dd_idempotent_release(&got);
    raw_sql(f, "UPDATE idempotency SET created_ms = created_ms - 60001");
    assert_fails(f, DD_NOT_FOUND, "idempotency_key_new", dd_storage_idempotent_get(f->storage, "k", &got, &f->err));
    assert_ok(f, dd_storage_idempotent_put(f->storage, "k", &foreign, &f->err));
    assert_ok(f, dd_storage_idempotent_get(f->storage, "k", &got, &f->err));
    assert_null(got.location);
    assert_null(got.body);
    dd_idempotent_release(&got);
    raw_sql(f, "UPDATE idempotency SET created_ms = 5");
    assert_ok(f, dd_storage_idempotent_put(f->storage, "k2", &record, &f->err));
    assert_int_equal(raw_int(f, "SELECT count(*) FROM idempotency"), 1); /* the old ones are swept out */
}

/* A daemon that dies between the insert and its answer: the key is known all the same. */
static void test_claim_with_the_insert(void **state) {
    struct fixture *f = *state;
    struct dd_experiment row = sample("claimed");
    struct dd_idempotent got = {0};
    char hash[] = "abc", body[] = "{}", location[] = "/api/v1/experiments/1";
    int64_t id = 0, other = 0;
    row.claim = (struct dd_claim){"k", hash};
    assert_ok(f, dd_storage_experiment_insert(f->storage, &row, &id, &f->err));
    assert_ok(f, dd_storage_idempotent_get(f->storage, "k", &got, &f->err));
    assert_string_equal(got.request_hash, hash);
    assert_string_equal(got.location, location);
    assert_null(got.body);
    dd_idempotent_release(&got);
    /* The key again makes nothing, not even the experiment. */
    assert_fails(f, DD_CONFLICT, "idempotency_key_reused",
                 dd_storage_experiment_insert(f->storage, &row, &other, &f->err));
    assert_int_equal(other, 0);
    assert_int_equal(raw_int(f, "SELECT count(*) FROM experiments"), 1);
    /* The answer completes the claim, once. */
    struct dd_idempotent record = {hash, 201, location, body};
    assert_ok(f, dd_storage_idempotent_put(f->storage, "k", &record, &f->err));
    body[0] = '[';
    assert_ok(f, dd_storage_idempotent_put(f->storage, "k", &record, &f->err));
    assert_ok(f, dd_storage_idempotent_get(f->storage, "k", &got, &f->err));
    assert_string_equal(got.body, "{}");
    dd_idempotent_release(&got);
    /* After a day the key is free again. */
    raw_sql(f, "UPDATE idempotency SET created_ms = 5");
    assert_ok(f, dd_storage_experiment_insert(f->storage, &row, &other, &f->err));
    assert_true(other > id);
}

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
int main(void) {
    const struct CMUnitTest tests[] = {T(test_assets), T(test_in_use), T(test_list), T(test_idempotency),
                                       T(test_claim_with_the_insert)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
