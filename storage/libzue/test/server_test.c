/*
 * Files that a C program wrote, read by zue-server, and the other way round. The
 * server's program is argv[1]. It is spoken to as net/PROTOCOL.md says.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "testing.h"

extern char **environ;

typedef struct {
    pid_t pid;
    FILE *output;
    int socket;
} server;

/* Starts a server of dir on a free port and connects to it. */
static server start(const char *program, const char *dir) {
    char *argv[] = {(char *)program, (char *)"0", (char *)dir, NULL};
    posix_spawn_file_actions_t actions;
    struct sockaddr_in address;
    char line[4096], *port;
    server s;
    int fds[2];
    CHECK(pipe(fds) == 0);
    CHECK(posix_spawn_file_actions_init(&actions) == 0);
    CHECK(posix_spawn_file_actions_adddup2(&actions, fds[1], STDERR_FILENO) == 0);
    CHECK(posix_spawn_file_actions_addclose(&actions, fds[0]) == 0);
    CHECK(posix_spawn(&s.pid, program, &actions, NULL, argv, environ) == 0);
    CHECK(posix_spawn_file_actions_destroy(&actions) == 0);
    CHECK(close(fds[1]) == 0);
    s.output = fdopen(fds[0], "r");
    CHECK(s.output != NULL);
    do {
        CHECK(fgets(line, sizeof line, s.output) != NULL);
        fputs(line, stderr);
    } while ((port = strstr(line, "address=127.0.0.1:")) == NULL);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((uint16_t)atoi(strchr(port, ':') + 1));
    s.socket = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(s.socket >= 0);
    CHECK(connect(s.socket, (struct sockaddr *)&address, sizeof address) == 0);
    return s;
}

static void stop(server s) {
    char line[4096];
    int status = 0;
    CHECK(close(s.socket) == 0);
    CHECK(kill(s.pid, SIGTERM) == 0);
    while (fgets(line, sizeof line, s.output) != NULL) fputs(line, stderr);
    CHECK(waitpid(s.pid, &status, 0) == s.pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(fclose(s.output) == 0);
}

static unsigned char *put_number(unsigned char *at, zue_u64 n, int bytes) {
    for (; bytes > 0; bytes--, n >>= 8) *at++ = (unsigned char)n;
    return at;
}

static zue_u64 number(const unsigned char *at, int bytes) {
    zue_u64 n = 0;
    while (bytes > 0) n = n << 8 | at[--bytes];
    return n;
}

/* Sends a message, and receives one of the type, whose payload it returns the size of. */
static size_t exchange(server s, int type, const unsigned char *payload, size_t size,
                       int want, unsigned char answer[4096]) {
    unsigned char head[5], request[4096];
    size_t length;
    CHECK(size + 5 <= sizeof request);
    put_number(request, size + 1, 4);
    request[4] = (unsigned char)type;
    memcpy(request + 5, payload, size);
    /* At once: two small packets would wait for an acknowledgement between them. */
    CHECK(send(s.socket, request, size + 5, MSG_NOSIGNAL) == (ssize_t)size + 5);
    CHECK(recv(s.socket, head, 5, MSG_WAITALL) == 5);
    CHECK(head[4] == want);
    length = (size_t)number(head, 4) - 1;
    CHECK(length <= 4096);
    CHECK(recv(s.socket, answer, length, MSG_WAITALL) == (ssize_t)length);
    return length;
}

/* Appends through the server; returns the offset. A null key has the size -1. */
static zue_u64 server_append(server s, const char *key, const char *value) {
    unsigned char request[4096], answer[4096], *at = request;
    at = put_number(at, key ? strlen(key) : 0xffffffff, 4);
    if (key) at = (unsigned char *)stpcpy((char *)at, key);
    at = put_number(at, strlen(value), 4);
    at = (unsigned char *)stpcpy((char *)at, value);
    CHECK(exchange(s, 0x01, request, (size_t)(at - request), 0x02, answer) == 8);
    return number(answer, 8);
}

/* Checks what the server has at an offset. */
static void server_has(server s, zue_u64 offset, const char *key, const char *value) {
    unsigned char request[8], answer[4096], *at = answer;
    size_t key_size = key ? strlen(key) : 0;
    put_number(request, offset, 8);
    CHECK(exchange(s, 0x03, request, 8, 0x04, answer) == 8 + key_size + strlen(value));
    CHECK(number(at, 4) == (key ? key_size : 0xffffffff));
    at += 4;
    CHECK(key == NULL || memcmp(at, key, key_size) == 0);
    at += key_size;
    CHECK(number(at, 4) == strlen(value) && memcmp(at + 4, value, strlen(value)) == 0);
}

static void log_has(zue_log log, zue_u64 offset, const char *key, const char *value) {
    zue_record r;
    char buffer[4096];
    CALL(ZUE_OK, zue_read(log, offset, buffer, sizeof buffer, &r, NULL));
    CHECK(key ? test_is(r.key, r.key_size, key) : r.key == NULL);
    CHECK(test_is(r.value, r.value_size, value) && r.timestamp > 0);
}

int main(int argc, char **argv) {
    char dir[4096], text[32];
    zue_record list[3];
    zue_options compressed = test_options(ZUE_SYNC_ALWAYS);
    zue_log log, none;
    zue_u64 end = 0, i;
    server s;
    CHECK(argc == 2);
    test_dir(dir, "log");

    CALL(ZUE_OK, zue_open(dir, NULL, &log));
    CALL(ZUE_OK, zue_append(log, "key", 3, "from C", 6, NULL));
    CALL(ZUE_OK, zue_append(log, NULL, 0, "no key", 6, NULL));
    list[0] = test_record("", "empty key");
    list[1] = test_record("k", "");
    list[2] = test_record("null value", NULL);
    CALL(ZUE_OK, zue_append_batch(log, list, 3, NULL));
    CALL(ZUE_OK, zue_close(log));
    compressed.compression = ZUE_COMPRESSION_ZSTD;
    CALL(ZUE_OK, zue_open(dir, &compressed, &log));
    list[0] = list[1] = list[2] = test_record("zstd", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    CALL(ZUE_OK, zue_append_batch(log, list, 3, NULL));
    CALL(ZUE_OK, zue_close(log));

    s = start(argv[1], dir);
    server_has(s, 0, "key", "from C");
    server_has(s, 1, NULL, "no key");
    server_has(s, 2, "", "empty key");
    server_has(s, 3, "k", "");
    server_has(s, 4, "null value", ""); /* the protocol has no null value */
    server_has(s, 7, "zstd", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    CHECK(server_append(s, "key", "from the server") == 8);
    CHECK(server_append(s, NULL, "") == 9);
    for (i = 10; i < 200; i++) {
        snprintf(text, sizeof text, "value %d", (int)i);
        CHECK(server_append(s, "n", text) == i);
    }
    CALL(ZUE_ELOCKED, zue_open(dir, NULL, &none)); /* while the server has it */
    CHECK(strstr(zue_last_error(), "process id") != NULL);
    stop(s);

    CALL(ZUE_OK, zue_open(dir, NULL, &log));
    CALL(ZUE_OK, zue_range(log, NULL, &end));
    CHECK(end == 200);
    log_has(log, 0, "key", "from C");
    log_has(log, 8, "key", "from the server");
    log_has(log, 9, NULL, "");
    for (i = 10; i < 200; i++) {
        snprintf(text, sizeof text, "value %d", (int)i);
        log_has(log, i, "n", text);
    }
    CALL(ZUE_OK, zue_verify(log, NULL));
    CALL(ZUE_OK, zue_close(log));
    return 0;
}
