/* Requests in batches while jobs use every core (pace.c): who waits, who does not.
 *
 * Instants are set, not waited for: a pause that is due ends BATCH_US after the batch before began, so a batch that
 * begins "later" than now leaves a pause which no delay of the test's own can use up.
 */
#include "api/internal.h"
#include "client.h"
#include "pages_fixture.h"

#define LATER_US 50000

static bool taken;
static bool cores_taken(void *daemon) {
    (void)daemon;
    return taken;
}

/* As it is after so many tokens more than there were; the last request was answered long ago. */
static struct dd_api api_with(double tokens) {
    int64_t now_us = dd_clock_mono_us();
    struct dd_pace pace = {
        .tokens = tokens, .filled_us = now_us, .batch_us = now_us + LATER_US, .busy_us = now_us - LATER_US};
    return (struct dd_api){.ops = {.cores_taken = cores_taken}, .pace = pace};
}

static void test_many_wait(void **state) {
    (void)state;
    taken = true;
    struct dd_api api = api_with(-1000); /* a debt that the time to here cannot pay */
    int64_t due_us = api.pace.batch_us;
    assert_true(dd_pace_begin(&api) > 0);
    assert_true(dd_clock_mono_us() > due_us);
    assert_true(api.pace.batch_us > due_us);
    assert_true(api.pace.tokens >= -64); /* but the next second is not to pay for it */
}

static void test_few_do_not(void **state) {
    (void)state;
    taken = true;
    struct dd_api api = api_with(30);
    assert_int_equal(dd_pace_begin(&api), 0);
    api.pace.batch_us = api.pace.filled_us + LATER_US;
    for (int i = 0; i < 20; i++) {
        api.pace.busy_us -= LATER_US; /* each comes apart from the one before */
        assert_int_equal(dd_pace_begin(&api), 0);
    }
}

static void test_idle_cores_answer_at_once(void **state) {
    (void)state;
    taken = false;
    struct dd_api api = api_with(-1000);
    assert_int_equal(dd_pace_begin(&api), 0);
    api = api_with(-1000);
    api.ops.cores_taken = NULL;
    assert_int_equal(dd_pace_begin(&api), 0);
}

/* What epoll hands over together is answered behind one another, without a pause each. */
static void test_a_batch_waits_once(void **state) {
    (void)state;
    taken = true;
    struct dd_api api = api_with(-1000);
    assert_true(dd_pace_begin(&api) > 0);
    for (int i = 0; i < 20; i++) {
        api.pace.batch_us = dd_clock_mono_us() + LATER_US;
        api.pace.busy_us = dd_clock_mono_us() + LATER_US; /* answered just now, however long this loop takes */
        assert_int_equal(dd_pace_begin(&api), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_wait),
        cmocka_unit_test(test_few_do_not),
        cmocka_unit_test(test_idle_cores_answer_at_once),
        cmocka_unit_test(test_a_batch_waits_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
