/* What the tests share: checks that say where they failed, and directories. */
#ifndef ZUE_TESTING_H
#define ZUE_TESTING_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "storage/libzue/zue.h"

/* Ends the test unless a call returned the code. */
#define CALL(code, call) test_code(__FILE__, __LINE__, #call, (code), (call))

/* Ends the test unless the condition holds. */
#define CHECK(condition) test_check(__FILE__, __LINE__, #condition, (condition))

static inline void test_check(const char *file, int line, const char *what, int holds) {
    if (!holds) {
        fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
        exit(1);
    }
}

static inline void test_code(const char *file, int line, const char *call, int want, int got) {
    if (got != want) {
        fprintf(stderr, "%s:%d: %s\n    returned %d (%s; last error: %s)\n    not %d (%s)\n", file,
                line, call, got, zue_strerror(got), zue_last_error(), want, zue_strerror(want));
        exit(1);
    }
}

/* Writes the name of a directory that does not exist to name. */
static inline void test_dir(char name[4096], const char *base) {
    const char *tmp = getenv("TEST_TMPDIR");
    char own[3000];
    snprintf(own, sizeof own, "%s/zue-test-XXXXXX", tmp ? tmp : "/tmp");
    CHECK(mkdtemp(own) != NULL);
    snprintf(name, 4096, "%s/%s", own, base);
}

/* Says whether bytes are those of a string. */
static inline int test_is(const void *bytes, size_t size, const char *text) {
    return bytes != NULL && size == strlen(text) && memcmp(bytes, text, size) == 0;
}

/* Returns a record of two strings, each null if it is. */
static inline zue_record test_record(const char *key, const char *value) {
    zue_record r;
    memset(&r, 0, sizeof r);
    r.key = key;
    r.key_size = key ? strlen(key) : 0;
    r.value = value;
    r.value_size = value ? strlen(value) : 0;
    return r;
}

/* Returns options that have their size, and a small segment. */
static inline zue_options test_options(zue_u32 sync) {
    zue_options o;
    memset(&o, 0, sizeof o);
    o.size = sizeof o;
    o.sync = sync;
    o.segment_bytes = 1 << 20;
    return o;
}

/* Says whether every function that can fail says that this is the child of a fork. */
static inline int test_forked(void) {
    zue_record r = test_record("k", "v");
    zue_metrics m;
    zue_u64 n;
    size_t size;
    char buffer[8];
    int ok = 1;
    m.size = sizeof m;
#define FORKED(call) ok = (call) == ZUE_EFORKED && ok
    FORKED(zue_open("d", NULL, &n));
    FORKED(zue_close(1));
    FORKED(zue_append(1, "k", 1, "v", 1, &n));
    FORKED(zue_append_batch(1, &r, 1, &n));
    FORKED(zue_append_async(1, &r, 1, &n));
    FORKED(zue_wait(1, -1, &n));
    FORKED(zue_drop(1));
    FORKED(zue_read(1, 0, buffer, sizeof buffer, &r, &size));
    FORKED(zue_iter_open(1, 0, &n));
    FORKED(zue_iter_next(1, &r, 1, &size));
    FORKED(zue_iter_wait(1, -1));
    FORKED(zue_iter_offset(1, &n));
    FORKED(zue_iter_close(1));
    FORKED(zue_range(1, &n, &n));
    FORKED(zue_offset_for_time(1, 0, &n));
    FORKED(zue_sync(1));
    FORKED(zue_truncate_prefix(1, 0));
    FORKED(zue_verify(1, &n));
    FORKED(zue_get_metrics(1, &m));
#undef FORKED
    return ok && zue_abi_version() == ZUE_ABI_VERSION;
}

#endif
