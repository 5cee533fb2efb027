/*
 * A program that is killed while it appends, again and again: what it was told is durable
 * is there afterwards, and no batch in part.
 */
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "testing.h"

extern char **environ;

enum { rounds = 12, batch = 5 };

/* The value of the record at an offset: of a length, and with bytes, that only it has. */
static size_t value_of(zue_u64 offset, char value[300]) {
    size_t size = 8 + (size_t)(offset * 7919 % 290), i;
    for (i = 0; i < size; i++) value[i] = (char)(offset * 31 + i);
    return size;
}

/* The program that is killed. It writes each offset to standard output that was
 * acknowledged: a batch's last one, so that all up to it are. */
static int child(const char *dir) {
    zue_options o = test_options(ZUE_SYNC_ALWAYS);
    zue_record list[batch];
    char values[batch][300];
    zue_log log;
    zue_u64 end = 0, first = 0;
    size_t i;
    CALL(ZUE_OK, zue_open(dir, &o, &log));
    CALL(ZUE_OK, zue_range(log, NULL, &end));
    for (;;) {
        for (i = 0; i < batch; i++) {
            list[i] = test_record("key", NULL);
            list[i].value = values[i];
            list[i].value_size = value_of(end + i, values[i]);
        }
        CALL(ZUE_OK, zue_append_batch(log, list, batch, &first));
        CHECK(first == end);
        end += batch;
        if (write(STDOUT_FILENO, &end, sizeof end) != sizeof end) return 1;
    }
}

static pid_t start(const char *self, const char *dir, int *from) {
    char *argv[] = {(char *)self, (char *)dir, NULL};
    posix_spawn_file_actions_t actions;
    pid_t pid;
    int fds[2];
    CHECK(pipe(fds) == 0);
    CHECK(posix_spawn_file_actions_init(&actions) == 0);
    CHECK(posix_spawn_file_actions_adddup2(&actions, fds[1], STDOUT_FILENO) == 0);
    CHECK(posix_spawn_file_actions_addclose(&actions, fds[0]) == 0);
    CHECK(posix_spawn_file_actions_addclose(&actions, fds[1]) == 0);
    CHECK(posix_spawn(&pid, self, &actions, NULL, argv, environ) == 0);
    CHECK(posix_spawn_file_actions_destroy(&actions) == 0);
    CHECK(close(fds[1]) == 0);
    *from = fds[0];
    return pid;
}

/* Runs the program, kills it after some acknowledgements, and returns the last of all. */
static zue_u64 run_and_kill(const char *self, const char *dir, int after) {
    zue_u64 end = 0, last = 0;
    int from, n = 0, status;
    pid_t pid = start(self, dir, &from);
    for (;;) {
        ssize_t got = read(from, &end, sizeof end);
        if (got < 0 && errno == EINTR) continue;
        if (got != sizeof end) break; /* it is dead */
        last = end;
        if (++n == after) CHECK(kill(pid, SIGKILL) == 0);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(n >= after && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    CHECK(close(from) == 0);
    return last;
}

/* Checks each record of the log and returns where it ends. */
static zue_u64 check_all(const char *dir) {
    zue_record list[64];
    zue_iter iter;
    zue_log log;
    zue_u64 end = 0, at = 0;
    char value[300];
    size_t n, i;
    int code;
    CALL(ZUE_OK, zue_open(dir, NULL, &log));
    CALL(ZUE_OK, zue_range(log, NULL, &end));
    CALL(ZUE_OK, zue_iter_open(log, 0, &iter));
    while ((code = zue_iter_next(iter, list, 64, &n)) == ZUE_OK) {
        for (i = 0; i < n; i++, at++) {
            CHECK(list[i].offset == at && list[i].value_size == value_of(at, value));
            CHECK(memcmp(list[i].value, value, list[i].value_size) == 0);
        }
    }
    CALL(ZUE_EEND, code);
    CHECK(at == end);
    CALL(ZUE_OK, zue_verify(log, NULL));
    CALL(ZUE_OK, zue_close(log));
    return end;
}

int main(int argc, char **argv) {
    char dir[4096];
    zue_u64 acknowledged, end = 0;
    int round;
    if (argc == 2) return child(argv[1]);
    test_dir(dir, "log");
    for (round = 0; round < rounds; round++) {
        acknowledged = run_and_kill(argv[0], dir, 1 + round * 37 % 150);
        end = check_all(dir);
        CHECK(end >= acknowledged && end % batch == 0);
        CHECK(end <= acknowledged + batch); /* and at most the batch under way */
    }
    return 0;
}
