/* What a program can do wrong: each gives a code, and the log is as it was. */
#include <stdint.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "testing.h"

/* Sizes that come of a negative number, or are too large to be one. */
static const size_t bad_sizes[] = {(size_t)-1,  (size_t)-2,   SIZE_MAX / 2, SIZE_MAX / 2 + 1,
                                   SIZE_MAX - 63, 0x100000000, 1u << 31,    0x7fffffff,
                                   ZUE_MAX_BYTES + 1};
enum { bad_count = sizeof bad_sizes / sizeof *bad_sizes };

/* Calls everything with a handle that is none. */
static void bad_handle(zue_u64 h) {
    zue_record r = test_record("k", "v");
    zue_u64 n = 0;
    zue_u64 made = 0;
    zue_metrics m = {.size = sizeof m};
    size_t size;
    char buffer[8];
    CALL(ZUE_EBADF, zue_append(h, "k", 1, "v", 1, &n));
    CALL(ZUE_EBADF, zue_append_batch(h, &r, 1, &n));
    CALL(ZUE_EBADF, zue_append_async(h, &r, 1, &made));
    CALL(ZUE_EBADF, zue_read(h, 0, buffer, sizeof buffer, &r, &size));
    CALL(ZUE_EBADF, zue_range(h, &n, &n));
    CALL(ZUE_EBADF, zue_offset_for_time(h, 0, &n));
    CALL(ZUE_EBADF, zue_sync(h));
    CALL(ZUE_EBADF, zue_truncate_prefix(h, 0));
    CALL(ZUE_EBADF, zue_verify(h, &n));
    CALL(ZUE_EBADF, zue_get_metrics(h, &m));
    CALL(ZUE_EBADF, zue_iter_open(h, 0, &made));
    CALL(ZUE_EBADF, zue_close(h));
    CHECK(strcmp(zue_last_error(), zue_strerror(ZUE_EBADF)) == 0);
}

static void bad_handle_of_another_kind(zue_u64 h) {
    zue_record r;
    size_t n;
    zue_u64 offset;
    CALL(ZUE_EBADF, zue_iter_next(h, &r, 1, &n));
    CALL(ZUE_EBADF, zue_iter_wait(h, -1));
    CALL(ZUE_EBADF, zue_iter_offset(h, &offset));
    CALL(ZUE_EBADF, zue_iter_close(h));
    CALL(ZUE_EBADF, zue_wait(h, -1, &offset));
    CALL(ZUE_EBADF, zue_drop(h));
}

static void handles(zue_log log) {
    zue_record r = test_record("k", "v");
    zue_u64 numbers = 12345, h;
    zue_iter iter, again;
    zue_pending pending;
    int i;
    CALL(ZUE_OK, zue_iter_open(log, 0, &iter));
    CALL(ZUE_OK, zue_append_async(log, &r, 1, &pending));
    bad_handle(0);
    bad_handle(1);
    bad_handle(~(zue_u64)0);
    bad_handle(iter);
    bad_handle(pending);
    for (i = 0; i < 64; i++) bad_handle(log ^ (zue_u64)1 << i); /* each bit counts */
    bad_handle_of_another_kind(0);
    bad_handle_of_another_kind(log);
    CALL(ZUE_EBADF, zue_iter_close(pending));
    CALL(ZUE_EBADF, zue_drop(iter));
    for (i = 0; i < 2000; i++) {
        numbers = numbers * 6364136223846793005u + 1442695040888963407u;
        h = numbers >> (numbers >> 58);
        if (h == log || h == iter || h == pending) continue;
        bad_handle(h);
        bad_handle_of_another_kind(h);
    }
    CALL(ZUE_OK, zue_wait(pending, -1, NULL));
    CALL(ZUE_OK, zue_iter_close(iter));
    CALL(ZUE_OK, zue_iter_open(log, 0, &again));
    CHECK(again != iter); /* the slot is used again, the number is not */
    CALL(ZUE_EBADF, zue_iter_close(iter));
    CALL(ZUE_OK, zue_iter_close(again));
}

static void null_pointers(zue_log log) {
    zue_record r = test_record("k", "v");
    zue_iter iter;
    zue_log made;
    zue_u64 end = 0;
    size_t n = 9;
    char buffer[8];
    CALL(ZUE_EINVAL, zue_open(NULL, NULL, &made));
    CALL(ZUE_EINVAL, zue_open("d", NULL, NULL));
    CHECK(strcmp(zue_last_error(), "log is NULL") == 0);
    CALL(ZUE_EINVAL, zue_append(log, NULL, 1, "v", 1, NULL));
    CALL(ZUE_EINVAL, zue_append(log, "k", 1, NULL, 1, NULL));
    CALL(ZUE_EINVAL, zue_append_batch(log, NULL, 1, NULL));
    CALL(ZUE_EINVAL, zue_append_batch(log, NULL, 0, NULL));
    CALL(ZUE_EINVAL, zue_append_batch(log, &r, 0, NULL));
    CALL(ZUE_EINVAL, zue_append_async(log, NULL, 1, &made));
    CALL(ZUE_EINVAL, zue_append_async(log, &r, 1, NULL));
    CALL(ZUE_EINVAL, zue_append_async(log, &r, 0, &made));
    CALL(ZUE_EINVAL, zue_read(log, 0, NULL, 8, &r, NULL));
    CALL(ZUE_EINVAL, zue_read(log, 0, buffer, 8, NULL, NULL));
    CALL(ZUE_EINVAL, zue_iter_open(log, 0, NULL));
    CALL(ZUE_EINVAL, zue_offset_for_time(log, 0, NULL));
    CALL(ZUE_EINVAL, zue_get_metrics(log, NULL));
    CALL(ZUE_OK, zue_range(log, NULL, &end));
    CALL(ZUE_OK, zue_iter_open(log, 0, &iter));
    CALL(ZUE_EINVAL, zue_iter_next(iter, NULL, 1, &n));
    CALL(ZUE_EINVAL, zue_iter_next(iter, &r, 1, NULL));
    CALL(ZUE_EINVAL, zue_iter_next(iter, &r, 0, &n));
    CHECK(n == 0);
    CALL(ZUE_EINVAL, zue_iter_offset(iter, NULL));
    CALL(ZUE_OK, zue_iter_close(iter));
}

/* A record or header whose sizes lie. Only the sizes are looked at. */
static void record_sizes(zue_log log) {
    zue_header header, *headers = &header;
    zue_record r, two[2];
    size_t i;
    CALL(ZUE_ETOOLARGE, zue_append(log, "k", ZUE_MAX_BYTES, "v", 1, NULL));
    for (i = 0; i < bad_count; i++) {
        size_t bad = bad_sizes[i];
        CALL(ZUE_ETOOLARGE, zue_append(log, "k", bad, "v", 1, NULL));
        CALL(ZUE_ETOOLARGE, zue_append(log, "k", 1, "v", bad, NULL));
        CALL(ZUE_ETOOLARGE, zue_append(log, "k", bad, "v", bad, NULL));
        CALL(ZUE_EINVAL, zue_append(log, NULL, bad, "v", 1, NULL));
        CALL(ZUE_ETOOLARGE, zue_append_batch(log, &r, bad, NULL));
        two[0] = two[1] = test_record("k", "v");
        two[1].key_size = bad;
        CALL(ZUE_ETOOLARGE, zue_append_batch(log, two, 2, NULL));
        CALL(ZUE_ETOOLARGE, zue_append_async(log, two, 2, &(zue_pending){0}));
        two[1].key = NULL;
        CALL(ZUE_EINVAL, zue_append_batch(log, two, 2, NULL));
        two[1] = test_record("k", "v");
        two[1].value_size = bad;
        CALL(ZUE_ETOOLARGE, zue_append_batch(log, two, 2, NULL));
        two[1] = test_record("k", "v");
        two[1].header_count = bad;
        CALL(ZUE_EINVAL, zue_append_batch(log, two, 2, NULL));
        two[1].headers = headers;
        CALL(ZUE_ETOOLARGE, zue_append_batch(log, two, 2, NULL));
        two[1].header_count = 1;
        header = (zue_header){"n", bad, "v", 1};
        CALL(ZUE_ETOOLARGE, zue_append_batch(log, two, 2, NULL));
        header = (zue_header){"n", 1, "v", bad};
        CALL(ZUE_ETOOLARGE, zue_append_batch(log, two, 2, NULL));
        header = (zue_header){"n", 1, NULL, bad};
        CALL(ZUE_EINVAL, zue_append_batch(log, two, 2, NULL));
    }
    two[0] = two[1] = test_record("k", "v"); /* each would fit */
    two[0].value_size = two[1].value_size = ZUE_MAX_BYTES / 2 + 1;
    CALL(ZUE_ETOOLARGE, zue_append_batch(log, two, 2, NULL));
}

/* Headers that would take gigabytes as Go has them are refused before there are any. */
static void many_headers(zue_log log) {
    enum { headers = 1000000, records = 64 };
    zue_header *h = calloc(headers, sizeof *h);
    zue_record list[records];
    zue_u64 pending = 0;
    struct rusage before, after;
    size_t i;
    CHECK(h != NULL);
    for (i = 0; i < headers; i++) h[i].name = ""; /* touched, and so counted before */
    for (i = 0; i < records; i++) {
        list[i] = test_record("k", "v");
        list[i].headers = h;
        list[i].header_count = headers;
    }
    CHECK(getrusage(RUSAGE_SELF, &before) == 0);
    CALL(ZUE_ETOOLARGE, zue_append_batch(log, list, records, NULL));
    CALL(ZUE_ETOOLARGE, zue_append_async(log, list, records, &pending));
    CHECK(getrusage(RUSAGE_SELF, &after) == 0);
    CHECK(after.ru_maxrss - before.ru_maxrss < 100000); /* KiB */
    free(h);
}

/* As many iterators as there can be, and one more. */
static void too_many(zue_log log) {
    enum { all = 1 << 16 };
    zue_iter *list = calloc(all, sizeof *list), one;
    size_t i;
    CHECK(list != NULL);
    for (i = 0; i < all; i++) CALL(ZUE_OK, zue_iter_open(log, 0, &list[i]));
    CALL(ZUE_ELIMIT, zue_iter_open(log, 0, &one));
    CALL(ZUE_OK, zue_iter_close(list[0]));
    CALL(ZUE_OK, zue_iter_open(log, 0, &list[0]));
    for (i = 0; i < all; i++) CALL(ZUE_OK, zue_iter_close(list[i]));
    free(list);
}

/* The largest that fit, byte for byte, and times at the ends of their range. */
static void extremes(zue_log log) {
    static const zue_i64 times[] = {INT64_MIN, -1, 1, INT64_MAX};
    char *bytes = calloc(1, ZUE_MAX_BYTES);
    zue_record r, list[4];
    zue_u64 offset, first;
    size_t needed, size = ZUE_MAX_BYTES, i;
    int code;
    CHECK(bytes != NULL);
    while ((code = zue_append(log, bytes, 0, bytes, size, &offset)) == ZUE_ETOOLARGE) size--;
    CALL(ZUE_OK, code);
    CHECK(size > ZUE_MAX_BYTES - 100);
    CALL(ZUE_OK, zue_read(log, offset, bytes, size, &r, &needed));
    CHECK(needed == size && r.value_size == size);
    free(bytes);

    for (i = 0; i < 4; i++) {
        list[i] = test_record("k", "v");
        list[i].timestamp = times[i];
    }
    CALL(ZUE_OK, zue_append_batch(log, list, 4, &first));
    for (i = 0; i < 4; i++) {
        char buffer[2];
        CALL(ZUE_OK, zue_read(log, first + i, buffer, 2, &r, NULL));
        CHECK(r.timestamp == times[i]);
        CALL(ZUE_OK, zue_offset_for_time(log, times[i], &offset));
    }
    CHECK(offset == first + 3);
}

/* Offsets and timeouts at the ends of their range. */
static void numbers(zue_log log) {
    static const zue_u64 offsets[] = {1u << 31, 1ull << 32, INT64_MAX, 1ull << 63, UINT64_MAX};
    zue_record r;
    zue_iter iter;
    zue_pending pending;
    char buffer[8];
    zue_u64 first = 1;
    size_t i;
    for (i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        CALL(ZUE_EOFFSET, zue_read(log, offsets[i], buffer, sizeof buffer, &r, NULL));
        CALL(ZUE_EOFFSET, zue_iter_open(log, offsets[i], &iter));
    }
    CALL(ZUE_OK, zue_truncate_prefix(log, UINT64_MAX)); /* all but the one written to */
    CALL(ZUE_OK, zue_range(log, &first, NULL));
    r = test_record("k", "v");
    CALL(ZUE_OK, zue_append_async(log, &r, 1, &pending));
    CALL(ZUE_OK, zue_wait(pending, INT64_MAX, NULL));
    CALL(ZUE_OK, zue_append_async(log, &r, 1, &pending));
    CALL(ZUE_OK, zue_wait(pending, INT64_MIN, NULL));
    CALL(ZUE_OK, zue_iter_open(log, first, &iter));
    CALL(ZUE_OK, zue_iter_wait(iter, INT64_MAX));
    CALL(ZUE_OK, zue_iter_wait(iter, INT64_MIN));
    CALL(ZUE_OK, zue_iter_close(iter));
}

static void refused(const char *dir, const zue_options *o, int code) {
    zue_log log = 77;
    CALL(code, zue_open(dir, o, &log));
    CHECK(log == 0);
    CHECK(strlen(zue_last_error()) > 0);
}

static void options(const char *dir) {
    zue_options o = test_options(ZUE_SYNC_ALWAYS);
    size_t i;
    for (i = 0; i < bad_count; i++) {
        o.size = bad_sizes[i];
        refused(dir, &o, ZUE_EINVAL);
    }
    for (i = 0; i < sizeof o; i++) { /* a struct may end where a field does */
        static const char ends[] = {8, 12, 16, 24, 32, 36, 40, 48, 56};
        o.size = i;
        if (memchr(ends, (int)i, sizeof ends)) continue;
        refused(dir, &o, ZUE_EINVAL);
    }
#define REFUSED(code, field, number) \
    o = test_options(ZUE_SYNC_ALWAYS); \
    o.field = (number); \
    refused(dir, &o, (code))
    REFUSED(ZUE_ENOTSUP, flags, 4);
    REFUSED(ZUE_ENOTSUP, flags, 0x80000000u);
    REFUSED(ZUE_ENOTSUP, sync, 3);
    REFUSED(ZUE_ENOTSUP, sync, UINT32_MAX);
    REFUSED(ZUE_EINVAL, sync, ZUE_SYNC_INTERVAL); /* and no interval */
    REFUSED(ZUE_EINVAL, sync_interval_ms, 10);    /* and another sync */
    REFUSED(ZUE_EINVAL, sync_interval_ms, UINT64_MAX);
    REFUSED(ZUE_EINVAL, segment_bytes, 1);
    REFUSED(ZUE_EINVAL, segment_bytes, UINT64_MAX);
    REFUSED(ZUE_EINVAL, segment_bytes, 1ull << 63);
    REFUSED(ZUE_EINVAL, index_interval, 1);
    REFUSED(ZUE_EINVAL, index_interval, UINT32_MAX);
    REFUSED(ZUE_ENOTSUP, compression, 5);
    REFUSED(ZUE_ENOTSUP, compression, 256);
    REFUSED(ZUE_ENOTSUP, compression, UINT32_MAX);
    REFUSED(ZUE_EINVAL, segment_age_ms, UINT64_MAX);
    REFUSED(ZUE_EINVAL, retention_bytes, UINT64_MAX);
    REFUSED(ZUE_EINVAL, retention_age_ms, UINT64_MAX / 1000);
#undef REFUSED
    o = test_options(3); /* unknown, and what it would mean with an interval is, too */
    o.sync_interval_ms = 10;
    refused(dir, &o, ZUE_ENOTSUP);
}

static void directories(const char *dir, const char *none) {
    zue_options o = test_options(ZUE_SYNC_ALWAYS);
    char name[6000], file[4200];
    FILE *f;
    memset(name, 'n', sizeof name);
    name[sizeof name - 1] = 0;
    refused("", NULL, ZUE_EINVAL);
    refused(name, NULL, ZUE_EINVAL);
    name[4096] = 0; /* longer than a file's name may be */
    refused(name, NULL, ZUE_EIO);
    CHECK(strlen(zue_last_error()) == 511);
    refused(dir, NULL, ZUE_ELOCKED); /* it is open */
    o.flags = ZUE_READ_ONLY;
    refused(none, &o, ZUE_ENOENT);
    snprintf(file, sizeof file, "%s-file", dir);
    f = fopen(file, "w");
    CHECK(f != NULL && fclose(f) == 0);
    refused(file, NULL, ZUE_EIO);
}

static void metrics_sizes(zue_log log) {
    zue_metrics m;
    size_t i;
    for (i = 0; i < bad_count; i++) {
        m.size = bad_sizes[i];
        CALL(ZUE_EINVAL, zue_get_metrics(log, &m));
    }
    for (i = 0; i < sizeof m.size; i++) {
        m.size = i;
        CALL(ZUE_EINVAL, zue_get_metrics(log, &m));
    }
}

/* The child of a fork is told, and not left to hang. */
static void forks(zue_log log) {
    int status = 0;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) _exit(test_forked() ? 0 : 1);
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CALL(ZUE_OK, zue_append(log, "k", 1, "v", 1, NULL)); /* the parent goes on */
}

/* Closing a log takes all that belongs to it along. */
static void after_close(zue_log log, const char *dir) {
    zue_record r = test_record("k", "v");
    zue_iter iter;
    zue_pending pending;
    zue_log again;
    size_t n;
    zue_u64 first = 0;
    CALL(ZUE_OK, zue_range(log, &first, NULL));
    CALL(ZUE_OK, zue_iter_open(log, first, &iter));
    CALL(ZUE_OK, zue_iter_next(iter, &r, 1, &n));
    r = test_record("k", "v");
    CALL(ZUE_OK, zue_append_async(log, &r, 1, &pending));
    CALL(ZUE_OK, zue_close(log));
    bad_handle(log);
    bad_handle_of_another_kind(iter);
    bad_handle_of_another_kind(pending);
    CALL(ZUE_OK, zue_open(dir, NULL, &again));
    CHECK(again != log);
    bad_handle(log);
    CALL(ZUE_OK, zue_close(again));
}

int main(void) {
    char dir[4096], none[4096];
    zue_options o = test_options(ZUE_SYNC_NEVER);
    zue_log log;
    zue_u64 end = 0;
    test_dir(dir, "log");
    test_dir(none, "no log");
    bad_handle(1); /* before there is anything */
    CALL(ZUE_OK, zue_open(dir, &o, &log));
    CALL(ZUE_OK, zue_append(log, "k", 1, "v", 1, NULL));
    null_pointers(log);
    record_sizes(log);
    many_headers(log);
    too_many(log);
    CALL(ZUE_OK, zue_range(log, NULL, &end));
    CHECK(end == 1); /* nothing of it was appended */
    handles(log);
    extremes(log);
    numbers(log);
    options(none);
    directories(dir, none);
    metrics_sizes(log);
    forks(log);
    after_close(log, dir);
    return 0;
}
