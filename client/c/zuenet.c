/*
 * zuenet.c: see zuenet.h. In this order: numbers and checksums, failures, time, the socket,
 * frames, requests, what was fetched.
 *
 * Nothing that a server sends is believed: lengths are checked before they are used, memory
 * grows with what arrives and not with what is announced, and entries are taken only by their
 * checksums and in their order.
 */
#define _POSIX_C_SOURCE 200809L

#include "zuenet.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

typedef unsigned char byte;
typedef zuenet_u32 u32;
typedef zuenet_u64 u64;
typedef zuenet_i64 i64;

enum {
    /* net/PROTOCOL.md: the greatest length fields, and the messages. */
    MAX_FRAME = 10485760,
    MAX_LARGE_FRAME = MAX_FRAME + 65536, /* of batch appends and fetched entries */
    HEAD = 5,                            /* length and type */

    APPEND = 0x01,
    READ = 0x03,
    BATCH_APPEND = 0x32,
    FETCH = 0x34,
    OFFSET_FOR_TIME = 0x36,
    STATUS = 0x38,
    BARRIER = 0x3a, /* the answer to each has the next number */
    ERROR = 0xff,

    /* storage/FORMAT.md */
    ENTRY_HEADER = 64,
    BATCH_HEADER = 40,
    KIND_DATA = 1,
    KIND_CONTROL = 2,
    FORMAT = 1,

    DEFAULT_TIMEOUT_MS = 10000,
    FIRST_INPUT = 1024, /* bytes for an answer, before it is known to be larger */
    MESSAGE = 512
};

#define MAX_NUMBER ((u64)1 << 62) /* no index of an entry and no offset is larger */

/* What was fetched, and how far it has been read. */
typedef struct {
    int state;            /* OK, or what each zuenet_next returns from now on */
    const byte *at, *end; /* entries not looked at yet */
    u32 seed;             /* the checksum of the seed: headers' begin with it */
    u64 from;             /* no record before it is wanted */
    u64 limit;            /* the log's end offset */
    u64 next;             /* offset of the record that comes next */

    int any;                         /* there was an entry; then, of the last: */
    u64 index, follows, term, chain; /* follows: offset of the record behind it */

    const byte *record, *record_end; /* of its batch: records not looked at yet */
    u32 left;                        /* how many they are */
    u64 base_offset, base_time;
    i64 least_delta, last_delta; /* between which the next record's offset lies */
} fetched;

struct zuenet {
    int fd;     /* -1: the connection is of no use */
    int broken; /* and this is why */
    i64 timeout_ms;

    byte *in; /* the last answer */
    size_t in_capacity, in_size;
    byte *out; /* the last batch */
    size_t out_capacity;

    int system_error, server_code, outcome; /* of the last call */
    fetched fetched;
    char message[MESSAGE];
};

/* A part of bytes that is being read. bad stays so, and is looked at once in a while. */
typedef struct {
    const byte *at, *end;
    int bad;
} cursor;

/* ---- Numbers and checksums ---- */

static byte *put(byte *at, u64 n, int bytes) {
    for (; bytes > 0; bytes--, n >>= 8) *at++ = (byte)n;
    return at;
}

static byte *put_big(byte *at, u64 n, int bytes) {
    while (bytes-- > 0) *at++ = (byte)(n >> (8 * bytes));
    return at;
}

static u64 get(const byte *at, int bytes) {
    u64 n = 0;
    while (bytes-- > 0) n = n << 8 | at[bytes];
    return n;
}

static u64 get_big(const byte *at, int bytes) {
    u64 n = 0;
    for (; bytes > 0; bytes--) n = n << 8 | *at++;
    return n;
}

static size_t left(const cursor *c) { return c->bad ? 0 : (size_t)(c->end - c->at); }

/* Takes n bytes; NULL, and bad, if there are fewer. */
static const byte *take(cursor *c, size_t n) {
    const byte *at = c->at;
    if (n > left(c)) {
        c->bad = 1;
        return NULL;
    }
    c->at += n;
    return at;
}

static u64 take_number(cursor *c, int bytes) {
    const byte *at = take(c, (size_t)bytes);
    return at ? get(at, bytes) : 0;
}

static u64 zigzag(i64 n) { return (u64)n << 1 ^ (n < 0 ? ~(u64)0 : 0); }

static i64 unzigzag(u64 u) {
    u64 n = u >> 1 ^ ((u & 1) ? ~(u64)0 : 0);
    i64 signed_n;
    memcpy(&signed_n, &n, sizeof n); /* a conversion would be up to the compiler */
    return signed_n;
}

static size_t varint_size(i64 n) {
    u64 u = zigzag(n);
    size_t size = 1;
    for (; u > 0x7f; u >>= 7) size++;
    return size;
}

static byte *put_varint(byte *at, i64 n) {
    u64 u = zigzag(n);
    for (; u > 0x7f; u >>= 7) *at++ = (byte)(u | 0x80);
    *at++ = (byte)u;
    return at;
}

static i64 take_varint(cursor *c) {
    u64 u = 0;
    int shift;
    for (shift = 0; shift < 70; shift += 7) {
        const byte *at = take(c, 1);
        if (at == NULL || (shift == 63 && *at > 1)) break; /* beyond 64 bits */
        u |= (u64)(*at & 0x7f) << shift;
        if (*at < 0x80) return unzigzag(u);
    }
    c->bad = 1;
    return 0;
}

/* Takes a length and as many bytes: NULL for the length -1, and if it is bad. */
static const byte *take_field(cursor *c, size_t *size) {
    i64 n = take_varint(c);
    *size = 0;
    if (n == -1) return NULL;
    if (n < 0 || (u64)n > left(c)) {
        c->bad = 1;
        return NULL;
    }
    *size = (size_t)n;
    return take(c, *size);
}

static const u32 castagnoli[256] = {
    0x00000000u, 0xf26b8303u, 0xe13b70f7u, 0x1350f3f4u, 0xc79a971fu, 0x35f1141cu, 0x26a1e7e8u, 0xd4ca64ebu,
    0x8ad958cfu, 0x78b2dbccu, 0x6be22838u, 0x9989ab3bu, 0x4d43cfd0u, 0xbf284cd3u, 0xac78bf27u, 0x5e133c24u,
    0x105ec76fu, 0xe235446cu, 0xf165b798u, 0x030e349bu, 0xd7c45070u, 0x25afd373u, 0x36ff2087u, 0xc494a384u,
    0x9a879fa0u, 0x68ec1ca3u, 0x7bbcef57u, 0x89d76c54u, 0x5d1d08bfu, 0xaf768bbcu, 0xbc267848u, 0x4e4dfb4bu,
    0x20bd8edeu, 0xd2d60dddu, 0xc186fe29u, 0x33ed7d2au, 0xe72719c1u, 0x154c9ac2u, 0x061c6936u, 0xf477ea35u,
    0xaa64d611u, 0x580f5512u, 0x4b5fa6e6u, 0xb93425e5u, 0x6dfe410eu, 0x9f95c20du, 0x8cc531f9u, 0x7eaeb2fau,
    0x30e349b1u, 0xc288cab2u, 0xd1d83946u, 0x23b3ba45u, 0xf779deaeu, 0x05125dadu, 0x1642ae59u, 0xe4292d5au,
    0xba3a117eu, 0x4851927du, 0x5b016189u, 0xa96ae28au, 0x7da08661u, 0x8fcb0562u, 0x9c9bf696u, 0x6ef07595u,
    0x417b1dbcu, 0xb3109ebfu, 0xa0406d4bu, 0x522bee48u, 0x86e18aa3u, 0x748a09a0u, 0x67dafa54u, 0x95b17957u,
    0xcba24573u, 0x39c9c670u, 0x2a993584u, 0xd8f2b687u, 0x0c38d26cu, 0xfe53516fu, 0xed03a29bu, 0x1f682198u,
    0x5125dad3u, 0xa34e59d0u, 0xb01eaa24u, 0x42752927u, 0x96bf4dccu, 0x64d4cecfu, 0x77843d3bu, 0x85efbe38u,
    0xdbfc821cu, 0x2997011fu, 0x3ac7f2ebu, 0xc8ac71e8u, 0x1c661503u, 0xee0d9600u, 0xfd5d65f4u, 0x0f36e6f7u,
    0x61c69362u, 0x93ad1061u, 0x80fde395u, 0x72966096u, 0xa65c047du, 0x5437877eu, 0x4767748au, 0xb50cf789u,
    0xeb1fcbadu, 0x197448aeu, 0x0a24bb5au, 0xf84f3859u, 0x2c855cb2u, 0xdeeedfb1u, 0xcdbe2c45u, 0x3fd5af46u,
    0x7198540du, 0x83f3d70eu, 0x90a324fau, 0x62c8a7f9u, 0xb602c312u, 0x44694011u, 0x5739b3e5u, 0xa55230e6u,
    0xfb410cc2u, 0x092a8fc1u, 0x1a7a7c35u, 0xe811ff36u, 0x3cdb9bddu, 0xceb018deu, 0xdde0eb2au, 0x2f8b6829u,
    0x82f63b78u, 0x709db87bu, 0x63cd4b8fu, 0x91a6c88cu, 0x456cac67u, 0xb7072f64u, 0xa457dc90u, 0x563c5f93u,
    0x082f63b7u, 0xfa44e0b4u, 0xe9141340u, 0x1b7f9043u, 0xcfb5f4a8u, 0x3dde77abu, 0x2e8e845fu, 0xdce5075cu,
    0x92a8fc17u, 0x60c37f14u, 0x73938ce0u, 0x81f80fe3u, 0x55326b08u, 0xa759e80bu, 0xb4091bffu, 0x466298fcu,
    0x1871a4d8u, 0xea1a27dbu, 0xf94ad42fu, 0x0b21572cu, 0xdfeb33c7u, 0x2d80b0c4u, 0x3ed04330u, 0xccbbc033u,
    0xa24bb5a6u, 0x502036a5u, 0x4370c551u, 0xb11b4652u, 0x65d122b9u, 0x97baa1bau, 0x84ea524eu, 0x7681d14du,
    0x2892ed69u, 0xdaf96e6au, 0xc9a99d9eu, 0x3bc21e9du, 0xef087a76u, 0x1d63f975u, 0x0e330a81u, 0xfc588982u,
    0xb21572c9u, 0x407ef1cau, 0x532e023eu, 0xa145813du, 0x758fe5d6u, 0x87e466d5u, 0x94b49521u, 0x66df1622u,
    0x38cc2a06u, 0xcaa7a905u, 0xd9f75af1u, 0x2b9cd9f2u, 0xff56bd19u, 0x0d3d3e1au, 0x1e6dcdeeu, 0xec064eedu,
    0xc38d26c4u, 0x31e6a5c7u, 0x22b65633u, 0xd0ddd530u, 0x0417b1dbu, 0xf67c32d8u, 0xe52cc12cu, 0x1747422fu,
    0x49547e0bu, 0xbb3ffd08u, 0xa86f0efcu, 0x5a048dffu, 0x8ecee914u, 0x7ca56a17u, 0x6ff599e3u, 0x9d9e1ae0u,
    0xd3d3e1abu, 0x21b862a8u, 0x32e8915cu, 0xc083125fu, 0x144976b4u, 0xe622f5b7u, 0xf5720643u, 0x07198540u,
    0x590ab964u, 0xab613a67u, 0xb831c993u, 0x4a5a4a90u, 0x9e902e7bu, 0x6cfbad78u, 0x7fab5e8cu, 0x8dc0dd8fu,
    0xe330a81au, 0x115b2b19u, 0x020bd8edu, 0xf0605beeu, 0x24aa3f05u, 0xd6c1bc06u, 0xc5914ff2u, 0x37faccf1u,
    0x69e9f0d5u, 0x9b8273d6u, 0x88d28022u, 0x7ab90321u, 0xae7367cau, 0x5c18e4c9u, 0x4f48173du, 0xbd23943eu,
    0xf36e6f75u, 0x0105ec76u, 0x12551f82u, 0xe03e9c81u, 0x34f4f86au, 0xc69f7b69u, 0xd5cf889du, 0x27a40b9eu,
    0x79b737bau, 0x8bdcb4b9u, 0x988c474du, 0x6ae7c44eu, 0xbe2da0a5u, 0x4c4623a6u, 0x5f16d052u, 0xad7d5351u,};

/* Returns the CRC-32C of what has the CRC-32C crc, with the bytes behind it. */
static u32 crc32c(u32 crc, const byte *at, size_t n) {
    crc = ~crc;
    for (; n > 0; n--) crc = crc >> 8 ^ castagnoli[(crc ^ *at++) & 0xff];
    return ~crc;
}

#define XX1 0x9e3779b185ebca87u
#define XX2 0xc2b2ae3d27d4eb4fu
#define XX3 0x165667b19e3779f9u
#define XX4 0x85ebca77c2b2ae63u

static u64 rotate(u64 n, int by) { return n << by | n >> (64 - by); }
static u64 xx_round(u64 sum, u64 n) { return rotate(sum + n * XX2, 31) * XX1; }

/* Returns the XXH64 of 48 bytes, seed 0: the chain of an entry. */
static u64 xxh64_48(const byte b[48]) {
    u64 sums[4] = {XX1 + XX2, XX2, 0, 0 - XX1}, h;
    int i;
    for (i = 0; i < 4; i++) sums[i] = xx_round(sums[i], get(b + 8 * i, 8));
    h = rotate(sums[0], 1) + rotate(sums[1], 7) + rotate(sums[2], 12) + rotate(sums[3], 18);
    for (i = 0; i < 4; i++) h = (h ^ xx_round(0, sums[i])) * XX1 + XX4;
    h += 48;
    for (i = 4; i < 6; i++) h = rotate(h ^ xx_round(0, get(b + 8 * i, 8)), 27) * XX1 + XX4;
    h = (h ^ h >> 33) * XX2;
    h = (h ^ h >> 29) * XX3;
    return h ^ h >> 32;
}

/* ---- Failures ---- */

#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
static int
fail(zuenet *c, int code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(c->message, sizeof c->message, format, arguments);
    va_end(arguments);
    return code;
}

/* Ends the connection, after fail. What it can still send is not known to be the answer to
 * the next request, so it must not come there. */
static int end_with(zuenet *c, int code) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->broken = code;
    return code;
}

static int bad_answer(zuenet *c, const char *what) {
    return end_with(c, fail(c, ZUENET_EPROTOCOL, "not an answer of a Zue server: %s", what));
}

static int no_memory(zuenet *c) { return end_with(c, fail(c, ZUENET_ENOMEM, "no memory left")); }

static int system_failure(zuenet *c, const char *what) {
    int error = errno;
    int code = error == EPIPE || error == ECONNRESET ? ZUENET_ECLOSED : ZUENET_ESYSTEM;
    c->system_error = error;
    return end_with(c, fail(c, code, "%s: errno %d", what, error));
}

/* Begins a call that talks to the server: what the last one has left is void. */
static int begin(zuenet *c) {
    if (c == NULL) return ZUENET_EINVAL;
    c->system_error = 0;
    c->server_code = ZUENET_SERVER_NONE;
    c->outcome = ZUENET_NOT_APPLIED;
    c->message[0] = 0;
    memset(&c->fetched, 0, sizeof c->fetched);
    c->fetched.state = ZUENET_EINVAL;
    if (c->fd < 0) {
        return fail(c, ZUENET_EBROKEN, "the connection is of no use since an earlier failure: %s",
                    zuenet_strerror(c->broken));
    }
    return ZUENET_OK;
}

static int invalid(zuenet *c, const char *what) { return fail(c, ZUENET_EINVAL, "%s", what); }

/* ---- Time ---- */

#define NEVER ((i64)-1)

static i64 now_ms(clockid_t clock) {
    struct timespec t;
    if (clock_gettime(clock, &t) != 0) return 0; /* both clocks are there: it cannot fail */
    return (i64)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Returns when a call that begins now must end, at the latest. */
static i64 deadline_in(i64 timeout_ms) {
    const i64 longest = (i64)1 << 50; /* so that no sum overflows */
    if (timeout_ms < 0) return NEVER;
    if (timeout_ms == 0) timeout_ms = DEFAULT_TIMEOUT_MS;
    return now_ms(CLOCK_MONOTONIC) + (timeout_ms < longest ? timeout_ms : longest);
}

/* Waits until fd is ready: 1, or 0 when the time is up, or -1 with errno. */
static int wait_for(int fd, short events, i64 deadline) {
    struct pollfd p;
    p.fd = fd;
    p.events = events;
    for (;;) {
        int n, timeout = -1;
        if (deadline != NEVER) {
            i64 rest = deadline - now_ms(CLOCK_MONOTONIC);
            if (rest <= 0) return 0;
            timeout = rest < 1000000 ? (int)rest : 1000000;
        }
        p.revents = 0;
        n = poll(&p, 1, timeout);
        if (n > 0) return 1;
        if (n < 0 && errno != EINTR) return -1;
    }
}

/* ---- The socket ---- */

/* Waits for more, within a call: OK, or the connection has ended. */
static int await(zuenet *c, short events, i64 deadline, const char *what) {
    int n = wait_for(c->fd, events, deadline);
    if (n > 0) return ZUENET_OK;
    if (n < 0) return system_failure(c, what);
    return end_with(c, fail(c, ZUENET_ETIMEDOUT, "%s: it did not happen in time", what));
}

/* Makes fd close-on-exec and non-blocking. */
static int prepare(int fd) {
    int one = 1, flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) return -1;
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) return -1;
    /* A request is sent whole: to wait for more would only delay it. */
    return setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

/* Connects to one address: a socket, or -1 with errno. */
static int connect_one(const struct addrinfo *a, i64 deadline) {
    int error = 0, n, fd = socket(a->ai_family, a->ai_socktype, a->ai_protocol);
    socklen_t size = sizeof error;
    if (fd < 0) return -1;
    if (prepare(fd) != 0) {
        error = errno;
    } else if (connect(fd, a->ai_addr, a->ai_addrlen) != 0) {
        error = errno;
        if (error == EINPROGRESS || error == EINTR) {
            n = wait_for(fd, POLLOUT, deadline);
            if (n == 0) {
                error = ETIMEDOUT;
            } else if (n < 0 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) {
                error = errno;
            }
        }
    }
    if (error == 0) return fd;
    close(fd);
    errno = error;
    return -1;
}

/* Connects to the first address that answers. */
static int connect_any(const struct addrinfo *list, i64 deadline, int *fd) {
    const struct addrinfo *a;
    int count = 0, error = EADDRNOTAVAIL;
    for (a = list; a != NULL; a = a->ai_next) count++;
    for (a = list; a != NULL; a = a->ai_next, count--) {
        i64 until = deadline;
        if (deadline != NEVER) {
            i64 now = now_ms(CLOCK_MONOTONIC);
            if (now >= deadline) {
                error = ETIMEDOUT;
                break;
            }
            until = now + (deadline - now) / count; /* the last gets what is left */
        }
        *fd = connect_one(a, until);
        if (*fd >= 0) return ZUENET_OK;
        error = errno;
    }
    errno = error;
    return error == ETIMEDOUT ? ZUENET_ETIMEDOUT : ZUENET_ESYSTEM;
}

/* Takes options of this size or another. */
static int take_options(zuenet_options *to, const zuenet_options *from) {
    const byte *bytes = (const byte *)from;
    size_t i;
    memset(to, 0, sizeof *to);
    if (from == NULL) return ZUENET_OK;
    if (from->size < sizeof from->size || from->size > 4096) return ZUENET_EINVAL;
    for (i = sizeof *to; i < from->size; i++) {
        if (bytes[i] != 0) return ZUENET_ENOTSUP;
    }
    memcpy(to, from, from->size < sizeof *to ? from->size : sizeof *to);
    return ZUENET_OK;
}

int zuenet_connect(const char *host, unsigned port, const zuenet_options *options,
                   zuenet **connection) {
    struct addrinfo hints, *list = NULL;
    zuenet_options o;
    zuenet *c;
    char service[16];
    i64 deadline;
    int code;
    if (connection == NULL) return ZUENET_EINVAL;
    *connection = NULL;
    if (host == NULL || host[0] == 0 || port < 1 || port > 65535) return ZUENET_EINVAL;
    if ((code = take_options(&o, options)) != ZUENET_OK) return code;
    deadline = deadline_in(o.timeout_ms);
    snprintf(service, sizeof service, "%u", port);
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV;
    code = getaddrinfo(host, service, &hints, &list);
    if (code == EAI_MEMORY) return ZUENET_ENOMEM;
    if (code != 0) return code == EAI_SYSTEM ? ZUENET_ESYSTEM : ZUENET_ERESOLVE;
    c = calloc(1, sizeof *c);
    code = c == NULL ? ZUENET_ENOMEM : connect_any(list, deadline, &c->fd);
    freeaddrinfo(list);
    if (code != ZUENET_OK) {
        int error = errno;
        free(c);
        errno = error; /* what the caller is to find there */
        return code;
    }
    c->timeout_ms = o.timeout_ms;
    c->server_code = ZUENET_SERVER_NONE;
    c->fetched.state = ZUENET_EINVAL;
    *connection = c;
    return ZUENET_OK;
}

void zuenet_close(zuenet *c) {
    if (c == NULL) return;
    if (c->fd >= 0) close(c->fd);
    free(c->in);
    free(c->out);
    free(c);
}

int zuenet_set_timeout(zuenet *c, zuenet_i64 timeout_ms) {
    if (c == NULL) return ZUENET_EINVAL;
    c->timeout_ms = timeout_ms;
    return ZUENET_OK;
}

/* ---- Frames ---- */

/* Makes room for an answer of size bytes, and a 0 behind it: room that was asked for before
 * at most doubles, so that memory follows what has arrived. */
static int make_room(zuenet *c, size_t size) {
    size_t capacity = c->in_capacity < FIRST_INPUT ? FIRST_INPUT : 2 * c->in_capacity;
    byte *in;
    if (capacity > size + 1) capacity = size + 1;
    if (capacity < FIRST_INPUT) capacity = FIRST_INPUT;
    in = realloc(c->in, capacity);
    if (in == NULL) return no_memory(c);
    c->in = in;
    c->in_capacity = capacity;
    return ZUENET_OK;
}

/* Checks what is there of the answer's head: *size gets the answer's, head included, once it
 * is known, and stays 0 before. */
static int check_head(zuenet *c, int want, size_t *size) {
    u64 length;
    if (c->in_size < HEAD) return ZUENET_OK;
    length = get(c->in, 4);
    if (length < 1 || length > (want == FETCH + 1 ? MAX_LARGE_FRAME : MAX_FRAME)) {
        return bad_answer(c, "a frame of a length that cannot be");
    }
    if (c->in[4] != want && c->in[4] != ERROR) return bad_answer(c, "of another type");
    if (c->in[4] == ERROR && length > MAX_FRAME) return bad_answer(c, "too long an error");
    *size = (size_t)length + 4;
    if (c->in_size > *size) return bad_answer(c, "more than was asked for");
    return ZUENET_OK;
}

/* Receives an answer of the type, or an error, to c->in. */
static int receive(zuenet *c, int want, i64 deadline) {
    static const char what[] = "to receive the answer";
    size_t size = 0;
    int code, ready = 0;
    c->in_size = 0;
    while (size == 0 || c->in_size < size) {
        ssize_t n;
        /* One byte stays free, for the 0 behind a status. */
        if (c->in_size + 1 >= c->in_capacity &&
            (code = make_room(c, size ? size : FIRST_INPUT - 1)) != ZUENET_OK) {
            return code;
        }
        if (!ready && (code = await(c, POLLIN, deadline, what)) != ZUENET_OK) return code;
        n = recv(c->fd, c->in + c->in_size, c->in_capacity - 1 - c->in_size, 0);
        if (n < 0 && errno == EINTR) continue;
        ready = n >= 0; /* more of it may be there already */
        if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) return system_failure(c, what);
        if (n == 0) {
            return end_with(c, fail(c, ZUENET_ECLOSED, "the server closed the connection"));
        }
        if (n > 0) {
            c->in_size += (size_t)n;
            if ((code = check_head(c, want, &size)) != ZUENET_OK) return code;
        }
        /* A server that sends without a pause must not outlast the deadline either. */
        if (ready && deadline != NEVER && now_ms(CLOCK_MONOTONIC) >= deadline) ready = 0;
    }
    return ZUENET_OK;
}

/* Says what became of an append that the server refused with a code. */
static int outcome_of(int server_code) {
    switch (server_code) {
    case ZUENET_SERVER_INVALID_OFFSET:
    case ZUENET_SERVER_RECORD_NOT_FOUND:
    case ZUENET_SERVER_SERIALIZATION_ERROR:
    case ZUENET_SERVER_INVALID_MESSAGE:
    case ZUENET_SERVER_LOG_FULL:
    case ZUENET_SERVER_UNKNOWN_LOG:
    case ZUENET_SERVER_OVERLOADED:
    case ZUENET_SERVER_PRODUCER_FENCED:
    case ZUENET_SERVER_SEQUENCE_GAP:
    case ZUENET_SERVER_NOT_LEADER:
    case ZUENET_SERVER_OFFSET_MISMATCH:
    case ZUENET_SERVER_INSUFFICIENT_ISR:
        return ZUENET_NOT_APPLIED;
    default:
        return ZUENET_MAYBE;
    }
}

/* Takes the error that was received. */
static int server_failure(zuenet *c) {
    cursor p = {NULL, NULL, 0};
    int code;
    u64 size;
    size_t i;
    p.at = c->in + HEAD;
    p.end = c->in + c->in_size;
    code = (int)take_number(&p, 1);
    size = take_number(&p, 4);
    if (p.bad || size != left(&p)) return bad_answer(c, "a malformed error");
    c->server_code = code;
    c->outcome = outcome_of(code);
    if (size > sizeof c->message - 1) size = sizeof c->message - 1;
    for (i = 0; i < size; i++) c->message[i] = p.at[i] != 0 ? (char)p.at[i] : ' ';
    c->message[size] = 0;
    if (code == ZUENET_SERVER_OVERLOADED) end_with(c, ZUENET_ESERVER); /* it hangs up */
    return ZUENET_ESERVER;
}

/* A request could not be sent: the server has hung up. It may have said why before. */
static int last_words(zuenet *c, i64 deadline) {
    int error = errno;
    const i64 soon = now_ms(CLOCK_MONOTONIC) + 1000;
    if (deadline == NEVER || deadline > soon) deadline = soon;
    if (receive(c, ERROR, deadline) == ZUENET_OK && server_failure(c) == ZUENET_ESERVER) {
        c->outcome = ZUENET_NOT_APPLIED; /* the server drops a part of a frame */
        return end_with(c, ZUENET_ESERVER);
    }
    errno = error;
    return system_failure(c, "to send the request");
}

/* Sends a frame that stands in parts. */
static int send_parts(zuenet *c, struct iovec *parts, int count, i64 deadline) {
    while (count > 0) {
        struct msghdr m;
        ssize_t n;
        if (parts->iov_len == 0) {
            parts++, count--;
            continue;
        }
        memset(&m, 0, sizeof m);
        m.msg_iov = parts;
        m.msg_iovlen = (unsigned)count;
        n = sendmsg(c->fd, &m, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            int code = await(c, POLLOUT, deadline, "to send the request");
            if (code != ZUENET_OK) return code;
        } else if (n < 0 && errno != EINTR) {
            if (errno == EPIPE || errno == ECONNRESET) return last_words(c, deadline);
            return system_failure(c, "to send the request");
        }
        for (; n > 0 && (size_t)n >= parts->iov_len; parts++, count--) n -= (ssize_t)parts->iov_len;
        if (n > 0) {
            parts->iov_base = (byte *)parts->iov_base + n;
            parts->iov_len -= (size_t)n;
        }
    }
    return ZUENET_OK;
}

/* Looks whether the server has said anything, or has hung up, since the last answer: then it
 * does not get the request. */
static int still_there(zuenet *c, i64 deadline) {
    byte b;
    ssize_t n;
    int code;
    do n = recv(c->fd, &b, 1, MSG_PEEK | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return ZUENET_OK;
    if (n <= 0) {
        if (n == 0) errno = ECONNRESET;
        return system_failure(c, "to send the request");
    }
    if ((code = receive(c, ERROR, deadline)) != ZUENET_OK) return code;
    if ((code = server_failure(c)) != ZUENET_ESERVER) return code;
    c->outcome = ZUENET_NOT_APPLIED;
    return end_with(c, ZUENET_ESERVER);
}

/* Makes a request of the type in parts, of which the first begins with room for the head, and
 * receives the answer: *payload is what follows the head in it. */
static int exchange(zuenet *c, int type, struct iovec *parts, int count, i64 deadline,
                    cursor *payload) {
    size_t size = 0;
    int i, code;
    for (i = 0; i < count; i++) size += parts[i].iov_len;
    put(parts[0].iov_base, size - 4, 4);
    ((byte *)parts[0].iov_base)[4] = (byte)type;
    if ((code = still_there(c, deadline)) != ZUENET_OK) return code;
    if ((code = send_parts(c, parts, count, deadline)) != ZUENET_OK) return code;
    c->outcome = ZUENET_MAYBE; /* the whole request is on its way */
    if ((code = receive(c, type + 1, deadline)) != ZUENET_OK) return code;
    if (c->in[4] == ERROR) return server_failure(c);
    payload->at = c->in + HEAD;
    payload->end = c->in + c->in_size;
    payload->bad = 0;
    return ZUENET_OK;
}

/* exchange for a request in one part, in the usual time. */
static int ask(zuenet *c, int type, byte *request, const byte *end, cursor *payload) {
    struct iovec part;
    part.iov_base = request;
    part.iov_len = (size_t)(end - request);
    return exchange(c, type, &part, 1, deadline_in(c->timeout_ms), payload);
}

/* Checks that the answer is what was read of it, and no more. */
static int whole(zuenet *c, const cursor *payload) {
    if (payload->bad) return bad_answer(c, "it is too short");
    if (left(payload) > 0) return bad_answer(c, "it is too long");
    return ZUENET_OK;
}

/* ---- Requests ---- */

/* Checks a pointer with its size. */
static int good(const void *at, size_t size) { return at != NULL || size == 0; }

/* Begins a part of a request with bytes of the caller's, which are only read. */
static struct iovec part_of(const void *at, size_t size) {
    struct iovec part;
    memset(&part, 0, sizeof part);
    memcpy(&part.iov_base, &at, sizeof at); /* there is no iovec for constant bytes */
    part.iov_len = size;
    return part;
}

int zuenet_append(zuenet *c, const void *key, size_t key_size, const void *value,
                  size_t value_size, zuenet_u64 *offset) {
    byte head[HEAD + 4], middle[4];
    struct iovec parts[4];
    cursor payload = {NULL, NULL, 0};
    u64 at;
    int code = begin(c);
    if (code != ZUENET_OK) return code;
    if (!good(key, key_size)) return invalid(c, "a null key with a size");
    if (!good(value, value_size)) return invalid(c, "a null value with a size");
    if (key_size > ZUENET_MAX_RECORD || value_size > ZUENET_MAX_RECORD - key_size) {
        return fail(c, ZUENET_ETOOLARGE, "a record of more than %d bytes", ZUENET_MAX_RECORD);
    }
    put(head + HEAD, key != NULL ? key_size : 0xffffffff, 4);
    put(middle, value_size, 4);
    parts[0] = part_of(head, sizeof head);
    parts[1] = part_of(key, key_size);
    parts[2] = part_of(middle, sizeof middle);
    parts[3] = part_of(value, value_size);
    code = exchange(c, APPEND, parts, 4, deadline_in(c->timeout_ms), &payload);
    if (code != ZUENET_OK) return code;
    at = take_number(&payload, 8);
    if ((code = whole(c, &payload)) != ZUENET_OK) return code;
    if (offset != NULL) *offset = at;
    c->outcome = ZUENET_APPLIED;
    return ZUENET_OK;
}

/* Appends a body of count records; of as many as the server says if count is 0. */
static int append_body(zuenet *c, const void *body, size_t size, u32 count,
                       const zuenet_u64 *expected_end, zuenet_receipt *receipt) {
    byte head[HEAD + 21], *at = head + HEAD;
    struct iovec parts[2];
    cursor payload = {NULL, NULL, 0};
    zuenet_receipt r;
    int code;
    if (size > ZUENET_MAX_BATCH) {
        return fail(c, ZUENET_ETOOLARGE, "a batch of more than %d bytes", ZUENET_MAX_BATCH);
    }
    at = put(at, 0, 4); /* the log */
    at = put(at, expected_end != NULL, 1);
    at = put(at, expected_end != NULL ? *expected_end : 0, 8);
    at = put(at, crc32c(0, body, size), 4);
    put(at, size, 4);
    parts[0] = part_of(head, sizeof head);
    parts[1] = part_of(body, size);
    code = exchange(c, BATCH_APPEND, parts, 2, deadline_in(c->timeout_ms), &payload);
    if (code != ZUENET_OK) return code;
    memset(&r, 0, sizeof r);
    r.first_offset = take_number(&payload, 8);
    r.count = (u32)take_number(&payload, 4);
    r.term = take_number(&payload, 8);
    r.copies = (u32)take_number(&payload, 4);
    r.duplicate = (u32)take_number(&payload, 1);
    if ((code = whole(c, &payload)) != ZUENET_OK) return code;
    if (r.duplicate > 1 || r.count == 0 || (count != 0 && r.count != count)) {
        return bad_answer(c, "a receipt for something else");
    }
    if (receipt != NULL) *receipt = r;
    c->outcome = ZUENET_APPLIED;
    return ZUENET_OK;
}

int zuenet_append_encoded(zuenet *c, const void *body, size_t size,
                          const zuenet_u64 *expected_end, zuenet_receipt *receipt) {
    int code = begin(c);
    if (code != ZUENET_OK) return code;
    if (body == NULL || size == 0) return invalid(c, "no body");
    return append_body(c, body, size, 0, expected_end, receipt);
}

static size_t field_size(const void *at, size_t size) {
    return at != NULL ? varint_size((i64)size) + size : 1;
}

/* Returns the size of a record without its length, which stands before it. */
static size_t pair_size(const zuenet_pair *p, i64 time_delta, i64 delta) {
    return 1 + varint_size(time_delta) + varint_size(delta) + field_size(p->key, p->key_size) +
           field_size(p->value, p->value_size) + 1;
}

static i64 time_of(const zuenet_pair *p, i64 now) { return p->timestamp ? p->timestamp : now; }

/* Returns how much later a record is than the batch's first. */
static i64 time_delta(const zuenet_pair *p, i64 now, i64 base) {
    return (i64)((u64)time_of(p, now) - (u64)base);
}

/* Checks the records of a batch: *size gets the batch's, *latest the latest timestamp. */
static int measure(zuenet *c, const zuenet_pair *pairs, size_t count, i64 now, size_t *size,
                   i64 *latest) {
    i64 base = time_of(&pairs[0], now);
    size_t i;
    *size = BATCH_HEADER;
    *latest = base;
    for (i = 0; i < count; i++) {
        const zuenet_pair *p = &pairs[i];
        i64 time = time_of(p, now);
        size_t n;
        if (!good(p->key, p->key_size)) return invalid(c, "a null key with a size");
        if (!good(p->value, p->value_size)) return invalid(c, "a null value with a size");
        if ((time_delta(p, now, base) < 0) != (time < base)) {
            return invalid(c, "timestamps too far apart");
        }
        if (time > *latest) *latest = time;
        /* Each compared by itself, so that no sum can overflow. */
        if (p->key_size > ZUENET_MAX_BATCH || p->value_size > ZUENET_MAX_BATCH) break;
        n = pair_size(p, time_delta(p, now, base), (i64)i);
        *size += varint_size((i64)n) + n;
        if (*size > ZUENET_MAX_BATCH) break;
    }
    if (i == count) return ZUENET_OK;
    return fail(c, ZUENET_ETOOLARGE, "a batch of more than %d bytes", ZUENET_MAX_BATCH);
}

static byte *put_field(byte *at, const void *bytes, size_t size) {
    if (bytes == NULL) return put_varint(at, -1);
    at = put_varint(at, (i64)size);
    memcpy(at, bytes, size);
    return at + size;
}

/* Encodes a batch, as storage/FORMAT.md says; returns its end. */
static byte *encode(byte *at, const zuenet_pair *pairs, size_t count, i64 now, i64 latest) {
    i64 base = time_of(&pairs[0], now);
    size_t i;
    at = put_big(at, 0, 2); /* attributes: not compressed */
    at = put_big(at, count - 1, 4);
    at = put_big(at, (u64)base, 8);
    at = put_big(at, (u64)latest, 8);
    at = put_big(at, ~(u64)0, 8); /* no producer: id, epoch and sequence are -1 */
    at = put_big(at, ~(u64)0, 2);
    at = put_big(at, ~(u64)0, 4);
    at = put_big(at, count, 4);
    for (i = 0; i < count; i++) {
        const zuenet_pair *p = &pairs[i];
        i64 delta = time_delta(p, now, base);
        at = put_varint(at, (i64)pair_size(p, delta, (i64)i));
        *at++ = 0; /* attributes */
        at = put_varint(at, delta);
        at = put_varint(at, (i64)i);
        at = put_field(at, p->key, p->key_size);
        at = put_field(at, p->value, p->value_size);
        at = put_varint(at, 0); /* headers */
    }
    return at;
}

int zuenet_append_batch(zuenet *c, const zuenet_pair *pairs, size_t count,
                        const zuenet_u64 *expected_end, zuenet_receipt *receipt) {
    i64 now = now_ms(CLOCK_REALTIME), latest;
    size_t size;
    int code = begin(c);
    if (code != ZUENET_OK) return code;
    if (pairs == NULL || count == 0) return invalid(c, "no records");
    if ((code = measure(c, pairs, count, now, &size, &latest)) != ZUENET_OK) return code;
    if (size > c->out_capacity) {
        byte *out = malloc(size);
        if (out == NULL) return no_memory(c);
        free(c->out);
        c->out = out;
        c->out_capacity = size;
    }
    encode(c->out, pairs, count, now, latest);
    return append_body(c, c->out, size, (u32)count, expected_end, receipt);
}

int zuenet_read(zuenet *c, zuenet_u64 offset, zuenet_record *record) {
    byte request[HEAD + 8];
    cursor payload = {NULL, NULL, 0};
    zuenet_record r;
    u64 size;
    int code = begin(c);
    if (code != ZUENET_OK) return code;
    if (record == NULL) return invalid(c, "no place for the record");
    code = ask(c, READ, request, put(request + HEAD, offset, 8), &payload);
    if (code != ZUENET_OK) return code;
    memset(&r, 0, sizeof r);
    r.offset = offset;
    if ((size = take_number(&payload, 4)) != 0xffffffff) {
        r.key_size = (size_t)size;
        r.key = take(&payload, r.key_size); /* a negative size is one of more than there is */
    }
    r.value_size = (size_t)take_number(&payload, 4);
    r.value = take(&payload, r.value_size);
    if ((code = whole(c, &payload)) != ZUENET_OK) return code;
    *record = r;
    return ZUENET_OK;
}

/* Makes a request whose answer is a number, in 8 bytes. */
static int ask_number(zuenet *c, int type, byte *request, const byte *end, u64 *number) {
    cursor payload = {NULL, NULL, 0};
    u64 n;
    int code = ask(c, type, request, end, &payload);
    if (code != ZUENET_OK) return code;
    n = take_number(&payload, 8);
    if ((code = whole(c, &payload)) == ZUENET_OK) *number = n;
    return code;
}

int zuenet_end_offset(zuenet *c, zuenet_u64 *end) {
    byte request[HEAD + 4];
    int code = begin(c);
    if (code != ZUENET_OK) return code;
    if (end == NULL) return invalid(c, "no place for the offset");
    return ask_number(c, BARRIER, request, put(request + HEAD, 0, 4), end);
}

int zuenet_offset_for_time(zuenet *c, zuenet_i64 timestamp, zuenet_u64 *offset) {
    byte request[HEAD + 12], *at = request + HEAD;
    int code = begin(c);
    if (code != ZUENET_OK) return code;
    if (offset == NULL) return invalid(c, "no place for the offset");
    at = put(put(at, 0, 4), (u64)timestamp, 8);
    return ask_number(c, OFFSET_FOR_TIME, request, at, offset);
}

int zuenet_status(zuenet *c, const char **json, size_t *size) {
    byte request[HEAD + 4];
    cursor payload = {NULL, NULL, 0};
    size_t n;
    const byte *at;
    int code = begin(c);
    if (code != ZUENET_OK) return code;
    if (json == NULL) return invalid(c, "no place for the status");
    code = ask(c, STATUS, request, put(request + HEAD, 0, 4), &payload);
    if (code != ZUENET_OK) return code;
    n = (size_t)take_number(&payload, 4);
    at = take(&payload, n);
    if ((code = whole(c, &payload)) != ZUENET_OK) return code;
    c->in[c->in_size] = 0; /* receive leaves a byte for it */
    *json = (const char *)at;
    if (size != NULL) *size = n;
    return ZUENET_OK;
}

/* ---- What was fetched ---- */

/* Takes the answer to a fetch from an offset. */
static int open_fetched(zuenet *c, cursor payload, u64 offset, u64 *first, u64 *end) {
    fetched *f = &c->fetched;
    byte seed[4];
    u64 kept = take_number(&payload, 8), limit = take_number(&payload, 8);
    u64 format = take_number(&payload, 1), size;
    put(seed, take_number(&payload, 4), 4);
    size = take_number(&payload, 4);
    if (payload.bad || size != left(&payload)) return bad_answer(c, "a malformed fetch");
    if (kept > limit || limit > MAX_NUMBER) return bad_answer(c, "offsets that cannot be");
    f->state = size > 0 && format != FORMAT ? ZUENET_EVERSION : ZUENET_OK;
    f->at = payload.at;
    f->end = payload.end;
    f->seed = crc32c(0, seed, 4);
    f->from = f->next = offset;
    f->limit = limit;
    *first = kept;
    *end = limit;
    return ZUENET_OK;
}

int zuenet_fetch(zuenet *c, zuenet_u64 offset, zuenet_u32 most_bytes, zuenet_u32 least_bytes,
                 zuenet_u32 wait_ms, zuenet_u64 *first, zuenet_u64 *end) {
    byte request[HEAD + 24], *at = request + HEAD;
    cursor payload = {NULL, NULL, 0};
    struct iovec part;
    u64 kept = 0, limit = 0;
    i64 deadline;
    int code = begin(c);
    if (code != ZUENET_OK) return code;
    at = put(put(at, 0, 4), offset, 8);
    put(put(put(at, most_bytes, 4), least_bytes, 4), wait_ms, 4);
    part = part_of(request, sizeof request);
    deadline = deadline_in(c->timeout_ms);
    if (deadline != NEVER) deadline += wait_ms;
    code = exchange(c, FETCH, &part, 1, deadline, &payload);
    if (code == ZUENET_OK) code = open_fetched(c, payload, offset, &kept, &limit);
    if (code != ZUENET_OK) return code;
    if (first != NULL) *first = kept;
    if (end != NULL) *end = limit;
    return ZUENET_OK;
}

/* Ends what was fetched: each zuenet_next returns the code from now on. */
static int stop(zuenet *c, int code, const char *what) {
    c->fetched.state = code;
    return fail(c, code, "behind the record before offset %llu: %s",
                (unsigned long long)c->fetched.next, what);
}

/* Returns the chain of an entry behind one of that chain. */
static u64 chain_of(u64 before, const byte *h) {
    byte b[48];
    memset(b, 0, sizeof b);
    put(b, before, 8);
    memcpy(b + 8, h + 8, 24);       /* index, offset, term */
    memcpy(b + 32, h + 52, 4 + 4 + 1); /* span, born CRC, kind */
    return xxh64_48(b);
}

/* Says what is wrong with the header of the next entry, by itself and behind the one before:
 * NULL if nothing is. All of it has the right checksum. */
static const char *entry_fault(const fetched *f, const byte *h) {
    u64 index = get(h + 8, 8), offset = get(h + 16, 8), term = get(h + 24, 8);
    u64 span = get(h + 52, 4);
    int data = h[60] == KIND_DATA;
    if (!data && h[60] != KIND_CONTROL) return "an entry of an unknown kind";
    if (h[61] != 0 || h[62] != 0 || h[63] != 0 || data != (span > 0)) return "a wrong header";
    if (index == 0 || index > MAX_NUMBER || get(h + 40, 8) >= index) return "a wrong index";
    if (offset > f->limit || span > f->limit - offset) return "an entry beyond the log's end";
    if (!f->any) {
        /* It must hold the record that was asked for, or that would seem not to exist. */
        if (offset > f->from || (data && f->from - offset >= span)) return "an entry not asked for";
        return NULL;
    }
    if (index != f->index + 1 || offset != f->follows || term < f->term) {
        return "an entry that does not follow the one before";
    }
    return get(h + 32, 8) == chain_of(f->chain, h) ? NULL : "the chain of entries is broken";
}

/* Begins the batch of an entry whose checksums are right. */
static int open_batch(zuenet *c, const byte *body, size_t size, u64 offset, u64 span) {
    fetched *f = &c->fetched;
    u64 attributes, last, count;
    if (size < BATCH_HEADER) return stop(c, ZUENET_ECORRUPT, "a batch without a header");
    attributes = get_big(body, 2);
    last = get_big(body + 2, 4);
    count = get_big(body + 36, 4);
    if (attributes > 4) { /* codecs are 0 to 4 */
        return stop(c, ZUENET_EVERSION, "a batch with attributes that are not known");
    }
    if (last + 1 != span || count > span) return stop(c, ZUENET_ECORRUPT, "a wrong batch header");
    if (attributes != 0) {
        return stop(c, ZUENET_ECOMPRESSED, "the records are compressed: read them one by one");
    }
    f->record = body + BATCH_HEADER;
    f->record_end = body + size;
    f->left = (u32)count;
    f->base_offset = offset;
    f->base_time = get_big(body + 6, 8);
    f->least_delta = 0;
    f->last_delta = (i64)last;
    return ZUENET_OK;
}

/* Moves over the header of the next entry, and begins its batch. */
static int open_entry(zuenet *c) {
    fetched *f = &c->fetched;
    const byte *h = f->at, *body = h + ENTRY_HEADER;
    size_t rest = (size_t)(f->end - f->at), size, padded;
    const char *fault;
    u64 offset, span;
    if (rest < ENTRY_HEADER || get(h + 48, 4) > rest - ENTRY_HEADER) {
        return stop(c, ZUENET_ECORRUPT, "a part of an entry");
    }
    size = (size_t)get(h + 48, 4);
    padded = (size + 7) & ~(size_t)7;
    if (get(h, 4) != crc32c(f->seed, h + 4, ENTRY_HEADER - 4)) {
        return stop(c, ZUENET_ECORRUPT, "wrong checksum of an entry's header");
    }
    if (padded > rest - ENTRY_HEADER) return stop(c, ZUENET_ECORRUPT, "a part of an entry");
    if (get(h + 4, 4) != crc32c(0, body, size)) {
        return stop(c, ZUENET_ECORRUPT, "wrong checksum of an entry's body");
    }
    if ((fault = entry_fault(f, h)) != NULL) return stop(c, ZUENET_ECORRUPT, fault);
    offset = get(h + 16, 8);
    span = get(h + 52, 4);
    f->any = 1;
    f->index = get(h + 8, 8);
    f->follows = offset + span;
    f->term = get(h + 24, 8);
    f->chain = get(h + 32, 8);
    f->at = body + padded;
    return span > 0 ? open_batch(c, body, size, offset, span) : ZUENET_OK;
}

/* Checks a record's headers, which are the rest of it. */
static void check_headers(cursor *p, zuenet_record *r) {
    i64 count = take_varint(p), i;
    cursor q = *p;
    size_t size;
    if (p->bad || count < 0 || (u64)count > left(p) / 2) {
        p->bad = 1;
        return;
    }
    r->header_count = (size_t)count;
    r->header_bytes = p->at;
    r->header_bytes_size = left(p);
    for (i = 0; i < count && !q.bad; i++) {
        if (take_field(&q, &size) == NULL) q.bad = 1; /* a name is never null */
        take_field(&q, &size);
    }
    p->bad = q.bad || left(&q) > 0;
}

/* Decodes the next record of the batch. */
static int next_record(zuenet *c, zuenet_record *r) {
    fetched *f = &c->fetched;
    cursor p = {NULL, NULL, 0}, whole_batch = {NULL, NULL, 0};
    const byte *attributes;
    i64 size, delta;
    whole_batch.at = f->record;
    whole_batch.end = f->record_end;
    size = take_varint(&whole_batch);
    if (whole_batch.bad || size < 1 || (u64)size > left(&whole_batch)) {
        return stop(c, ZUENET_ECORRUPT, "a part of a record");
    }
    p.at = whole_batch.at;
    p.end = p.at + size;
    memset(r, 0, sizeof *r);
    attributes = take(&p, 1);
    /* The sum wraps around as unsigned numbers do: what it is of has a right checksum. */
    r->timestamp = (i64)(f->base_time + (u64)take_varint(&p));
    delta = take_varint(&p);
    r->key = take_field(&p, &r->key_size);
    r->value = take_field(&p, &r->value_size);
    check_headers(&p, r);
    if (p.bad || *attributes != 0 || delta < f->least_delta || delta > f->last_delta) {
        return stop(c, ZUENET_ECORRUPT, "a malformed record");
    }
    r->offset = f->base_offset + (u64)delta;
    f->record = p.end;
    f->least_delta = delta + 1;
    f->left--;
    return ZUENET_OK;
}

int zuenet_next(zuenet *c, zuenet_record *record) {
    zuenet_record r;
    fetched *f;
    int code;
    if (c == NULL || record == NULL) return ZUENET_EINVAL;
    f = &c->fetched;
    for (;;) {
        if (f->state != ZUENET_OK) return f->state;
        if (f->left > 0) {
            if ((code = next_record(c, &r)) != ZUENET_OK) return code;
            if (r.offset < f->from) continue;
            f->next = r.offset + 1;
            *record = r;
            return ZUENET_OK;
        }
        if (f->record != f->record_end) {
            return stop(c, ZUENET_ECORRUPT, "bytes behind the last record");
        }
        if (f->any && f->follows > f->next) f->next = f->follows; /* the last ones may be gone */
        if (f->at == f->end) return f->state = ZUENET_EEND;
        if ((code = open_entry(c)) != ZUENET_OK) return code;
    }
}

zuenet_u64 zuenet_next_offset(const zuenet *c) { return c != NULL ? c->fetched.next : 0; }

int zuenet_next_header(zuenet_record *record, zuenet_header *header) {
    cursor p = {NULL, NULL, 0};
    zuenet_header h;
    if (record == NULL || header == NULL) return ZUENET_EINVAL;
    if (record->header_count == 0) return ZUENET_EEND;
    if (record->header_bytes == NULL) return ZUENET_ECORRUPT;
    p.at = record->header_bytes;
    p.end = p.at + record->header_bytes_size;
    h.name = take_field(&p, &h.name_size);
    h.value = take_field(&p, &h.value_size);
    if (p.bad || h.name == NULL) return ZUENET_ECORRUPT;
    record->header_count--;
    record->header_bytes = p.at;
    record->header_bytes_size = left(&p);
    *header = h;
    return ZUENET_OK;
}

/* ---- About a connection ---- */

int zuenet_usable(const zuenet *c) { return c != NULL && c->fd >= 0; }

const char *zuenet_message(const zuenet *c) { return c != NULL ? c->message : ""; }

int zuenet_server_code(const zuenet *c) {
    return c != NULL ? c->server_code : ZUENET_SERVER_NONE;
}

int zuenet_errno(const zuenet *c) { return c != NULL ? c->system_error : 0; }

int zuenet_outcome(const zuenet *c) { return c != NULL ? c->outcome : ZUENET_NOT_APPLIED; }

const char *zuenet_strerror(int code) {
    static const char *const texts[] = {
        "an argument is not valid",
        "the options ask for what this version does not know",
        "no memory left",
        "the host's name has no address",
        "the operating system reported an error",
        "it did not happen in time",
        "the server closed the connection",
        "the connection is of no use since an earlier failure",
        "what came is no answer of a Zue server",
        "the server refused",
        "too large",
        "no more records in what was fetched",
        "fetched bytes are not what was written",
        "the next records are compressed",
        "fetched bytes are of a format that is not known",
    };
    if (code == ZUENET_OK) return "no error";
    if (code > ZUENET_EINVAL || code < ZUENET_EVERSION) return "not a code of zuenet";
    return texts[ZUENET_EINVAL - code];
}
