/* Every function of zue.h, used as it is meant to be. misuse_test.c has the others. */
#include <stdint.h>

#include "testing.h"

static void versions_and_texts(void) {
    int code;
    CHECK(strcmp(zue_version(), ZUE_VERSION) == 0);
    CHECK(zue_abi_version() == ZUE_ABI_VERSION);
    CHECK(strcmp(zue_last_error(), "") == 0);
    CHECK(strcmp(zue_strerror(ZUE_OK), "success") == 0);
    for (code = ZUE_EIO; code <= ZUE_EINVAL; code++) {
        CHECK(strcmp(zue_strerror(code), zue_strerror(1)) != 0); /* each code has its own */
    }
}

static void append_and_read(zue_log log) {
    zue_record r;
    zue_u64 offset = 99, first = 99, end = 99;
    size_t needed = 0;
    char buffer[64];

    CALL(ZUE_OK, zue_range(log, &first, &end));
    CHECK(first == 0 && end == 0);
    CALL(ZUE_OK, zue_append(log, "key", 3, "value", 5, &offset));
    CHECK(offset == 0);
    CALL(ZUE_OK, zue_append(log, NULL, 0, NULL, 0, NULL)); /* null and null */
    CALL(ZUE_OK, zue_append(log, "", 0, "", 0, &offset));  /* empty and empty */
    CHECK(offset == 2);
    CALL(ZUE_OK, zue_range(log, &first, &end));
    CHECK(first == 0 && end == 3);

    CALL(ZUE_OK, zue_read(log, 0, buffer, sizeof buffer, &r, &needed));
    CHECK(needed == 8 && r.offset == 0 && r.timestamp > 0 && r.header_count == 0 && !r.headers);
    CHECK(test_is(r.key, r.key_size, "key") && test_is(r.value, r.value_size, "value"));
    CHECK((const char *)r.key >= buffer && (const char *)r.value + 5 <= buffer + sizeof buffer);
    CALL(ZUE_OK, zue_read(log, 1, NULL, 0, &r, NULL));
    CHECK(r.key == NULL && r.value == NULL && r.key_size == 0 && r.value_size == 0);
    CALL(ZUE_OK, zue_read(log, 2, NULL, 0, &r, &needed));
    CHECK(needed == 0 && test_is(r.key, r.key_size, "") && test_is(r.value, r.value_size, ""));

    /* Too small: it says how much is needed, and touches no byte beyond. */
    memset(buffer, '#', sizeof buffer);
    CALL(ZUE_ESMALL, zue_read(log, 0, buffer, 7, &r, &needed));
    CHECK(needed == 8 && r.key_size == 3 && r.value_size == 5 && !r.key && !r.value);
    CHECK(buffer[7] == '#');
    CALL(ZUE_OK, zue_read(log, 0, buffer, needed, &r, &needed));
    CHECK(test_is(r.value, r.value_size, "value") && buffer[8] == '#');
    CALL(ZUE_EOFFSET, zue_read(log, 3, buffer, sizeof buffer, &r, &needed));
    CHECK(strstr(zue_last_error(), "offset 3") != NULL);
}

static void batch_with_headers(zue_log log) {
    zue_header headers[3] = {{"trace", 5, "\0\1", 2}, {"", 0, "", 0}, {"n", 1, NULL, 0}};
    zue_record list[3], r;
    zue_u64 first = 0, offset = 0;
    size_t needed, i;
    char buffer[400];

    list[0] = test_record("a", "1");
    list[0].timestamp = 1000;
    list[1] = test_record(NULL, "22");
    list[1].timestamp = 3000;
    list[1].headers = headers;
    list[1].header_count = 3;
    list[2] = test_record("c", NULL);
    list[2].timestamp = 2000;
    CALL(ZUE_OK, zue_append_batch(log, list, 3, &first));
    CHECK(first == 3);
    CALL(ZUE_OK, zue_append_batch(log, list, 3, NULL));

    CALL(ZUE_ESMALL, zue_read(log, 4, buffer, 3, &r, &needed));
    CHECK(r.header_count == 3 && r.headers == NULL && needed < sizeof buffer - 8);
    /* The buffer may begin anywhere. */
    for (i = 0; i < 8; i++) {
        memset(buffer, '#', sizeof buffer);
        CALL(ZUE_OK, zue_read(log, 4, buffer + i, needed, &r, NULL));
        CHECK(r.timestamp == 3000 && !r.key && test_is(r.value, r.value_size, "22"));
        CHECK(r.header_count == 3 && (uintptr_t)r.headers % sizeof(void *) == 0);
        CHECK(test_is(r.headers[0].name, r.headers[0].name_size, "trace"));
        CHECK(r.headers[0].value_size == 2 && memcmp(r.headers[0].value, "\0\1", 2) == 0);
        CHECK(test_is(r.headers[1].name, r.headers[1].name_size, ""));
        CHECK(test_is(r.headers[1].value, r.headers[1].value_size, ""));
        CHECK(test_is(r.headers[2].name, r.headers[2].name_size, "n") && !r.headers[2].value);
        CHECK(buffer[i + needed] == '#');
    }
    CALL(ZUE_OK, zue_read(log, 5, buffer, sizeof buffer, &r, NULL));
    CHECK(test_is(r.key, r.key_size, "c") && r.value == NULL);

    /* Timestamps need not ascend: 3000 comes before 2000. */
    CALL(ZUE_OK, zue_offset_for_time(log, 1500, &offset));
    CHECK(offset == 0); /* which has the time of the test */
    CALL(ZUE_OK, zue_offset_for_time(log, INT64_MAX, &offset));
    CHECK(offset == 9); /* the end */
}

static void asynchronously(zue_log log) {
    zue_record r = test_record("k", "later");
    zue_pending pending[50], last;
    zue_u64 offset = 0, begin = 0;
    int i, code;

    CALL(ZUE_OK, zue_range(log, NULL, &begin));
    for (i = 0; i < 50; i++) CALL(ZUE_OK, zue_append_async(log, &r, 1, &pending[i]));
    for (i = 49; i >= 0; i--) { /* in any order */
        CALL(ZUE_OK, zue_wait(pending[i], -1, &offset));
        CHECK(offset == begin + (zue_u64)i);
        CALL(ZUE_EBADF, zue_wait(pending[i], -1, &offset));
    }
    CALL(ZUE_OK, zue_append_async(log, &r, 1, &last));
    while ((code = zue_wait(last, 0, NULL)) == ZUE_ETIMEDOUT) {
    }
    CALL(ZUE_OK, code);
    CALL(ZUE_OK, zue_append_async(log, &r, 1, &last));
    CALL(ZUE_OK, zue_wait(last, 60000, NULL));
    CALL(ZUE_OK, zue_append_async(log, &r, 1, &last));
    CALL(ZUE_OK, zue_drop(last));
    CALL(ZUE_EBADF, zue_drop(last));
    CALL(ZUE_OK, zue_append(log, NULL, 0, "after", 5, &offset)); /* so that it is done */
    CHECK(offset == begin + 53);
}

static void iterate(zue_log log) {
    zue_record list[7];
    zue_iter iter;
    zue_u64 end = 0, at = 0, next = 0;
    size_t n = 0, i;
    int code;

    CALL(ZUE_OK, zue_range(log, NULL, &end));
    CALL(ZUE_OK, zue_iter_open(log, 0, &iter));
    while ((code = zue_iter_next(iter, list, 7, &n)) == ZUE_OK) {
        CHECK(n >= 1 && n <= 7);
        for (i = 0; i < n; i++) CHECK(list[i].offset == at++);
        if (at == 7) {
            CHECK(test_is(list[0].key, list[0].key_size, "key") && list[4].header_count == 3);
            CHECK(test_is(list[4].headers[0].name, list[4].headers[0].name_size, "trace"));
            CHECK(!list[1].key && test_is(list[2].key, list[2].key_size, ""));
        }
        CALL(ZUE_OK, zue_iter_offset(iter, &next));
        CHECK(next == at);
    }
    CALL(ZUE_EEND, code);
    CHECK(n == 0 && at == end);
    CALL(ZUE_ETIMEDOUT, zue_iter_wait(iter, 0));
    CALL(ZUE_ETIMEDOUT, zue_iter_wait(iter, 1));
    CALL(ZUE_OK, zue_append(log, NULL, 0, "more", 4, NULL));
    CALL(ZUE_OK, zue_iter_wait(iter, -1));
    CALL(ZUE_OK, zue_iter_next(iter, list, 1, &n));
    CHECK(n == 1 && list[0].offset == end && test_is(list[0].value, list[0].value_size, "more"));
    CALL(ZUE_OK, zue_iter_close(iter));
    CALL(ZUE_EBADF, zue_iter_next(iter, list, 1, &n));
    CALL(ZUE_EOFFSET, zue_iter_open(log, end + 2, &iter));
}

/* Records larger than the memory that an iterator begins with, among small ones. */
static void large_records(zue_log log) {
    enum { large = 900000 };
    char *bytes = malloc(large);
    zue_record list[3], got[3];
    zue_u64 first = 0;
    zue_iter iter;
    size_t n = 0, needed = 0, seen;
    CHECK(bytes != NULL);
    memset(bytes, 'x', large);
    list[0] = list[2] = test_record("small", "s");
    list[1] = test_record("large", "");
    list[1].value = bytes;
    list[1].value_size = large;
    CALL(ZUE_OK, zue_append_batch(log, list, 3, &first));
    CALL(ZUE_ESMALL, zue_read(log, first + 1, bytes, 10, got, &needed));
    CHECK(needed == large + 5);
    CALL(ZUE_OK, zue_iter_open(log, first, &iter));
    for (seen = 0; seen < 3; seen += n) {
        CALL(ZUE_OK, zue_iter_next(iter, got, 3, &n));
        CHECK(got[0].offset == first + seen);
        CHECK(got[0].value_size == (seen == 1 ? large : 1));
        CHECK(((const char *)got[0].value)[got[0].value_size - 1] == (seen == 1 ? 'x' : 's'));
    }
    CALL(ZUE_OK, zue_iter_close(iter));
    free(bytes);
}

static void removal_and_metrics(zue_log log) {
    char value[10000];
    zue_metrics m;
    zue_u64 first = 0, end = 0;
    zue_u64 damaged = 9;
    int i;
    memset(value, 'v', sizeof value);
    for (i = 0; i < 300; i++) CALL(ZUE_OK, zue_append(log, NULL, 0, value, sizeof value, NULL));
    CALL(ZUE_OK, zue_sync(log));
    CALL(ZUE_OK, zue_verify(log, &damaged));
    CHECK(damaged == 0);
    CALL(ZUE_OK, zue_range(log, NULL, &end));
    CALL(ZUE_OK, zue_truncate_prefix(log, end - 5));
    CALL(ZUE_OK, zue_range(log, &first, NULL));
    CHECK(first > 0 && first <= end - 5);
    CALL(ZUE_EOFFSET, zue_iter_open(log, first - 1, &(zue_iter){0}));
    CALL(ZUE_OK, zue_verify(log, NULL));

    memset(&m, 0xff, sizeof m);
    m.size = sizeof m;
    CALL(ZUE_OK, zue_get_metrics(log, &m));
    CHECK(m.size == sizeof m && m.first_offset == first && m.end_offset == end && m.records == end);
    CHECK(m.removed_segments > 0 && m.segments > 0 && m.failed == 0 && m.corruptions == 0);
    CHECK(m.recovery_torn == 0);
}

/* Structs of an older header and of a newer one. */
static void struct_sizes(zue_log log, const char *dir) {
    struct {
        zue_options known;
        char unknown[16];
    } o;
    struct {
        zue_metrics known;
        zue_u64 unknown[2];
    } m;
    zue_log other;
    memset(&o, 0, sizeof o);
    o.known.size = sizeof o;
    CALL(ZUE_OK, zue_open(dir, &o.known, &other));
    CALL(ZUE_OK, zue_close(other));
    o.unknown[15] = 1;
    CALL(ZUE_ENOTSUP, zue_open(dir, &o.known, &other));
    CHECK(other == 0);
    memset(&o, 0xff, sizeof o); /* what lies behind its end is not looked at */
    o.known.size = offsetof(zue_options, sync);
    o.known.flags = 0;
    CALL(ZUE_OK, zue_open(dir, &o.known, &other));
    CALL(ZUE_OK, zue_close(other));

    memset(&m, 0xff, sizeof m);
    m.known.size = sizeof m;
    CALL(ZUE_OK, zue_get_metrics(log, &m.known));
    CHECK(m.known.size == sizeof m && m.unknown[0] == 0 && m.unknown[1] == 0);
    memset(&m, 0xff, sizeof m);
    m.known.size = offsetof(zue_metrics, end_offset);
    CALL(ZUE_OK, zue_get_metrics(log, &m.known));
    CHECK(m.known.end_offset == ~(zue_u64)0);
    CHECK(m.known.size == offsetof(zue_metrics, end_offset));
}

/* Each way to open a log: what one has closed, all others can open. */
static void reopen(const char *dir) {
    static const zue_u32 syncs[] = {ZUE_SYNC_ALWAYS, ZUE_SYNC_INTERVAL, ZUE_SYNC_NEVER};
    zue_record list[100], r;
    zue_options o;
    zue_log log, again;
    zue_u64 end = 0, now = 0, offset;
    zue_u32 codec;
    char buffer[64];
    size_t i;

    for (i = 0; i < 100; i++) list[i] = test_record("key", "a value that compresses well");
    for (i = 0; i < 3; i++) {
        for (codec = ZUE_COMPRESSION_NONE; codec <= ZUE_COMPRESSION_ZSTD; codec++) {
            o = test_options(syncs[i]);
            o.sync_interval_ms = syncs[i] == ZUE_SYNC_INTERVAL ? 10 : 0;
            o.compression = codec;
            o.index_interval = 256;
            o.segment_age_ms = 3600000;
            o.retention_bytes = 1 << 30;
            o.retention_age_ms = 3600000;
            CALL(ZUE_OK, zue_open(dir, &o, &log));
            CALL(ZUE_ELOCKED, zue_open(dir, NULL, &again));
            CHECK(again == 0);
            CALL(ZUE_OK, zue_append_batch(log, list, 100, &offset));
            CALL(ZUE_OK, zue_read(log, offset + 99, buffer, sizeof buffer, &r, NULL));
            CHECK(test_is(r.value, r.value_size, "a value that compresses well"));
            CALL(ZUE_OK, zue_range(log, NULL, &end));
            CALL(ZUE_OK, zue_close(log));
        }
    }
    memset(&o, 0, sizeof o);
    o.size = sizeof o;
    o.flags = ZUE_READ_ONLY | ZUE_LOG_STDERR;
    CALL(ZUE_OK, zue_open(dir, &o, &log));
    CALL(ZUE_OK, zue_open(dir, &o, &again)); /* any number may read */
    CALL(ZUE_EREADONLY, zue_append(log, NULL, 0, "v", 1, NULL));
    CALL(ZUE_EREADONLY, zue_append_async(log, list, 1, &(zue_pending){0}));
    CALL(ZUE_OK, zue_range(again, NULL, &now));
    CHECK(now == end);
    CALL(ZUE_OK, zue_verify(again, NULL));
    CALL(ZUE_OK, zue_close(log));
    CALL(ZUE_OK, zue_close(again));
}

int main(void) {
    char dir[4096], other[4096];
    zue_options o = test_options(ZUE_SYNC_NEVER);
    zue_log log;

    versions_and_texts();
    test_dir(dir, "made/with its parents/log");
    test_dir(other, "log");
    CALL(ZUE_OK, zue_open(dir, &o, &log));
    CHECK(log != 0);
    append_and_read(log);
    batch_with_headers(log);
    asynchronously(log);
    iterate(log);
    large_records(log);
    removal_and_metrics(log);
    struct_sizes(log, other);
    CALL(ZUE_OK, zue_close(log));
    reopen(dir);
    return 0;
}
