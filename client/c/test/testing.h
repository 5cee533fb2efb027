/* What the tests share: checks that say where they failed, golden files, entries made by the
 * rules of storage/FORMAT.md, and servers: the real one, and one that says what it is told. */
#ifndef ZUENET_TESTING_H
#define ZUENET_TESTING_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client/c/zuenet.h"

extern char **environ;

/* Ends the test unless the condition holds. */
#define CHECK(condition) test_check(__FILE__, __LINE__, #condition, (condition))

/* Ends the test unless a call on c returned the code. */
#define CALL(code, c, call) test_code(__FILE__, __LINE__, #call, (code), (call), (c))

static inline void test_check(const char *file, int line, const char *what, int holds) {
    if (holds) return;
    fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
    exit(1);
}

static inline void test_code(const char *file, int line, const char *call, int want, int got,
                             const zuenet *c) {
    if (got == want) return;
    fprintf(stderr, "%s:%d: %s\n    returned %d (%s; %s)\n    not %d (%s)\n", file, line, call, got,
            zuenet_strerror(got), zuenet_message(c), want, zuenet_strerror(want));
    exit(1);
}

/* Says whether bytes are those of a string; NULL is the null one. */
static inline int test_is(const void *bytes, size_t size, const char *text) {
    if (text == NULL) return bytes == NULL && size == 0;
    return bytes != NULL && size == strlen(text) && memcmp(bytes, text, size) == 0;
}

static inline zuenet_pair test_pair(const char *key, const char *value) {
    zuenet_pair p;
    memset(&p, 0, sizeof p);
    p.key = key;
    p.key_size = key ? strlen(key) : 0;
    p.value = value;
    p.value_size = value ? strlen(value) : 0;
    return p;
}

static inline long test_ms(void) {
    struct timespec t;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
    return (long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* A buffer that grows. */
typedef struct {
    unsigned char *at;
    size_t size, capacity;
} bytes;

static inline void add(bytes *b, const void *at, size_t size) {
    if (b->size + size > b->capacity) {
        b->capacity = 2 * (b->size + size);
        b->at = realloc(b->at, b->capacity);
        CHECK(b->at != NULL);
    }
    if (size > 0) memcpy(b->at + b->size, at, size);
    b->size += size;
}

static inline void add_number(bytes *b, zuenet_u64 n, int size) {
    for (; size > 0; size--, n >>= 8) add(b, &(unsigned char){(unsigned char)n}, 1);
}

/* Adds what a golden file of net/wire/testdata has: hexadecimal bytes, and comments. */
static inline void add_golden(bytes *b, const char *dir, const char *name) {
    char path[4096], line[4096], *at, *end;
    FILE *f;
    snprintf(path, sizeof path, "%s/%s.hex", dir, name);
    f = fopen(path, "r");
    CHECK(f != NULL);
    while (fgets(line, sizeof line, f) != NULL) {
        line[strcspn(line, "#")] = 0;
        for (at = line;; at = end) {
            unsigned long n = strtoul(at, &end, 16);
            if (end == at) break;
            add_number(b, n, 1);
        }
    }
    CHECK(fclose(f) == 0 && b->size > 0);
}

static inline void put_at(unsigned char *at, zuenet_u64 n, int size) {
    for (; size > 0; size--, n >>= 8) *at++ = (unsigned char)n;
}

/* Returns the CRC-32C of what has the CRC-32C crc, with bytes behind it: bit by bit, so that
 * it has nothing in common with the client's. */
static inline zuenet_u32 test_crc(zuenet_u32 crc, const void *at, size_t size) {
    const unsigned char *b = at;
    int i;
    for (crc = ~crc; size > 0; size--) {
        crc ^= *b++;
        for (i = 0; i < 8; i++) crc = crc >> 1 ^ ((crc & 1) ? 0x82f63b78u : 0);
    }
    return ~crc;
}

/* The real server. */
typedef struct {
    pid_t pid;
    FILE *output;
    unsigned port;
} server;

/* Starts a server on a free port of the loopback, with a log of its own. */
static inline server start(const char *program) {
    const char *tmp = getenv("TEST_TMPDIR");
    char dir[4096], line[4096], *port;
    char *argv[] = {(char *)program, (char *)"0", dir, NULL};
    posix_spawn_file_actions_t actions;
    server s;
    int fds[2];
    snprintf(dir, sizeof dir, "%s/zuenet-test-XXXXXX", tmp ? tmp : "/tmp");
    CHECK(mkdtemp(dir) != NULL && pipe(fds) == 0);
    CHECK(posix_spawn_file_actions_init(&actions) == 0);
    CHECK(posix_spawn_file_actions_adddup2(&actions, fds[1], STDERR_FILENO) == 0);
    CHECK(posix_spawn_file_actions_addclose(&actions, fds[0]) == 0);
    CHECK(posix_spawn(&s.pid, program, &actions, NULL, argv, environ) == 0);
    CHECK(posix_spawn_file_actions_destroy(&actions) == 0 && close(fds[1]) == 0);
    s.output = fdopen(fds[0], "r");
    CHECK(s.output != NULL);
    do {
        CHECK(fgets(line, sizeof line, s.output) != NULL);
        fputs(line, stderr);
    } while ((port = strstr(line, "address=127.0.0.1:")) == NULL);
    s.port = (unsigned)atoi(strchr(port, ':') + 1);
    return s;
}

static inline void stop_server(server s) {
    char line[4096];
    int status = 0;
    CHECK(kill(s.pid, SIGTERM) == 0);
    while (fgets(line, sizeof line, s.output) != NULL) fputs(line, stderr);
    CHECK(waitpid(s.pid, &status, 0) == s.pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(fclose(s.output) == 0);
}

/* What a fake server does with its one connection. */
typedef struct {
    const bytes *want;   /* the request that it must get; NULL: any */
    const bytes *answer; /* what it sends */
    size_t piece;        /* how many bytes of that at a time; 0: all */
    long pause_ms;       /* between them */
    int hang;            /* then wait for the client to hang up, instead of hanging up */
    int deaf;            /* read nothing */
} script;

/* Plays a script in the child. Its exit code says whether the request was the wanted one. */
static inline void play(int listener, const script *s) {
    static unsigned char request[1 << 16];
    int fd = accept(listener, NULL, NULL);
    size_t got = 0, at, n, want = s->want ? s->want->size : 1;
    if (fd < 0) _exit(2);
    while (!s->deaf && got < want) {
        ssize_t k = recv(fd, request + got, sizeof request - got, 0);
        if (k <= 0) _exit(3);
        got += (size_t)k;
    }
    if (s->want && (got != want || memcmp(request, s->want->at, want) != 0)) _exit(4);
    for (at = 0; s->answer && at < s->answer->size; at += n) {
        struct timespec t = {0, s->pause_ms * 1000000};
        n = s->answer->size - at;
        if (s->piece > 0 && n > s->piece) n = s->piece;
        if (send(fd, s->answer->at + at, n, MSG_NOSIGNAL) < 0) _exit(0); /* it has hung up */
        nanosleep(&t, NULL);
    }
    /* A part of the request that is not read would become a reset. */
    if (!s->deaf && !s->hang) shutdown(fd, SHUT_WR);
    while (s->deaf && s->hang) pause(); /* until it is killed: it cannot see a hang-up */
    while (!s->deaf && recv(fd, request, sizeof request, 0) > 0) continue;
    _exit(0);
}

/* A server that plays a script to one client. */
typedef struct {
    pid_t pid;
    unsigned port;
    int forever; /* it does not end by itself */
} fake;

static inline fake fake_start(const script *s) {
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    int small = 4096; /* what a deaf server's system takes in */
    fake f;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(listener >= 0 && bind(listener, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof small) == 0);
    CHECK(listen(listener, 1) == 0);
    CHECK(getsockname(listener, (struct sockaddr *)&address, &size) == 0);
    f.port = ntohs(address.sin_port);
    f.forever = s->deaf && s->hang;
    f.pid = fork();
    CHECK(f.pid >= 0);
    if (f.pid == 0) play(listener, s);
    CHECK(close(listener) == 0);
    return f;
}

/* Starts a script, and connects to it with a timeout. */
static inline fake fake_connect(const script *s, zuenet_i64 timeout_ms, zuenet **c) {
    fake f = fake_start(s);
    zuenet_options o;
    memset(&o, 0, sizeof o);
    o.size = sizeof o;
    o.timeout_ms = timeout_ms;
    CALL(ZUENET_OK, NULL, zuenet_connect("127.0.0.1", f.port, &o, c));
    return f;
}

/* Hangs up, and checks that the fake server got what it wanted. */
static inline void fake_end(fake f, zuenet *c) {
    int status = 0;
    zuenet_close(c);
    CHECK(!f.forever || kill(f.pid, SIGKILL) == 0);
    CHECK(waitpid(f.pid, &status, 0) == f.pid);
    CHECK(f.forever || (WIFEXITED(status) && WEXITSTATUS(status) == 0));
}

#endif
