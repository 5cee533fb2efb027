/*
 * The C half of libzue: the functions of zue.h. They check what needs no log, so that it
 * costs no call into Go, and keep what Go cannot: text per thread, static text, and
 * whether the process was forked. All else is in the functions that the Go half exports.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 /* MADV_WIPEONFORK */
#endif

#include "_cgo_export.h"
#include "internal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define SAME_PLACE(type, field) \
    _Static_assert(offsetof(zue_##type, field) == offsetof(zue_internal_##type, field), #field)
#define SAME_SIZE(type) \
    _Static_assert(sizeof(zue_##type) == sizeof(zue_internal_##type), #type)
SAME_PLACE(header, name);
SAME_PLACE(header, name_size);
SAME_PLACE(header, value);
SAME_PLACE(header, value_size);
SAME_SIZE(header);
SAME_PLACE(record, offset);
SAME_PLACE(record, timestamp);
SAME_PLACE(record, key);
SAME_PLACE(record, key_size);
SAME_PLACE(record, value);
SAME_PLACE(record, value_size);
SAME_PLACE(record, headers);
SAME_PLACE(record, header_count);
SAME_SIZE(record);

/* Structs that can grow have no padding at their ends: what would be there in a program of
 * today would be a field of a later one. */
_Static_assert(sizeof(zue_options) == 64 && sizeof(zue_metrics) == 136, "grow by multiples of 8");

char zue_internal_empty[1];

/*
 * This thread's zue_last_error: NULL, static text, or what is in error_memory, which is of
 * error_size bytes and freed with the thread. Not in a variable of the thread's itself:
 * memory for those is short where libzue.so is loaded by dlopen.
 */
static __thread const char *last_error;
static __thread char *error_memory;
enum { error_size = 512 };

static pthread_key_t error_key;
static int have_error_key;

static void free_error(void *memory) {
    last_error = NULL;
    error_memory = NULL;
    free(memory);
}

/* Returns this thread's error_memory, NULL if there is none left. */
static char *get_error_memory(void) {
    char *memory = error_memory;

    if (memory != NULL || !have_error_key) return memory;
    memory = malloc(error_size);
    if (memory != NULL && pthread_setspecific(error_key, memory) != 0) {
        free(memory);
        memory = NULL;
    }
    error_memory = memory;
    return memory;
}

void zue_internal_set_error(const char *text, size_t size) {
    char *memory = get_error_memory();

    if (memory == NULL) {
        last_error = "no memory for the text of this failure";
        return;
    }
    if (size > error_size - 1) size = error_size - 1;
    memcpy(memory, text, size);
    memory[size] = 0;
    last_error = memory;
}

const char *zue_last_error(void) { return last_error ? last_error : ""; }

void *zue_internal_alloc(size_t size) { return malloc(size); }

/* Writes all of text, or as much as can be. It says whether the reader was gone. */
static int write_all(const char *text, size_t size) {
    while (size > 0) {
        ssize_t n = write(STDERR_FILENO, text, size);
        if (n > 0) {
            text += n;
            size -= (size_t)n;
        } else if (n == 0 || errno != EINTR) {
            return n < 0 && errno == EPIPE;
        }
    }
    return 0;
}

/*
 * A write to a pipe that no one reads sends SIGPIPE to the thread. It is blocked meanwhile,
 * and taken back, unless one was waiting before.
 */
void zue_internal_write_stderr(const char *text, size_t size) {
    static const struct timespec at_once = {0, 0};
    sigset_t pipe_only, old, waiting;

    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    if (pthread_sigmask(SIG_BLOCK, &pipe_only, &old) != 0) return;
    sigemptyset(&waiting);
    sigpending(&waiting);
    if (write_all(text, size) && !sigismember(&waiting, SIGPIPE)) {
        while (sigtimedwait(&pipe_only, NULL, &at_once) < 0 && errno == EINTR) {
        }
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

/* Keeps static text. It takes no memory: in the child of a clone that may be locked. */
static int fail(int code, const char *text) {
    last_error = text;
    return code;
}

/*
 * 1; 0 in the child of a fork, where no thread runs but the one that forked. It is in a page
 * that the kernel makes empty in a child, however that was made: a handler of
 * pthread_atfork, which old kernels must do with, is not called by _Fork or clone.
 */
static volatile int original_without_page = 1;
static volatile int *original = &original_without_page;

static void in_child(void) { *original = 0; }

/* Before any call, also those that other constructors make. */
__attribute__((constructor(101))) static void begin(void) {
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (page != MAP_FAILED) {
        if (madvise(page, size, MADV_WIPEONFORK) == 0) {
            original = page;
            *original = 1;
        } else {
            (void)munmap(page, size);
        }
    }
    (void)pthread_atfork(NULL, NULL, in_child);
    have_error_key = pthread_key_create(&error_key, free_error) == 0;
}

/* Whether this thread has called into Go. */
static __thread char entered;

/*
 * A thread's first call into Go unblocks signals that Go would like to have, and leaves
 * them so. Here is that first call, and what the thread has blocked is blocked again: all
 * but the signals of a fault, which would end the process, and that by which Go has
 * threads take turns.
 */
static void enter(void) {
    sigset_t mask;

    entered = 1;
    if (pthread_sigmask(SIG_SETMASK, NULL, &mask) != 0) return;
    (void)zueGoNothing();
    sigdelset(&mask, SIGSEGV);
    sigdelset(&mask, SIGBUS);
    sigdelset(&mask, SIGFPE);
    sigdelset(&mask, SIGURG);
    (void)pthread_sigmask(SIG_SETMASK, &mask, NULL);
}

/* Returns from the function that it is in if the process is not what it was; else the
 * thread is one that may call into Go. */
#define ENTER() \
    if (!*original) return fail(ZUE_EFORKED, zue_strerror(ZUE_EFORKED)); \
    if (!entered) enter()

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
    ENTER();
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
    ENTER();
    return zueGoClose(log);
}

int zue_append(zue_log log, const void *key, size_t key_size, const void *value,
               size_t value_size, zue_u64 *offset) {
    zue_u64 unused;

    ENTER();
    return zueGoAppend(log, (void *)key, key_size, (void *)value, value_size,
                       offset ? offset : &unused);
}

int zue_append_batch(zue_log log, const zue_record *records, size_t count, zue_u64 *first) {
    zue_u64 unused;

    ENTER();
    REFUSE_NULL(records);
    return zueGoAppendBatch(log, (zue_record *)records, count, first ? first : &unused);
}

int zue_append_async(zue_log log, const zue_record *records, size_t count,
                     zue_pending *pending) {
    ENTER();
    REFUSE_NULL(records);
    REFUSE_NULL(pending);
    return zueGoAppendAsync(log, (zue_record *)records, count, pending);
}

int zue_wait(zue_pending pending, zue_i64 timeout_ms, zue_u64 *first) {
    zue_u64 unused;

    ENTER();
    return zueGoWait(pending, timeout_ms, first ? first : &unused);
}

int zue_drop(zue_pending pending) {
    ENTER();
    return zueGoDrop(pending);
}

int zue_read(zue_log log, zue_u64 offset, void *buffer, size_t capacity, zue_record *record,
             size_t *needed) {
    size_t unused;

    ENTER();
    REFUSE_NULL(record);
    if (buffer == NULL && capacity != 0) {
        return fail(ZUE_EINVAL, "buffer is NULL, and capacity is not 0");
    }
    return zueGoRead(log, offset, buffer, capacity, record, needed ? needed : &unused);
}

int zue_iter_open(zue_log log, zue_u64 from, zue_iter *iter) {
    ENTER();
    REFUSE_NULL(iter);
    return zueGoIterOpen(log, from, iter);
}

int zue_iter_next(zue_iter iter, zue_record *records, size_t capacity, size_t *count) {
    REFUSE_NULL(count);
    *count = 0;
    ENTER();
    REFUSE_NULL(records);
    if (capacity == 0) {
        return fail(ZUE_EINVAL, "capacity is 0");
    }
    return zueGoIterNext(iter, records, capacity, count);
}

int zue_iter_wait(zue_iter iter, zue_i64 timeout_ms) {
    ENTER();
    return zueGoIterWait(iter, timeout_ms);
}

int zue_iter_offset(zue_iter iter, zue_u64 *offset) {
    ENTER();
    REFUSE_NULL(offset);
    return zueGoIterOffset(iter, offset);
}

int zue_iter_close(zue_iter iter) {
    ENTER();
    return zueGoIterClose(iter);
}

int zue_range(zue_log log, zue_u64 *first, zue_u64 *end) {
    zue_u64 unused_first, unused_end;

    ENTER();
    return zueGoRange(log, first ? first : &unused_first, end ? end : &unused_end);
}

int zue_offset_for_time(zue_log log, zue_i64 timestamp, zue_u64 *offset) {
    ENTER();
    REFUSE_NULL(offset);
    return zueGoOffsetForTime(log, timestamp, offset);
}

int zue_sync(zue_log log) {
    ENTER();
    return zueGoSync(log);
}

int zue_truncate_prefix(zue_log log, zue_u64 offset) {
    ENTER();
    return zueGoTruncatePrefix(log, offset);
}

int zue_verify(zue_log log, zue_u64 *damaged) {
    zue_u64 unused;

    ENTER();
    return zueGoVerify(log, damaged ? damaged : &unused);
}

int zue_get_metrics(zue_log log, zue_metrics *metrics) {
    zue_metrics all;
    size_t size, known;
    int code;

    ENTER();
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
