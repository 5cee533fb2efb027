/* Threads that append and read the same log at once, and one that closes it under them. */
#include <pthread.h>
#include <stdatomic.h>

#include "testing.h"

enum { threads = 8, per_thread = 3000, batch = 10, all = threads * per_thread };

/* What each thread does is known by its number and the record's. */
typedef struct {
    zue_u32 thread, number;
} mark;

static zue_log shared;
static atomic_int seen[threads][per_thread]; /* by the thread that looks for gaps */

/* Reads a record back that this thread has just appended. */
static void read_back(zue_u64 offset, mark want) {
    zue_record r;
    char buffer[64];
    mark got;
    CALL(ZUE_OK, zue_read(shared, offset, buffer, sizeof buffer, &r, NULL));
    CHECK(r.offset == offset && r.key_size == sizeof got);
    memcpy(&got, r.key, sizeof got);
    CHECK(got.thread == want.thread && got.number == want.number);
}

/* Appends a thread's records by one, in batches, and asynchronously, in turn. */
static void *append(void *arg) {
    zue_u32 self = (zue_u32)(size_t)arg, n = 0;
    zue_record list[batch];
    mark marks[batch];
    zue_pending pending;
    zue_u64 offset = 0, before = 0;
    zue_u32 i;
    while (n < per_thread) {
        for (i = 0; i < batch; i++) {
            marks[i] = (mark){self, n + i};
            list[i] = test_record("", "value");
            list[i].key = &marks[i];
            list[i].key_size = sizeof marks[i];
        }
        switch (n / batch % 3) {
        case 0:
            for (i = 0; i < batch; i++) {
                CALL(ZUE_OK, zue_append(shared, &marks[i], sizeof marks[i], "value", 5, &offset));
                CHECK(offset >= before);
                before = offset + 1;
                read_back(offset, marks[i]);
            }
            break;
        case 1:
            CALL(ZUE_OK, zue_append_batch(shared, list, batch, &offset));
            break;
        default:
            CALL(ZUE_OK, zue_append_async(shared, list, batch, &pending));
            CALL(ZUE_OK, zue_wait(pending, -1, &offset));
        }
        if (n / batch % 3 != 0) {
            CHECK(offset >= before);
            for (i = 0; i < batch; i++) read_back(offset + i, marks[i]);
            before = offset + batch;
        }
        n += batch;
    }
    return NULL;
}

/* Follows the log as it grows, to the last record. */
static void *follow(void *arg) {
    zue_u32 next[threads] = {0};
    zue_record list[32];
    zue_iter iter;
    size_t n, i, total = 0;
    mark m;
    (void)arg;
    CALL(ZUE_OK, zue_iter_open(shared, 0, &iter));
    while (total < all) {
        int code = zue_iter_next(iter, list, 32, &n);
        if (code == ZUE_EEND) {
            CALL(ZUE_OK, zue_iter_wait(iter, -1));
            continue;
        }
        CALL(ZUE_OK, code);
        for (i = 0; i < n; i++) {
            CHECK(list[i].offset == total + i && list[i].key_size == sizeof m);
            CHECK(test_is(list[i].value, list[i].value_size, "value"));
            memcpy(&m, list[i].key, sizeof m);
            CHECK(m.thread < threads && m.number == next[m.thread]++); /* each thread's in order */
            atomic_fetch_add(&seen[m.thread][m.number], 1);
        }
        total += n;
    }
    CALL(ZUE_EEND, zue_iter_next(iter, list, 32, &n));
    CALL(ZUE_OK, zue_iter_close(iter));
    return NULL;
}

static void all_at_once(zue_u32 sync, int followers) {
    pthread_t appending[threads], following[threads];
    zue_options o = test_options(sync);
    zue_u64 end = 0;
    char dir[4096];
    size_t i, k;
    test_dir(dir, "log");
    memset(seen, 0, sizeof seen);
    CALL(ZUE_OK, zue_open(dir, &o, &shared));
    for (i = 0; i < threads; i++) {
        CHECK(pthread_create(&appending[i], NULL, append, (void *)i) == 0);
        if ((int)i < followers) CHECK(pthread_create(&following[i], NULL, follow, NULL) == 0);
    }
    for (i = 0; i < threads; i++) {
        CHECK(pthread_join(appending[i], NULL) == 0);
        if ((int)i < followers) CHECK(pthread_join(following[i], NULL) == 0);
    }
    CALL(ZUE_OK, zue_range(shared, NULL, &end));
    CHECK(end == all);
    for (i = 0; i < threads; i++) {
        for (k = 0; k < per_thread; k++) CHECK(seen[i][k] == followers);
    }
    CALL(ZUE_OK, zue_verify(shared, NULL));
    CALL(ZUE_OK, zue_close(shared));
}

static atomic_int working;

/* Says whether a code is one that a call on a log may return that is being closed. */
static int is_closed(int code) { return code == ZUE_EBADF || code == ZUE_ECLOSED; }

/* Does everything until the log is closed. */
static void *until_closed(void *arg) {
    zue_record r, v = test_record("k", "v");
    zue_pending pending;
    zue_iter iter = 0;
    zue_u64 offset, from = (size_t)arg % 2;
    char buffer[32];
    size_t n;
    int code = ZUE_OK, began = 0;
    while (code == ZUE_OK) {
        if ((code = zue_append(shared, "k", 1, "v", 1, &offset)) != ZUE_OK) break;
        if ((code = zue_append_async(shared, &v, 1, &pending)) != ZUE_OK) break;
        if ((code = zue_wait(pending, -1, NULL)) != ZUE_OK) break;
        if ((code = zue_read(shared, offset, buffer, sizeof buffer, &r, NULL)) != ZUE_OK) break;
        if (iter == 0 && (code = zue_iter_open(shared, from, &iter)) != ZUE_OK) break;
        code = zue_iter_next(iter, &r, 1, &n);
        if (!began++) atomic_fetch_add(&working, 1);
    }
    CHECK(is_closed(code));
    return NULL;
}

/* Waits for a record that never comes. */
static void *wait_for_more(void *arg) {
    zue_iter iter = *(zue_iter *)arg;
    int code;
    atomic_fetch_add(&working, 1);
    while ((code = zue_iter_wait(iter, -1)) == ZUE_EBUSY) sched_yield();
    CHECK(is_closed(code));
    return NULL;
}

static void wait_for_workers(int n) {
    while (atomic_load(&working) < n) sched_yield();
    atomic_store(&working, 0);
}

/* Calls an iterator until another thread waits in it, and so has it. */
static void wait_for_busy(zue_iter iter) {
    zue_record r;
    size_t n;
    int code;
    while ((code = zue_iter_next(iter, &r, 1, &n)) == ZUE_EEND) sched_yield();
    CALL(ZUE_EBUSY, code);
    CALL(ZUE_EBUSY, zue_iter_offset(iter, &r.offset));
    CALL(ZUE_EBUSY, zue_iter_wait(iter, 0));
}

static void closed_under_them(void) {
    pthread_t t[threads], waiting[2];
    zue_options o = test_options(ZUE_SYNC_NEVER);
    char dir[4096];
    zue_log quiet;
    zue_iter iter[2];
    size_t i;
    int round;
    for (round = 0; round < 10; round++) {
        test_dir(dir, "log");
        CALL(ZUE_OK, zue_open(dir, &o, &shared));
        CALL(ZUE_OK, zue_append(shared, NULL, 0, NULL, 0, NULL));
        for (i = 0; i < threads; i++) {
            CHECK(pthread_create(&t[i], NULL, until_closed, (void *)i) == 0);
        }
        wait_for_workers(threads);
        CALL(ZUE_OK, zue_close(shared));
        for (i = 0; i < threads; i++) CHECK(pthread_join(t[i], NULL) == 0);

        /* Those that wait are woken: by the iterator's close, and by the log's. */
        CALL(ZUE_OK, zue_open(dir, &o, &quiet));
        for (i = 0; i < 2; i++) {
            zue_u64 end = 0;
            CALL(ZUE_OK, zue_range(quiet, NULL, &end));
            CALL(ZUE_OK, zue_iter_open(quiet, end, &iter[i]));
            CHECK(pthread_create(&waiting[i], NULL, wait_for_more, &iter[i]) == 0);
        }
        wait_for_workers(2);
        for (i = 0; i < 2; i++) wait_for_busy(iter[i]);
        CALL(ZUE_OK, zue_iter_close(iter[0]));
        CHECK(pthread_join(waiting[0], NULL) == 0);
        CALL(ZUE_OK, zue_close(quiet));
        CHECK(pthread_join(waiting[1], NULL) == 0);
    }
}

static zue_iter contended;

/* Calls an iterator that others call, too: they may only be refused. */
static void *contend(void *arg) {
    zue_u64 *got = arg;
    zue_record r;
    size_t n;
    int code;
    while ((code = zue_iter_next(contended, &r, 1, &n)) != ZUE_EEND) {
        CHECK(code == ZUE_OK || code == ZUE_EBUSY);
        if (code == ZUE_OK) (*got)++;
    }
    return NULL;
}

static void one_iterator(void) {
    pthread_t t[threads];
    zue_u64 got[threads] = {0}, total = 0;
    zue_options o = test_options(ZUE_SYNC_NEVER);
    zue_record list[1000];
    char dir[4096];
    size_t i;
    test_dir(dir, "log");
    for (i = 0; i < 1000; i++) list[i] = test_record("k", "v");
    CALL(ZUE_OK, zue_open(dir, &o, &shared));
    for (i = 0; i < 5; i++) CALL(ZUE_OK, zue_append_batch(shared, list, 1000, NULL));
    CALL(ZUE_OK, zue_iter_open(shared, 0, &contended));
    for (i = 0; i < threads; i++) CHECK(pthread_create(&t[i], NULL, contend, &got[i]) == 0);
    for (i = 0; i < threads; i++) {
        CHECK(pthread_join(t[i], NULL) == 0);
        total += got[i];
    }
    CHECK(total == 5000);
    CALL(ZUE_OK, zue_close(shared)); /* which closes the iterator, too */
}

/* The text of a failure is its thread's own. */
static void *fail_elsewhere(void *arg) {
    (void)arg;
    CHECK(strcmp(zue_last_error(), "") == 0);
    CALL(ZUE_EBADF, zue_sync(1));
    return NULL;
}

static void texts(void) {
    pthread_t t;
    CALL(ZUE_EINVAL, zue_open(NULL, NULL, &shared));
    CHECK(pthread_create(&t, NULL, fail_elsewhere, NULL) == 0 && pthread_join(t, NULL) == 0);
    CHECK(strcmp(zue_last_error(), "dir is NULL") == 0);
}

int main(void) {
    texts();
    all_at_once(ZUE_SYNC_NEVER, 2);
    all_at_once(ZUE_SYNC_ALWAYS, 1);
    closed_under_them();
    one_iterator();
    return 0;
}
