/* What the library does, and leaves alone, of what is the process's: signals, and children. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "testing.h"

/* Opens a log that has something to say, as a file in its directory is no log's. */
static void open_with_news(zue_log *log) {
    zue_options o = test_options(ZUE_SYNC_NEVER);
    char dir[4096], name[4200];
    int fd;
    test_dir(dir, "log");
    CHECK(mkdir(dir, 0755) == 0);
    snprintf(name, sizeof name, "%s/%020d.tmp", dir, 1);
    fd = open(name, O_CREAT | O_WRONLY, 0644);
    CHECK(fd >= 0 && close(fd) == 0);
    o.flags = ZUE_LOG_STDERR;
    CALL(ZUE_OK, zue_open(dir, &o, log));
}

/* Standard error is a pipe: first with a reader, then without, SIGPIPE ignored or not. */
static void broken_pipe(void) {
    char text[4096];
    sigset_t waiting;
    zue_log log;
    int ends[2], old = dup(STDERR_FILENO);
    ssize_t n;
    CHECK(old >= 0 && pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
    CHECK(dup2(ends[1], STDERR_FILENO) >= 0);
    open_with_news(&log);
    CALL(ZUE_OK, zue_close(log));
    n = read(ends[0], text, sizeof text - 1);
    if (n <= 0) {
        dup2(old, STDERR_FILENO);
        CHECK(!"nothing was logged: the rest of the test would see nothing");
    }
    CHECK(close(ends[0]) == 0);
    CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    open_with_news(&log);
    CALL(ZUE_OK, zue_close(log));
    CHECK(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
    open_with_news(&log);
    CALL(ZUE_OK, zue_close(log));
    CHECK(dup2(old, STDERR_FILENO) >= 0 && close(old) == 0 && close(ends[1]) == 0);
    CHECK(sigpending(&waiting) == 0 && !sigismember(&waiting, SIGPIPE));
}

/* What a thread has blocked it has blocked after its calls, but for four signals. */
static void *masks(void *arg) {
    static const int unblocked[] = {SIGSEGV, SIGBUS, SIGFPE, SIGURG};
    sigset_t before, after, want;
    size_t i;
    int s;
    CHECK(sigfillset(&before) == 0);
    if (arg != NULL) CHECK(sigemptyset(&before) == 0 && sigaddset(&before, SIGCHLD) == 0);
    CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &want) == 0); /* some cannot be blocked */
    for (i = 0; i < sizeof unblocked / sizeof *unblocked; i++) sigdelset(&want, unblocked[i]);
    CALL(ZUE_EBADF, zue_sync(1));
    CALL(ZUE_EBADF, zue_sync(1));
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &after) == 0);
    for (s = 1; s <= SIGRTMAX; s++) {
        if (sigismember(&after, s) != sigismember(&want, s)) {
            fprintf(stderr, "signal %d: blocked %d\n", s, sigismember(&after, s));
            CHECK(!"a call changed the thread's mask");
        }
    }
    return NULL;
}

/* Calls everything in a child that was not made by fork, and so not seen to be made. */
static void unseen_child(void) {
    int status = 0;
    pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    CHECK(child >= 0);
    if (child == 0) {
        (void)alarm(20); /* a call that is made might never return */
        _exit(test_forked() ? 0 : 1);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Threads that have an alternate stack of the least size that zue.h asks for. */
static void *small_stack(void *arg) {
    enum { size = 16384 };
    zue_log log = *(const zue_log *)arg;
    zue_header header = {"n", 1, "v", 1};
    zue_record r, list[4], v = test_record("k", "v");
    stack_t stack = {.ss_sp = malloc(size), .ss_size = size};
    zue_iter iter;
    zue_u64 offset = 0;
    char buffer[256];
    size_t n;
    int i;
    v.headers = &header;
    v.header_count = 1;
    CHECK(stack.ss_sp != NULL && sigaltstack(&stack, NULL) == 0);
    for (i = 0; i < 2000; i++) {
        CALL(ZUE_OK, zue_append_batch(log, &v, 1, &offset));
        CALL(ZUE_OK, zue_read(log, offset, buffer, sizeof buffer, &r, &n));
        CALL(ZUE_OK, zue_iter_open(log, offset, &iter));
        CALL(ZUE_OK, zue_iter_next(iter, list, 4, &n));
        CALL(ZUE_OK, zue_iter_close(iter));
        CALL(ZUE_EOFFSET, zue_read(log, ~(zue_u64)0, buffer, sizeof buffer, &r, &n));
    }
    CALL(ZUE_OK, zue_verify(log, NULL));
    return stack.ss_sp; /* the library uses it until the thread ends */
}

static void small_stacks(void) {
    zue_options o = test_options(ZUE_SYNC_NEVER);
    pthread_t running[4];
    zue_log log;
    char dir[4096];
    void *stack;
    int i;
    test_dir(dir, "log");
    CALL(ZUE_OK, zue_open(dir, &o, &log));
    for (i = 0; i < 4; i++) CHECK(pthread_create(&running[i], NULL, small_stack, &log) == 0);
    for (i = 0; i < 4; i++) {
        CHECK(pthread_join(running[i], &stack) == 0);
        free(stack);
    }
    CALL(ZUE_OK, zue_close(log));
}

/* Runs one in a thread that has not called before. */
static void in_a_thread(void *(*function)(void *), void *arg) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, function, arg) == 0 && pthread_join(thread, NULL) == 0);
}

int main(int argc, char **argv) {
    const char *only = argc > 1 ? argv[1] : "";
    char something;
    if (!*only || strcmp(only, "masks") == 0) {
        in_a_thread(masks, NULL);
        in_a_thread(masks, &something);
    }
    if (!*only || strcmp(only, "pipe") == 0) broken_pipe();
    if (!*only || strcmp(only, "child") == 0) unseen_child();
#ifndef __SANITIZE_ADDRESS__ /* which has an alternate stack of its own in each thread */
    if (!*only || strcmp(only, "stacks") == 0) small_stacks();
#else
    (void)small_stacks;
#endif
    return 0;
}
