/*
 * The C half of libzue: the functions of zue.h. They check what needs no log, so that it
 * costs no call into Go, and keep what Go cannot: text per thread, static text, and
 * whether the process was forked. All else is in the functions that the Go half exports.
 */
#include "_cgo_export.h"
#include "internal.h"

#include <pthread.h>
#include <stddef.h>
#include <string.h>

char zue_internal_empty[1];

static __thread char last_error[512];

void zue_internal_set_error(const char *text, size_t size) {
    if (size > sizeof last_error - 1) {
        size = sizeof last_error - 1;
    }
    memcpy(last_error, text, size);
    last_error[size] = 0;
}

const char *zue_last_error(void) { return last_error; }

static int fail(int code, const char *text) {
    zue_internal_set_error(text, strlen(text));
    return code;
}

/* Set in the child of a fork, where no thread runs but the one that forked. */
static volatile int forked;

static void in_child(void) { forked = 1; }

/* Before any call: the runtime that must not be called is there from the beginning. */
__attribute__((constructor)) static void watch_forks(void) {
    (void)pthread_atfork(NULL, NULL, in_child);
}

/* Returns from the function that it is in unless the process is what it was. */
#define REFUSE_FORKED() \
    if (forked) return fail(ZUE_EFORKED, zue_strerror(ZUE_EFORKED))

#define REFUSE_NULL(p) \
    if (!(p)) return fail(ZUE_EINVAL, #p " is NULL")

const char *zue_version(void) { return ZUE_VERSION; }

int zue_abi_version(void) { return ZUE_ABI_VERSION; }

const char *zue_strerror(int code) {
    switch (code) {
    case ZUE_OK: return "success";
    case ZUE_EINVAL: return "an argument is not valid";
    case ZUE_EBADF: return "no such handle: it was closed, or is of another kind";
    case ZUE_EBUSY: return "another thread is using the iterator";
    case ZUE_ELIMIT: return "too many handles are open";
    case ZUE_ENOMEM: return "no memory left";
    case ZUE_ENOTSUP: return "the options ask for what this version does not know";
    case ZUE_EFORKED: return "called in the child of a fork, where only exec and _exit work";
    case ZUE_ESMALL: return "the buffer is too small";
    case ZUE_EEND: return "the iterator is at the end of the log";
    case ZUE_ETIMEDOUT: return "it did not happen in time";
    case ZUE_EOFFSET: return "the log does not have the offset";
    case ZUE_ETOOLARGE: return "too large to be appended at once";
    case ZUE_ELOCKED: return "the directory is open already, here or in another process";
    case ZUE_EREADONLY: return "the log is open for reading only";
    case ZUE_ECLOSED: return "the log was closed during the call";
    case ZUE_EFULL: return "the disk, or a quota, is full";
    case ZUE_EFAILED: return "a write or a sync failed: the log must be opened again";
    case ZUE_ECORRUPT: return "bytes on disk are not what was written";
    case ZUE_EVERSION: return "files of an unknown format version";
    case ZUE_EFAULT: return "a file could not be read: I/O error, or cut off by someone";
    case ZUE_ENOENT: return "a file or directory does not exist";
    case ZUE_EACCES: return "a file or directory may not be accessed";
    case ZUE_EIO: return "error of the operating system";
    default: return "not a code of libzue";
    }
}

/* The longest directory name, and the largest struct that can be meant. */
enum { max_dir = 4096, max_struct = 4096 };

#define END_OF(type, field) (offsetof(type, field) + sizeof(((type *)0)->field))

/*
 * Copies what the caller's options have into *out, whose other fields become zero. The
 * caller's struct may end after any field, or be longer than ours.
 */
static int copy_options(zue_options *out, const zue_options *in) {
    static const size_t ends[] = {
        END_OF(zue_options, size),           END_OF(zue_options, flags),
        END_OF(zue_options, sync),           END_OF(zue_options, sync_interval_ms),
        END_OF(zue_options, segment_bytes),  END_OF(zue_options, index_interval),
        END_OF(zue_options, compression),    END_OF(zue_options, segment_age_ms),
        END_OF(zue_options, retention_bytes), END_OF(zue_options, retention_age_ms),
    };
    size_t i, size = in->size;
    const char *bytes = (const char *)in;

    memset(out, 0, sizeof *out);
    if (size > max_struct) {
        return fail(ZUE_EINVAL, "options->size is not a size: set it to sizeof(zue_options)");
    }
    for (i = sizeof *out; i < size; i++) {
        if (bytes[i] != 0) {
            return fail(ZUE_ENOTSUP,
                        "options has a field that this version of the library does not know");
        }
    }
    for (i = 0; size < sizeof *out && ends[i] != size; i++) {
        if (i + 1 == sizeof ends / sizeof ends[0]) {
            return fail(ZUE_EINVAL,
                        "options->size is the end of no field: set it to sizeof(zue_options)");
        }
    }
    memcpy(out, in, size < sizeof *out ? size : sizeof *out);
    out->size = sizeof *out;
    return ZUE_OK;
}

int zue_open(const char *dir, const zue_options *options, zue_log *log) {
    zue_options all;
    size_t size;
    int code;

    REFUSE_NULL(log);
    *log = 0;
    REFUSE_FORKED();
    REFUSE_NULL(dir);
    size = strnlen(dir, max_dir + 1);
    if (size == 0 || size > max_dir) {
        return fail(ZUE_EINVAL, "dir is empty or longer than 4096 bytes");
    }
    if (options == NULL) {
        memset(&all, 0, sizeof all);
    } else if ((code = copy_options(&all, options)) != ZUE_OK) {
        return code;
    }
    return zueGoOpen((char *)dir, size, &all, log);
}

int zue_close(zue_log log) {
    REFUSE_FORKED();
    return zueGoClose(log);
}

int zue_append(zue_log log, const void *key, size_t key_size, const void *value,
               size_t value_size, zue_u64 *offset) {
    zue_u64 unused;

    REFUSE_FORKED();
    return zueGoAppend(log, (void *)key, key_size, (void *)value, value_size,
                       offset ? offset : &unused);
}

int zue_append_batch(zue_log log, const zue_record *records, size_t count, zue_u64 *first) {
    zue_u64 unused;

    REFUSE_FORKED();
    REFUSE_NULL(records);
    return zueGoAppendBatch(log, (zue_record *)records, count, first ? first : &unused);
}

int zue_append_async(zue_log log, const zue_record *records, size_t count,
                     zue_pending *pending) {
    REFUSE_FORKED();
    REFUSE_NULL(records);
    REFUSE_NULL(pending);
    return zueGoAppendAsync(log, (zue_record *)records, count, pending);
}

int zue_wait(zue_pending pending, zue_i64 timeout_ms, zue_u64 *first) {
    zue_u64 unused;

    REFUSE_FORKED();
    return zueGoWait(pending, timeout_ms, first ? first : &unused);
}

int zue_drop(zue_pending pending) {
    REFUSE_FORKED();
    return zueGoDrop(pending);
}

int zue_read(zue_log log, zue_u64 offset, void *buffer, size_t capacity, zue_record *record,
             size_t *needed) {
    size_t unused;

    REFUSE_FORKED();
    REFUSE_NULL(record);
    if (buffer == NULL && capacity != 0) {
        return fail(ZUE_EINVAL, "buffer is NULL, and capacity is not 0");
    }
    return zueGoRead(log, offset, buffer, capacity, record, needed ? needed : &unused);
}

int zue_iter_open(zue_log log, zue_u64 from, zue_iter *iter) {
    REFUSE_FORKED();
    REFUSE_NULL(iter);
    return zueGoIterOpen(log, from, iter);
}

int zue_iter_next(zue_iter iter, zue_record *records, size_t capacity, size_t *count) {
    REFUSE_NULL(count);
    *count = 0;
    REFUSE_FORKED();
    REFUSE_NULL(records);
    if (capacity == 0) {
        return fail(ZUE_EINVAL, "capacity is 0");
    }
    return zueGoIterNext(iter, records, capacity, count);
}

int zue_iter_wait(zue_iter iter, zue_i64 timeout_ms) {
    REFUSE_FORKED();
    return zueGoIterWait(iter, timeout_ms);
}

int zue_iter_offset(zue_iter iter, zue_u64 *offset) {
    REFUSE_FORKED();
    REFUSE_NULL(offset);
    return zueGoIterOffset(iter, offset);
}

int zue_iter_close(zue_iter iter) {
    REFUSE_FORKED();
    return zueGoIterClose(iter);
}

int zue_range(zue_log log, zue_u64 *first, zue_u64 *end) {
    zue_u64 unused_first, unused_end;

    REFUSE_FORKED();
    return zueGoRange(log, first ? first : &unused_first, end ? end : &unused_end);
}

int zue_offset_for_time(zue_log log, zue_i64 timestamp, zue_u64 *offset) {
    REFUSE_FORKED();
    REFUSE_NULL(offset);
    return zueGoOffsetForTime(log, timestamp, offset);
}

int zue_sync(zue_log log) {
    REFUSE_FORKED();
    return zueGoSync(log);
}

int zue_truncate_prefix(zue_log log, zue_u64 offset) {
    REFUSE_FORKED();
    return zueGoTruncatePrefix(log, offset);
}

int zue_verify(zue_log log, zue_u64 *damaged) {
    zue_u64 unused;

    REFUSE_FORKED();
    return zueGoVerify(log, damaged ? damaged : &unused);
}

int zue_get_metrics(zue_log log, zue_metrics *metrics) {
    zue_metrics all;
    size_t size, known;
    int code;

    REFUSE_FORKED();
    REFUSE_NULL(metrics);
    size = metrics->size;
    if (size < sizeof metrics->size || size > max_struct) {
        return fail(ZUE_EINVAL, "metrics->size is not a size: set it to sizeof(zue_metrics)");
    }
    memset(&all, 0, sizeof all);
    if ((code = zueGoMetrics(log, &all)) != ZUE_OK) {
        return code;
    }
    all.size = size;
    known = size < sizeof all ? size : sizeof all;
    memcpy(metrics, &all, known);
    memset((char *)metrics + known, 0, size - known);
    return ZUE_OK;
}
