/*
 * That the AddressSanitizer of the other tests would see what they are run under it for.
 * Each case is a mistake, made in a process of its own, which must end by its report:
 * the first two are in the library's memory, the last two are made by zue.c.
 */
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>

#include "testing.h"

extern char **environ;

static volatile char seen;

/* The compiler must not know it: it would warn. */
static volatile size_t too_short = 16;

/* Reads a record that the iterator has given out, after what ends its life. */
static void stale_record(int by_log) {
    char dir[4096];
    zue_record r;
    zue_iter iter;
    zue_log log;
    size_t n;
    test_dir(dir, "log");
    CALL(ZUE_OK, zue_open(dir, NULL, &log));
    CALL(ZUE_OK, zue_append(log, NULL, 0, "value", 5, NULL));
    CALL(ZUE_OK, zue_iter_open(log, 0, &iter));
    CALL(ZUE_OK, zue_iter_next(iter, &r, 1, &n));
    seen = *(const char *)r.value; /* good */
    CALL(ZUE_OK, by_log ? zue_close(log) : zue_iter_close(iter));
    seen = *(const char *)r.value;
}

/* Gives metrics a size that is larger than the memory is. */
static void short_metrics(void) {
    char dir[4096];
    zue_metrics *m = calloc(1, too_short);
    zue_log log;
    CHECK(m != NULL);
    test_dir(dir, "log");
    CALL(ZUE_OK, zue_open(dir, NULL, &log));
    m->size = sizeof *m;
    zue_get_metrics(log, m);
}

/* The same of options. */
static void short_options(void) {
    zue_options *o = calloc(1, too_short);
    zue_log log;
    CHECK(o != NULL);
    o->size = sizeof *o;
    zue_open("d", o, &log);
}

static const struct {
    const char *name, *report;
} cases[] = {
    {"iterator", "heap-use-after-free"},
    {"log", "heap-use-after-free"},
    {"metrics", "heap-buffer-overflow"},
    {"options", "heap-buffer-overflow"},
};

static int make_mistake(const char *name) {
    if (strcmp(name, "metrics") == 0) {
        short_metrics();
    } else if (strcmp(name, "options") == 0) {
        short_options();
    } else {
        stale_record(strcmp(name, "log") == 0);
    }
    return 0;
}

/* Runs a case, with its report in a file, and says whether it ended by that. */
static int is_reported(char *self, const char *name, const char *report) {
    char *argv[] = {self, (char *)name, NULL};
    char file[4096], text[20000];
    posix_spawn_file_actions_t actions;
    size_t size;
    pid_t pid;
    int status = 0;
    FILE *f;
    test_dir(file, "report");
    CHECK(posix_spawn_file_actions_init(&actions) == 0);
    CHECK(posix_spawn_file_actions_addopen(&actions, 2, file, O_WRONLY | O_CREAT, 0600) == 0);
    CHECK(posix_spawn(&pid, self, &actions, NULL, argv, environ) == 0);
    CHECK(posix_spawn_file_actions_destroy(&actions) == 0);
    CHECK(waitpid(pid, &status, 0) == pid);
    f = fopen(file, "r");
    CHECK(f != NULL);
    size = fread(text, 1, sizeof text - 1, f);
    text[size] = 0;
    CHECK(fclose(f) == 0);
    return status != 0 && strstr(text, report) != NULL;
}

int main(int argc, char **argv) {
    size_t i;
    if (argc == 2) return make_mistake(argv[1]);
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (!is_reported(argv[0], cases[i].name, cases[i].report)) {
            fprintf(stderr, "%s: no %s was reported\n", cases[i].name, cases[i].report);
            return 1;
        }
    }
    return 0;
}
