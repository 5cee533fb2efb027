/*
 * zuenet.h: a client of zue-server for C programs, on this machine or another. It is this
 * header and zuenet.c, needs libc and nothing else, and has nothing of Go in it. (storage/
 * libzue is the log itself, in the process, without a server.)
 *
 *     zuenet *c;
 *     zuenet_u64 offset;
 *     if (zuenet_connect("127.0.0.1", 9000, NULL, &c) == ZUENET_OK) {
 *         if (zuenet_append(c, "key", 3, "value", 5, &offset) == ZUENET_OK) {
 *             ... it is as durable as the server's settings promise: on disk ...
 *         }
 *         zuenet_close(c);
 *     }
 *
 * The header compiles without a warning as C89, C99, C11, C++98 and C++17; zuenet.c is C99
 * with POSIX sockets. README.md has a whole program, and how to build it.
 *
 * RECORDS. A record has a key, a value, headers and a timestamp. Its offset is its number
 * in the log: 0, 1, 2, and so on.
 *
 * RESULTS. Each function that can fail returns ZUENET_OK, which is 0, or a negative
 * ZUENET_E code. zuenet_strerror has a text for the code; zuenet_message, zuenet_errno,
 * zuenet_server_code and zuenet_outcome say more about a connection's last call. Results
 * are written through pointers, which may be NULL only where that is said. On failure they
 * are not written to, unless it says otherwise.
 *
 * A CONNECTION THAT IS OF NO USE. ZUENET_ETIMEDOUT, ECLOSED, ESYSTEM, EPROTOCOL and ENOMEM
 * end a connection: what comes on it would no longer be known to be the answer. It is shut
 * at once, and each later call fails with ZUENET_EBROKEN until zuenet_close. After all
 * other codes it goes on, but after ZUENET_ESERVER only if zuenet_usable says so. The
 * library never connects again, and never sends a request twice, by itself.
 *
 * TIME. A call that talks to the server ends when its time is up, whatever the server does:
 * see zuenet_options. (Only the look-up of a host's name takes as long as the system lets
 * it; an address in digits needs none.) A signal does not end a call.
 *
 * MEMORY. What a call is given it is done with when it returns. What it returns points into
 * the connection's memory, and is valid until the next call with that connection that talks
 * to the server, or zuenet_close. A connection takes 2 KiB, and as much as its largest
 * request of a batch, and its largest answer, so far: at most 10 MiB each, whatever the
 * server says. A null pointer with a size of 0 is null, another pointer with a size of 0 is
 * empty: keys and values keep that difference. A null pointer with another size is
 * ZUENET_EINVAL.
 *
 * THREADS. One thread at a time may use a connection; different connections have nothing in
 * common. The library starts no thread, keeps nothing outside of connections, and neither
 * sends, handles nor blocks signals (a server that hangs up does not cause SIGPIPE).
 * Sockets are close-on-exec. The child of a fork must not use its parent's connections.
 */
#ifndef ZUENET_H
#define ZUENET_H

#include <stddef.h>

/* Types of fixed widths. C89 has no 64-bit integer, the compilers for it do. */
#if (defined(__STDC_VERSION__) && __STDC_VERSION__ >= 199901L) || \
    (defined(__cplusplus) && __cplusplus >= 201103L)
#include <stdint.h>
typedef uint32_t zuenet_u32;
typedef int64_t zuenet_i64;
typedef uint64_t zuenet_u64;
#elif defined(__UINT64_TYPE__)
__extension__ typedef __UINT32_TYPE__ zuenet_u32;
__extension__ typedef __INT64_TYPE__ zuenet_i64;
__extension__ typedef __UINT64_TYPE__ zuenet_u64;
#else
#error "zuenet.h needs C99, C++11, or a compiler that defines __UINT64_TYPE__"
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define ZUENET_VERSION "0.2.0"

/* What functions return. The numbers are no errno's and none of zue.h's, and never change. */
enum {
    ZUENET_OK = 0,
    ZUENET_EINVAL = -2001,      /* an argument is not valid */
    ZUENET_ENOTSUP = -2002,     /* the options ask for what this version does not know */
    ZUENET_ENOMEM = -2003,      /* no memory left */
    ZUENET_ERESOLVE = -2004,    /* the host's name has no address */
    ZUENET_ESYSTEM = -2005,     /* the operating system: zuenet_errno says what */
    ZUENET_ETIMEDOUT = -2006,   /* it did not happen in time */
    ZUENET_ECLOSED = -2007,     /* the server closed the connection */
    ZUENET_EBROKEN = -2008,     /* the connection is of no use since an earlier failure */
    ZUENET_EPROTOCOL = -2009,   /* what came is no answer of a Zue server */
    ZUENET_ESERVER = -2010,     /* the server refused: zuenet_server_code says why */
    ZUENET_ETOOLARGE = -2011,   /* larger than ZUENET_MAX_RECORD or _MAX_BATCH allows */
    ZUENET_EEND = -2012,        /* no more records in what was fetched */
    ZUENET_ECORRUPT = -2013,    /* fetched bytes are not what was written */
    ZUENET_ECOMPRESSED = -2014, /* the next records are compressed: use zuenet_read */
    ZUENET_EVERSION = -2015     /* fetched bytes are of a format that is not known */
};

/* Why a server refuses: zuenet_server_code. There may be others. */
enum {
    ZUENET_SERVER_NONE = -1, /* the last call was not refused by the server */
    ZUENET_SERVER_UNKNOWN = 0x00,
    ZUENET_SERVER_INVALID_OFFSET = 0x01,      /* beyond the end, or no longer kept */
    ZUENET_SERVER_RECORD_NOT_FOUND = 0x02,    /* no record there (any more) */
    ZUENET_SERVER_IO_ERROR = 0x03,            /* the server's disk failed */
    ZUENET_SERVER_SERIALIZATION_ERROR = 0x04, /* could not be encoded, or is too large */
    ZUENET_SERVER_INVALID_MESSAGE = 0x05,     /* the server does not know such requests */
    ZUENET_SERVER_LOG_FULL = 0x06,
    ZUENET_SERVER_UNKNOWN_LOG = 0x07,
    ZUENET_SERVER_OVERLOADED = 0x08, /* too many connections: try again later */
    ZUENET_SERVER_PRODUCER_FENCED = 0x09,
    ZUENET_SERVER_SEQUENCE_GAP = 0x0A,
    ZUENET_SERVER_DUPLICATE_FORGOTTEN = 0x0B,
    ZUENET_SERVER_NOT_LEADER = 0x10, /* zuenet_message names the leader, if it is known */
    ZUENET_SERVER_QUORUM_FAILED = 0x11,
    ZUENET_SERVER_REPLICATION_TIMEOUT = 0x12,
    ZUENET_SERVER_OFFSET_MISMATCH = 0x13, /* the log does not end at expected_end */
    ZUENET_SERVER_INSUFFICIENT_ISR = 0x14,
    ZUENET_SERVER_CHANGE_REFUSED = 0x15 /* of the leader or the membership: no request of this library */
};

/* What became of an append: zuenet_outcome. */
enum {
    ZUENET_NOT_APPLIED = 0, /* surely not in the log: appending again cannot make it two */
    ZUENET_MAYBE = 1,       /* it may be there, or get there: look before appending again */
    ZUENET_APPLIED = 2      /* it is there */
};

#define ZUENET_MAX_RECORD 10485751 /* key and value of a record, together */
#define ZUENET_MAX_BATCH 10485760  /* a batch: its records, with 40 bytes for itself and 7
                                      to 30 for each record */

typedef struct zuenet zuenet; /* a connection */

/* A record that was read or fetched: a view of bytes in the connection's memory. */
typedef struct zuenet_record {
    zuenet_u64 offset;
    zuenet_i64 timestamp; /* ms since the Unix epoch; 0 from zuenet_read, which has none */
    const void *key;      /* may be null */
    size_t key_size;
    const void *value; /* may be null; zuenet_read gives an empty one for it */
    size_t value_size;
    size_t header_count;       /* how many zuenet_next_header still has; 0 from zuenet_read */
    const void *header_bytes;  /* for zuenet_next_header */
    size_t header_bytes_size;
} zuenet_record;

/* A header of a record. */
typedef struct zuenet_header {
    const void *name; /* never null */
    size_t name_size;
    const void *value; /* may be null */
    size_t value_size;
} zuenet_header;

/* A record to be appended in a batch. Set what is not used to zero. */
typedef struct zuenet_pair {
    const void *key; /* may be null */
    size_t key_size;
    const void *value; /* may be null */
    size_t value_size;
    zuenet_i64 timestamp; /* ms since the Unix epoch; 0: the time of the call, here */
} zuenet_pair;

/* The server's word that a batch is in the log. */
typedef struct zuenet_receipt {
    zuenet_u64 first_offset; /* of the first record; the others follow it */
    zuenet_u64 term;         /* in which it was appended: 1 without replication */
    zuenet_u32 count;        /* of the offsets that it takes up */
    zuenet_u32 copies;       /* on how many disks; 0: the server's settings ask for none */
    zuenet_u32 duplicate;    /* 1: it was in the log already */
} zuenet_receipt;

/*
 * Options of a connection. Zero means the default in each field, so
 *
 *     zuenet_options options;
 *     memset(&options, 0, sizeof options);
 *     options.size = sizeof options;
 *
 * has them all. Options of an older header, which are shorter, are taken, and those of a
 * newer one as long as the fields that are not known are zero; else it is ZUENET_ENOTSUP.
 */
typedef struct zuenet_options {
    size_t size;           /* sizeof(zuenet_options) */
    zuenet_i64 timeout_ms; /* of connecting, and of each call: 0: 10000; negative: none */
} zuenet_options;

/*
 * Connects to a server. host is a name or an address, IPv4 or IPv6; port is 1 to 65535. If
 * the name has several addresses they are tried in turn, and share the time. options may
 * be NULL: all defaults. *connection is NULL after a failure.
 *
 * ZUENET_EINVAL, ZUENET_ENOTSUP, ZUENET_ENOMEM, ZUENET_ERESOLVE, ZUENET_ETIMEDOUT;
 * ZUENET_ESYSTEM: errno says why, as ECONNREFUSED. A server that has too many connections
 * says so to the first call: ZUENET_ESERVER with ZUENET_SERVER_OVERLOADED.
 */
int zuenet_connect(const char *host, unsigned port, const zuenet_options *options,
                   zuenet **connection);

/* Closes a connection, and frees its memory. NULL is nothing. */
void zuenet_close(zuenet *c);

/* Sets options.timeout_ms for the calls to come. ZUENET_EINVAL: c is NULL. */
int zuenet_set_timeout(zuenet *c, zuenet_i64 timeout_ms);

/*
 * Appends one record, which gets the server's time as its timestamp. It returns when the
 * record is as durable as the server's settings promise. *offset gets its offset; offset
 * may be NULL. A null value is appended as an empty one; zuenet_append_batch can do both.
 *
 * ZUENET_EINVAL, ZUENET_ETOOLARGE, ZUENET_EBROKEN, ZUENET_ETIMEDOUT, ZUENET_ECLOSED,
 * ZUENET_ESYSTEM, ZUENET_ENOMEM, ZUENET_EPROTOCOL, ZUENET_ESERVER. zuenet_outcome says
 * whether it may be in the log nevertheless.
 */
int zuenet_append(zuenet *c, const void *key, size_t key_size, const void *value,
                  size_t value_size, zuenet_u64 *offset);

/*
 * Appends count records, at least one, as one batch: all of them or none. For many small
 * records this is many times as fast as zuenet_append. expected_end may be NULL; if not,
 * they are appended only if the log ends at that offset, and else the call fails with
 * ZUENET_SERVER_OFFSET_MISMATCH. *receipt gets the server's; receipt may be NULL. Results as
 * for zuenet_append.
 */
int zuenet_append_batch(zuenet *c, const zuenet_pair *pairs, size_t count,
                        const zuenet_u64 *expected_end, zuenet_receipt *receipt);

/*
 * Is zuenet_append_batch for a batch that is encoded already, with headers for example, or
 * compressed: a Kafka record batch of magic 2, from its attributes on (storage/FORMAT.md).
 */
int zuenet_append_encoded(zuenet *c, const void *body, size_t size,
                          const zuenet_u64 *expected_end, zuenet_receipt *receipt);

/*
 * Reads the record at offset. Its bytes are in the connection's memory. With
 * ZUENET_SERVER_INVALID_OFFSET the log does not have it, yet or any more. Other results as
 * for zuenet_append.
 */
int zuenet_read(zuenet *c, zuenet_u64 offset, zuenet_record *record);

/*
 * Fetches records from offset on, for zuenet_next: all that are in whole entries of at most
 * most_bytes together; one entry if there is any, even if it is larger. offset may be the
 * end offset. If there are fewer than least_bytes the server waits for more, for at most
 * wait_ms (it may wait for less: 60 s at most); this call's time is that much longer. It may
 * return no record at all. *first and *end get the first offset that the log keeps, and its
 * end offset; both may be NULL.
 *
 * ZUENET_SERVER_INVALID_OFFSET: offset is before the first or beyond the end.
 * ZUENET_SERVER_SERIALIZATION_ERROR: the entry there is too large for an answer; use
 * zuenet_read. Other results as for zuenet_append.
 */
int zuenet_fetch(zuenet *c, zuenet_u64 offset, zuenet_u32 most_bytes, zuenet_u32 least_bytes,
                 zuenet_u32 wait_ms, zuenet_u64 *first, zuenet_u64 *end);

/*
 * Moves over the next record of what zuenet_fetch has fetched, and describes it in *record.
 * It does not talk to the server: records stay valid. All checksums are verified before a
 * record is shown: they are those on the server's disk.
 *
 * ZUENET_EEND: there are no more: fetch again at zuenet_next_offset. ZUENET_EINVAL: the last
 * call that talked to the server was no zuenet_fetch that succeeded. All others are final
 * for this fetch: ZUENET_ECORRUPT; ZUENET_EVERSION; ZUENET_ECOMPRESSED: this library does
 * not decompress, so read the record at zuenet_next_offset with zuenet_read, and go on
 * behind it.
 */
int zuenet_next(zuenet *c, zuenet_record *record);

/* Returns the offset of the record that comes next: where to fetch from to go on. 0 if
 * the last call that talked to the server was no zuenet_fetch that succeeded. */
zuenet_u64 zuenet_next_offset(const zuenet *c);

/*
 * Takes the next header off a record, and describes it in *header. ZUENET_EEND: there are no
 * more. ZUENET_EINVAL: an argument is NULL. ZUENET_ECORRUPT: the record is not as zuenet_next
 * left it.
 */
int zuenet_next_header(zuenet_record *record, zuenet_header *header);

/*
 * *end gets an end offset that is not stale: all that was acknowledged, to anyone, before
 * the call lies before it. Results as for zuenet_append.
 */
int zuenet_end_offset(zuenet *c, zuenet_u64 *end);

/*
 * *offset gets the lowest offset whose record has a timestamp of at least timestamp, in
 * milliseconds since the Unix epoch; the end offset if none has. Results as for
 * zuenet_append.
 */
int zuenet_offset_for_time(zuenet *c, zuenet_i64 timestamp, zuenet_u64 *offset);

/*
 * *json gets the server's status, a JSON object (net/PROTOCOL.md has its members), with a 0
 * behind it; *size its size without that; size may be NULL. It is in the connection's memory.
 * Results as for zuenet_append.
 */
int zuenet_status(zuenet *c, const char **json, size_t *size);

/* Says whether calls can succeed: 1, or 0 after what ends a connection. */
int zuenet_usable(const zuenet *c);

/* Returns a text about the last call that talked to the server and failed, "" if it did
 * not fail: the server's message, or what went wrong here. Never NULL. Valid until the next
 * call. At most 511 bytes; longer ones are cut off. What a server says is any bytes but 0. */
const char *zuenet_message(const zuenet *c);

/* Returns a ZUENET_SERVER code after ZUENET_ESERVER, else ZUENET_SERVER_NONE. */
int zuenet_server_code(const zuenet *c);

/* Returns the errno behind ZUENET_ESYSTEM or ZUENET_ECLOSED; 0 if there is none. */
int zuenet_errno(const zuenet *c);

/* Returns what became of the last append: ZUENET_NOT_APPLIED, ZUENET_MAYBE, or
 * ZUENET_APPLIED. It has no meaning after a call that is no append. */
int zuenet_outcome(const zuenet *c);

/* Returns a text for a code: static, never NULL, also for a code that is none. */
const char *zuenet_strerror(int code);

#ifdef __cplusplus
}
#endif

#endif
