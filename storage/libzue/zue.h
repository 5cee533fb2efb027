/*
 * zue.h: Zue's storage engine for C programs. An append-only log of records in a
 * directory: durable, read by offset, checked by checksums, recovered after a crash.
 *
 *     zue_log log;
 *     zue_u64 offset;
 *     if (zue_open("data", NULL, &log) == ZUE_OK) {
 *         if (zue_append(log, "key", 3, "value", 5, &offset) == ZUE_OK) {
 *             ... it is on disk ...
 *         }
 *         zue_close(log);
 *     }
 *
 * It compiles without a warning as C89, C99, C11, C++98 and C++17. README.md has a whole
 * program, and how to build and to link.
 *
 * RECORDS. A record has a key, a value, headers and a timestamp. Its offset is its
 * number in the log: 0, 1, 2, and so on. The files are those of zue-server
 * (storage/FORMAT.md): a log that one has closed the other can open.
 *
 * RESULTS. Each function that can fail returns ZUE_OK, which is 0, or a negative ZUE_E
 * code. zue_strerror has a text for the code, zue_last_error one for the failure.
 * Results are written through pointers, which may be NULL only where that is said. On
 * failure they are not written to, unless it says otherwise. What is in that memory
 * before does not matter. Every function that reads or writes files can return ZUE_EIO,
 * also where it is not named, and every one that can fail ZUE_EFORKED. errno is not kept,
 * and says nothing.
 *
 * HANDLES. A zue_log, zue_iter or zue_pending is a number, never 0. One that was closed,
 * is of another kind or was never given out makes a call fail with ZUE_EBADF; a number
 * is not given out twice.
 *
 * MEMORY. Whatever a call is given, it is done with when it returns: it keeps no pointer
 * to the caller's memory. What a call returns is either in memory of the caller's, or it
 * says how long it stays valid. A null pointer with a size of 0 is null, another pointer
 * with a size of 0 is empty: keys and values keep that difference. A null pointer with
 * another size is ZUE_EINVAL. Sizes are checked before the bytes are read; pointers that
 * are not null must be good, as with any C function.
 *
 * THREADS. Every function may be called from any thread at any time, with the same
 * handle too. Only an iterator serves one call at a time: another one meanwhile fails
 * with ZUE_EBUSY. Reads wait for nothing but the disk. Appends of several threads at
 * once share a sync, so they are best made so. A handle may be closed while other threads
 * use it: their calls end as usual, or with ZUE_ECLOSED, and later ones with ZUE_EBADF.
 *
 * THE GO RUNTIME. The library is written in Go, and brings Go's runtime into the process:
 *   - It starts when the program does (libzue.so: when that is loaded), before main, and
 *     runs a few threads of its own. Its heap is apart from malloc's.
 *   - One Go runtime to a process: two archives or shared libraries that Go built cannot
 *     be linked into one program. None can be unloaded: dlclose does nothing.
 *   - Fork: the child of a fork may only exec or _exit. Go's threads do not exist in it,
 *     so every function there that can fail returns ZUE_EFORKED at once, also after _Fork
 *     and clone (before Linux 4.14: after fork alone), but not after vfork, whose child
 *     has its parent's memory. (posix_spawn, system and popen are fine. Files are
 *     close-on-exec; until its exec a child holds the locks of the logs that its parent
 *     has open.) A program that makes itself a daemon by daemon() or fork must exec
 *     itself, or load libzue.so by dlopen afterwards. The library's descriptors are
 *     always above 2, also where 0, 1 and 2 are closed.
 *   - Signals: it handles SIGSEGV, SIGBUS, SIGFPE, SIGPIPE and SIGURG, no others. If one
 *     of the first three does not come of Go code, it goes to the handler that was there
 *     before, or has its default effect; SIGPIPE the same. A handler for one of them that
 *     is installed later replaces Go's, and must pass on what is not its own.
 *   - A file that would grow beyond RLIMIT_FSIZE raises SIGXFSZ, as in any program: ignore
 *     it to get an error instead.
 *   - SIGURG it sends to its threads, and to those in a call, to have them take turns.
 *     GODEBUG=asyncpreemptoff=1 turns that off.
 *   - A handler of yours, for whatever signal, may run on one of Go's threads or on a
 *     thread that is in a call. It must be installed with SA_ONSTACK, or it may run on a
 *     small stack of Go's, and with SA_RESTART. It must not call this library. (The
 *     runtime adds SA_ONSTACK to handlers that it finds when it starts.)
 *   - Go's threads have the signals unblocked that were so when the runtime started. To
 *     block a signal in main, for sigwait or signalfd, does not block it in them: the
 *     default action may still come. Use a handler that writes to a pipe, or load
 *     libzue.so by dlopen after blocking.
 *   - SIGPROF is left alone: profilers work, with such a handler.
 *   - Threads: one that has called keeps some KiB until it ends. It must not leave a call
 *     but by its return: no longjmp or pthread_exit out of a signal handler, no
 *     asynchronous cancellation. It needs a stack of 64 KiB or more. Calls are made on the
 *     thread's own stack: no changing of stacks during a call, as coroutines do, and
 *     calls from a coroutine's stack are not supported.
 *   - A thread's first call gives it an alternate signal stack (sigaltstack), unless it has
 *     one. That must be of 16 KiB or more, and stay until the thread ends: Go's handlers
 *     run on it.
 *   - A thread's first call unblocks SIGSEGV, SIGBUS, SIGFPE and SIGURG in it, and no
 *     others when it has returned; for some microseconds of it most others are, too. So
 *     have a thread that takes signals by sigwait make a call before they can come. To
 *     block one of those four later is no good: a file that cannot be read would end the
 *     process, instead of being ZUE_EFAULT.
 *   - Environment: GOMAXPROCS, GOGC, GOMEMLIMIT, GODEBUG and GOTRACEBACK have the effect
 *     that they have on a Go program, if they are set when it starts.
 *   - Out of memory, in Go's heap, ends the process, as does a defect in the library: it
 *     writes Go's report to standard error then.
 *   - The C library must be glibc.
 */
#ifndef ZUE_H
#define ZUE_H

#include <stddef.h>

/* Types of fixed widths. C89 has no 64-bit integer, the compilers for it do. */
#if (defined(__STDC_VERSION__) && __STDC_VERSION__ >= 199901L) || \
    (defined(__cplusplus) && __cplusplus >= 201103L)
#include <stdint.h>
typedef uint32_t zue_u32;
typedef int64_t zue_i64;
typedef uint64_t zue_u64;
#elif defined(__UINT64_TYPE__)
__extension__ typedef __UINT32_TYPE__ zue_u32;
__extension__ typedef __INT64_TYPE__ zue_i64;
__extension__ typedef __UINT64_TYPE__ zue_u64;
#else
#error "zue.h needs C99, C++11, or a compiler that defines __UINT64_TYPE__"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/*
 * VERSIONS. A program that was compiled with a header of ABI version n works with every
 * library of ABI version n, also a later one: structs that can grow carry their size,
 * codes and values keep their numbers.
 */
#define ZUE_VERSION "0.2.0" /* of the library: as storage/CHANGELOG.md has it */
#define ZUE_ABI_VERSION 1

/* Returns the ZUE_VERSION of the library that is linked: static text. */
const char *zue_version(void);

/* Returns its ZUE_ABI_VERSION. One that is not the header's does not fit it. */
int zue_abi_version(void);

/* What functions return. The numbers are no errno's, and never change. */
enum {
    ZUE_OK = 0,
    ZUE_EINVAL = -1001,    /* an argument is not valid */
    ZUE_EBADF = -1002,     /* no such handle: it was closed, or is of another kind */
    ZUE_EBUSY = -1003,     /* another thread is using the iterator */
    ZUE_ELIMIT = -1004,    /* too many handles are open (2^20 of a kind, 2^16 iterators) */
    ZUE_ENOMEM = -1005,    /* no memory left */
    ZUE_ENOTSUP = -1006,   /* the options ask for what this version does not know */
    ZUE_EFORKED = -1007,   /* called in the child of a fork */
    ZUE_ESMALL = -1008,    /* the buffer is too small */
    ZUE_EEND = -1009,      /* the iterator is at the end of the log: more may come */
    ZUE_ETIMEDOUT = -1010, /* it did not happen in time */
    ZUE_EOFFSET = -1011,   /* the log does not have the offset */
    ZUE_ETOOLARGE = -1012, /* larger than ZUE_MAX_BYTES allows */
    ZUE_ELOCKED = -1013,   /* the directory is open already, here or in another process */
    ZUE_EREADONLY = -1014, /* the log is open for reading only */
    ZUE_ECLOSED = -1015,   /* the log was closed during the call */
    ZUE_EFULL = -1016,     /* the disk, or a quota, is full: nothing was appended */
    ZUE_EFAILED = -1017,   /* a write or a sync failed: the log must be opened again */
    ZUE_ECORRUPT = -1018,  /* bytes on disk are not what was written */
    ZUE_EVERSION = -1019,  /* files of a format version that is not known */
    ZUE_EFAULT = -1020,    /* a file could not be read: I/O error, or cut off by someone */
    ZUE_ENOENT = -1021,    /* a file or directory does not exist */
    ZUE_EACCES = -1022,    /* a file or directory may not be accessed */
    ZUE_EIO = -1023        /* another error of the operating system */
};

/*
 * Returns a text for a code: static, never NULL, also for a code that is none.
 */
const char *zue_strerror(int code);

/*
 * Returns what is known about the last call that failed in this thread: which file,
 * which offset, what the operating system said. Never NULL, "" if none has failed. It
 * stays valid until the next call in this thread that fails. Successful calls leave it
 * alone, so it is of use only after a failure. At most 511 bytes, longer text is cut off.
 */
const char *zue_last_error(void);

/* The largest batch: bytes of its records as stored, with about 40 bytes for itself and
 * 7 to 30 for each record. ZUE_ETOOLARGE tells. */
#define ZUE_MAX_BYTES 33554432

typedef zue_u64 zue_log;     /* a log that is open */
typedef zue_u64 zue_iter;    /* a place in a log that moves over its records */
typedef zue_u64 zue_pending; /* an append that is under way */

/* A header of a record: what an application, or a tool between, adds to key and value. */
typedef struct zue_header {
    const void *name; /* never null when read; null with size 0 is taken as empty */
    size_t name_size;
    const void *value; /* may be null */
    size_t value_size;
} zue_header;

/*
 * A record: a view of bytes that are elsewhere. Set those that are not used to zero, as
 * by an initialiser or memset. This struct does not grow in this ABI version.
 */
typedef struct zue_record {
    zue_u64 offset;    /* its number in the log; appending ignores it */
    zue_i64 timestamp; /* milliseconds since the Unix epoch; appending takes 0 for now */
    const void *key;   /* may be null */
    size_t key_size;
    const void *value; /* may be null */
    size_t value_size;
    const zue_header *headers; /* null if there are none */
    size_t header_count;
} zue_record;

/* When appended records are durable. */
enum {
    ZUE_SYNC_ALWAYS = 0,   /* when the append returns; readers see only durable records */
    ZUE_SYNC_INTERVAL = 1, /* within sync_interval_ms: what a crash of the machine can take.
                              A crash of the process alone takes nothing */
    ZUE_SYNC_NEVER = 2     /* after zue_sync, zue_close, or when the system pleases */
};

/* How the records of one call are compressed, if that makes them smaller. Readers see no
 * difference. */
enum {
    ZUE_COMPRESSION_NONE = 0,
    ZUE_COMPRESSION_GZIP = 1,
    ZUE_COMPRESSION_SNAPPY = 2,
    ZUE_COMPRESSION_LZ4 = 3,
    ZUE_COMPRESSION_ZSTD = 4
};

/* Flags of zue_options. */
enum {
    ZUE_READ_ONLY = 1, /* change nothing; any number of processes may have a log open so,
                          while none has it open for writing */
    ZUE_LOG_STDERR = 2 /* write what an operator should know to standard error. No error
                          there matters, and no SIGPIPE comes of it; but if that is a pipe
                          which is full, appends wait until someone reads it */
};

/*
 * How to open a log. Zero means the default in each field, so
 *
 *     zue_options options;
 *     memset(&options, 0, sizeof options);
 *     options.size = sizeof options;
 *
 * has them all. A library takes the options of an older header, which are shorter, and
 * those of a newer one as long as the fields that it does not know are zero; else it
 * returns ZUE_ENOTSUP, as for flags and values that it does not know. (Structs that carry
 * their size grow by multiples of 8 bytes.)
 */
typedef struct zue_options {
    size_t size;              /* sizeof(zue_options) */
    zue_u32 flags;            /* ZUE_READ_ONLY, ZUE_LOG_STDERR, or both */
    zue_u32 sync;             /* ZUE_SYNC_ALWAYS, ... */
    zue_u64 sync_interval_ms; /* with ZUE_SYNC_INTERVAL: at least 1 */
    zue_u64 segment_bytes;    /* size of a segment file: 16384 to 2^30, default 2^26 */
    zue_u32 index_interval;   /* bytes of log for an index point: 64 to 2^20, default 4096 */
    zue_u32 compression;      /* ZUE_COMPRESSION_NONE, ... */
    zue_u64 segment_age_ms;   /* how old a segment gets before a new one; 0: any age */
    zue_u64 retention_bytes;  /* remove the oldest segments beyond this; 0: keep all */
    zue_u64 retention_age_ms; /* remove segments with no newer record; 0: keep all */
} zue_options;

/*
 * Opens the log in the directory, and makes both if there is none. It recovers what a
 * crash left, which can take as long as reading the last segment. options may be NULL:
 * all defaults. *log is 0 after a failure.
 *
 * ZUE_ELOCKED: it is open already. ZUE_ECORRUPT, ZUE_EVERSION: no file was changed.
 * ZUE_EINVAL: dir is NULL, empty or longer than 4096 bytes, or an option out of bounds.
 * ZUE_ENOTSUP, ZUE_ELIMIT, ZUE_ENOENT (with ZUE_READ_ONLY, or of a directory above),
 * ZUE_EACCES, ZUE_ENOMEM, ZUE_EFAULT, ZUE_EFULL, ZUE_EIO.
 */
int zue_open(const char *dir, const zue_options *options, zue_log *log);

/*
 * Waits for the appends that have begun, makes everything durable, and lets the
 * directory go. The handle, and those of the log's iterators and pending appends, are
 * gone after it, also if it fails.
 *
 * ZUE_EBADF; else, with ZUE_EFAILED, ZUE_EFULL or ZUE_EIO, what is not known to be
 * durable may not be there when the log is opened again.
 */
int zue_close(zue_log log);

/*
 * Appends one record, with the time of the call. It returns when the record is as
 * durable as options.sync asks. *offset gets its offset; offset may be NULL.
 *
 * ZUE_EINVAL, ZUE_EBADF, ZUE_ETOOLARGE, ZUE_EREADONLY, ZUE_EFULL: nothing was appended.
 * ZUE_ECLOSED: nothing was appended. ZUE_EFAILED: whether it is in the log is not known
 * before that is opened again, and until then no append succeeds. ZUE_EIO: no new file
 * could be made; nothing was appended.
 */
int zue_append(zue_log log, const void *key, size_t key_size, const void *value,
               size_t value_size, zue_u64 *offset);

/*
 * Appends count records, at least one, as one entry: all of them or none, also after a
 * crash. The first gets the offset *first, the others follow it; first may be NULL. For
 * many small records this is several times as fast as zue_append. Results as there.
 */
int zue_append_batch(zue_log log, const zue_record *records, size_t count, zue_u64 *first);

/*
 * Is zue_append_batch without the wait: the records have their place in the log when it
 * returns, and are durable some time later, in the order of their offsets. *pending is
 * for zue_wait, or zue_drop. When 16 MiB of appends wait already, it waits until
 * there is room. Results as for zue_append_batch, and ZUE_ELIMIT: nothing was appended.
 */
int zue_append_async(zue_log log, const zue_record *records, size_t count,
                     zue_pending *pending);

/*
 * Waits for an append to become as durable as options.sync asks, for at most timeout_ms
 * milliseconds; negative: as long as it takes. *first gets the offset of its first
 * record; first may be NULL.
 *
 * ZUE_ETIMEDOUT: it is still under way, and the handle good. ZUE_EBADF: there was no such
 * append, its outcome has been asked for, or the log has been closed, which waits for it:
 * what zue_close returned tells whether it is durable. All else is what zue_append_batch would
 * have returned, and the handle is gone.
 */
int zue_wait(zue_pending pending, zue_i64 timeout_ms, zue_u64 *first);

/*
 * Lets a pending append go without asking what became of it. It goes on. ZUE_EBADF.
 */
int zue_drop(zue_pending pending);

/*
 * Reads the record at offset. *record describes it, and points to its bytes, which are
 * copied to buffer (key, value and headers, with no terminating 0), and so valid as long
 * as that. *needed gets how large the buffer must be, whether it was large enough or
 * not; needed may be NULL. For a record without headers that is key_size + value_size.
 * buffer may be NULL if capacity is 0.
 *
 * ZUE_ESMALL: *record has all but pointers (those are null), and *needed is set. Call
 * again with a larger buffer. ZUE_EOFFSET: the log does not have it, yet or any more.
 * ZUE_EINVAL, ZUE_EBADF, ZUE_ECORRUPT, ZUE_EFAULT, ZUE_ECLOSED, ZUE_EIO.
 */
int zue_read(zue_log log, zue_u64 offset, void *buffer, size_t capacity, zue_record *record,
             size_t *needed);

/*
 * Makes an iterator, which begins with the record at offset from: *iter. from may be
 * the end offset. ZUE_EOFFSET: it is before the first offset or after the end.
 * ZUE_EINVAL, ZUE_EBADF, ZUE_ELIMIT.
 */
int zue_iter_open(zue_log log, zue_u64 from, zue_iter *iter);

/*
 * Moves over the next records: at least one and at most capacity, which must be 1 or
 * more. *count gets how many. There can be fewer than asked for although more follow.
 * records[0] to records[*count-1] describe them. Their bytes are in memory of the
 * iterator's, and valid until the next zue_iter_next or zue_iter_close with this handle,
 * or zue_close of its log. (It takes 256 KiB, or as much as the largest record so far.)
 * Asking for many at a time is several times as fast.
 *
 * ZUE_EEND: there are no more now; *count is 0. See zue_iter_wait. ZUE_ENOMEM: nothing
 * is lost, it can be called again. ZUE_EBUSY, ZUE_EINVAL, ZUE_EBADF. After all others
 * the iterator is of no more use but to be closed: ZUE_ECORRUPT, ZUE_EFAULT, ZUE_EOFFSET
 * (the next record is no longer kept), ZUE_ECLOSED. *count is 0 after these, too.
 */
int zue_iter_next(zue_iter iter, zue_record *records, size_t capacity, size_t *count);

/*
 * Waits until there is a record for zue_iter_next, or that would fail, for at most
 * timeout_ms milliseconds; negative: as long as it takes. ZUE_ETIMEDOUT: there is none.
 * ZUE_ECLOSED: the log, or the iterator, was closed meanwhile. ZUE_EBUSY, ZUE_EBADF;
 * else why the iterator has ended.
 */
int zue_iter_wait(zue_iter iter, zue_i64 timeout_ms);

/*
 * *offset gets the offset of the record that comes next: that from which another
 * iterator would go on. ZUE_EBUSY, ZUE_EINVAL, ZUE_EBADF.
 */
int zue_iter_offset(zue_iter iter, zue_u64 *offset);

/*
 * Ends the iterator, and frees its memory. A call in another thread that waits is
 * woken, and one that reads is waited for. ZUE_EBADF.
 */
int zue_iter_close(zue_iter iter);

/*
 * *first gets the offset of the first record kept, *end that after the last one that can
 * be read; they are equal if there is none. Either pointer may be NULL. ZUE_EBADF.
 */
int zue_range(zue_log log, zue_u64 *first, zue_u64 *end);

/*
 * *offset gets the lowest offset whose record has a timestamp of at least timestamp, in
 * milliseconds since the Unix epoch; the end offset if none has. Timestamps need not
 * ascend. ZUE_EINVAL, ZUE_EBADF, ZUE_ECORRUPT, ZUE_EFAULT, ZUE_ECLOSED.
 */
int zue_offset_for_time(zue_log log, zue_i64 timestamp, zue_u64 *offset);

/*
 * Makes durable what was appended before the call, whatever options.sync says.
 * ZUE_EBADF, ZUE_ECLOSED, ZUE_EREADONLY, ZUE_EFAILED.
 */
int zue_sync(zue_log log);

/*
 * Removes the oldest segments, as long as all of their records lie before offset:
 * records before it may stay, none from it on goes. The segment that is written to
 * stays. ZUE_EBADF, ZUE_ECLOSED, ZUE_EREADONLY; ZUE_EFAILED: open the log again;
 * ZUE_EIO: some files are left, which the next zue_open removes.
 */
int zue_truncate_prefix(zue_log log, zue_u64 offset);

/*
 * Reads all of the log, and checks it: the checksums of all entries, and that each
 * follows the one before. Appends and reads go on meanwhile; what is appended during the
 * call may be left out. It returns ZUE_OK if all is as it was written, else ZUE_ECORRUPT,
 * with the first damaged place in zue_last_error. A file that cannot be read, or is cut
 * off, is damage. *damaged gets how many damaged places there are; damaged may be NULL.
 *
 * ZUE_EBADF; ZUE_ECLOSED: *damaged gets how many were found up to then.
 */
int zue_verify(zue_log log, zue_u64 *damaged);

/* What a log has done since it was opened, and how it is. Size as in zue_options. */
typedef struct zue_metrics {
    size_t size;              /* sizeof(zue_metrics), set by the caller */
    zue_u64 first_offset;     /* as of zue_range */
    zue_u64 end_offset;       /* as of zue_range */
    zue_u64 segments;         /* how many there are */
    zue_u64 file_bytes;       /* that their files take up, unused space included */
    zue_u64 queued_bytes;     /* that wait to be written */
    zue_u64 groups;           /* writes: appends that came together share one */
    zue_u64 entries;          /* calls to append that succeeded */
    zue_u64 records;          /* that were appended */
    zue_u64 bytes;            /* that were appended, as stored */
    zue_u64 syncs;            /* of segment files */
    zue_u64 sync_ns;          /* that they took together, in nanoseconds */
    zue_u64 removed_segments; /* by retention and zue_truncate_prefix */
    zue_u64 corruptions;      /* damaged places that reads and zue_verify met, each time */
    zue_u64 failed;           /* 1 if the log must be opened again, else 0 */
    zue_u64 recovery_scanned; /* bytes that zue_open read and checked; 0: a clean close */
    zue_u64 recovery_torn;    /* bytes that it cut off: they had never been durable */
} zue_metrics;

/*
 * Fills in *metrics, as much as metrics->size says and this library has, and sets the
 * rest to zero. It may be called as often as every second. ZUE_EBADF; ZUE_EINVAL: NULL,
 * or a size that cannot be.
 */
int zue_get_metrics(zue_log log, zue_metrics *metrics);

#ifdef __cplusplus
}
#endif

#endif
