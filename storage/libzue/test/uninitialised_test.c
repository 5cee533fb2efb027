/*
 * Results written to memory that has not been set to anything, by many threads, while Go
 * collects garbage: what was there before must not matter. Batches of many sizes with
 * headers are what makes garbage, and leaves on the stacks what looks like its addresses.
 */
#include <pthread.h>
#include <time.h>

#include "testing.h"

enum { threads = 6, seconds = 5 };

static zue_log shared;
static char bytes[60000];

static time_t now(void) {
    struct timespec t;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
    return t.tv_sec;
}

/* As the README's example does it, with no initialisers. */
static __attribute__((noinline)) void read_some(unsigned n) {
    zue_record r[16];
    char buffer[4096];
    zue_iter iter;
    size_t count;
    zue_u64 first, end;
    unsigned i;
    CALL(ZUE_OK, zue_range(shared, &first, &end));
    for (i = 0; i < 4; i++) {
        (void)zue_read(shared, end - 1 - (n + i) % 50, buffer, sizeof buffer, r + i, NULL);
    }
    if (zue_iter_open(shared, end > first + 20 ? end - 20 : first, &iter) == ZUE_OK) {
        (void)zue_iter_next(iter, r, 16, &count);
        CALL(ZUE_OK, zue_iter_close(iter));
    }
}

static __attribute__((noinline)) void append_some(unsigned n) {
    zue_header headers[64];
    zue_record batch[32];
    zue_pending pending;
    unsigned i;
    memset(batch, 0, sizeof batch);
    for (i = 0; i < 64; i++) headers[i] = (zue_header){"n", 1, "v", 1};
    for (i = 0; i < 32; i++) {
        batch[i].headers = headers;
        batch[i].header_count = n % 64;
        batch[i].value = bytes;
        batch[i].value_size = n % 64 == 0 ? sizeof bytes : 10;
    }
    CALL(ZUE_OK, zue_append_async(shared, batch, 1 + n % 32, &pending));
    CALL(ZUE_OK, zue_wait(pending, -1, NULL));
}

static void *work(void *arg) {
    unsigned numbers = 977 * (unsigned)(size_t)arg;
    time_t end = now() + seconds;
    while (now() < end) {
        numbers = numbers * 1103515245 + 12345;
        append_some(numbers >> 8);
        read_some(numbers >> 9);
    }
    return NULL;
}

int main(void) {
    zue_options o = test_options(ZUE_SYNC_NEVER);
    pthread_t running[threads];
    char dir[4096];
    size_t i;
    o.segment_bytes = 1 << 24;
    o.retention_bytes = 1 << 26;
    test_dir(dir, "log");
    CALL(ZUE_OK, zue_open(dir, &o, &shared));
    for (i = 0; i < 100; i++) CALL(ZUE_OK, zue_append(shared, "k", 1, "v", 1, NULL));
    for (i = 0; i < threads; i++) {
        CHECK(pthread_create(&running[i], NULL, work, (void *)(i + 1)) == 0);
    }
    for (i = 0; i < threads; i++) CHECK(pthread_join(running[i], NULL) == 0);
    CALL(ZUE_OK, zue_close(shared));
    return 0;
}
