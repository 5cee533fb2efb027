/*
 * What the C interface costs over the Go library: both do the same work in turn, many
 * times, each time in a new directory.
 *
 *     bench <gobench program> [<directory for the logs>]
 *
 * The columns are medians of the rounds: of nanoseconds of CPU time per record, of the
 * differences within a round, per record and per call, and of the ratios within a round.
 */
#define _DEFAULT_SOURCE

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "storage/libzue/zue.h"

/* Does nothing in Go. Not part of zue.h. */
extern int zueGoNothing(void);

enum { rounds = 41, value_bytes = 100, batch = 100, max_batch = 100 };

static char value[value_bytes];

static void check(int code, const char *what) {
    if (code != ZUE_OK) {
        fprintf(stderr, "%s: %s: %s\n", what, zue_strerror(code), zue_last_error());
        exit(1);
    }
}

/* What the process has used of its processors, in nanoseconds: unlike the time of day it
 * hardly depends on what else the machine does. */
static double now(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return ((double)used.ru_utime.tv_sec + (double)used.ru_stime.tv_sec) * 1e9 +
           ((double)used.ru_utime.tv_usec + (double)used.ru_stime.tv_usec) * 1e3;
}

static zue_log open_log(const char *dir) {
    zue_options options;
    zue_log log;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.sync = ZUE_SYNC_NEVER;
    check(zue_open(dir, &options, &log), "open");
    return log;
}

/* Each case returns nanoseconds per record. */
typedef double run(zue_log log, long records);

static double append_one(zue_log log, long records) {
    double begin = now();
    long i;
    for (i = 0; i < records; i++) {
        check(zue_append(log, NULL, 0, value, sizeof value, NULL), "append");
    }
    return (now() - begin) / (double)records;
}

static double append_batch(zue_log log, long records) {
    zue_record list[batch];
    double begin;
    long i;
    memset(list, 0, sizeof list);
    for (i = 0; i < batch; i++) {
        list[i].value = value;
        list[i].value_size = sizeof value;
    }
    begin = now();
    for (i = 0; i < records; i += batch) {
        check(zue_append_batch(log, list, batch, NULL), "append a batch");
    }
    return (now() - begin) / (double)records;
}

static double read_each(zue_log log, long records) {
    char buffer[2 * value_bytes];
    zue_record record;
    double begin;
    zue_u64 n = 0, count = (zue_u64)records;
    long i;
    append_batch(log, records);
    begin = now();
    for (i = 0; i < records; i++) {
        n = (n + 7919) % count; /* a prime: each once, in no order */
        check(zue_read(log, n, buffer, sizeof buffer, &record, NULL), "read");
    }
    return (now() - begin) / (double)records;
}

static double iterate(zue_log log, long records, size_t capacity) {
    zue_record list[max_batch];
    zue_iter iter;
    size_t n;
    long seen;
    double begin;
    append_batch(log, records);
    begin = now();
    check(zue_iter_open(log, 0, &iter), "iterate");
    for (seen = 0; seen < records; seen += (long)n) {
        check(zue_iter_next(iter, list, capacity, &n), "next");
    }
    check(zue_iter_close(iter), "close the iterator");
    return (now() - begin) / (double)records;
}

static double iterate_one(zue_log log, long records) { return iterate(log, records, 1); }
static double iterate_batch(zue_log log, long records) { return iterate(log, records, batch); }

static const struct {
    const char *name; /* as gobench knows it */
    run *run;
    long records;
    double per_call; /* records of one call */
} cases[] = {
    {"append", append_one, 100000, 1},
    {"append-100", append_batch, 500000, batch},
    {"read", read_each, 200000, 1},
    {"iterate", iterate_one, 500000, 1},
    {"iterate-100", iterate_batch, 500000, batch},
};

static void remove_dir(const char *dir) {
    char command[4200];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    if (system(command) != 0) fprintf(stderr, "%s is left\n", dir);
}

/* What this program does when it is run as gobench is. */
static int run_case(const char *name, long records, const char *dir) {
    zue_log log;
    size_t n;
    for (n = 0; n < sizeof cases / sizeof *cases; n++) {
        if (strcmp(cases[n].name, name) == 0) {
            log = open_log(dir);
            printf("%f\n", cases[n].run(log, records));
            check(zue_close(log), "close");
            return 0;
        }
    }
    return 2;
}

/* Runs a case in a process of its own, whichever language it is in: a process that has
 * run another before is slower. */
static double in_process(const char *program, size_t n, const char *dir) {
    char command[8400];
    double ns = 0;
    FILE *out;
    snprintf(command, sizeof command, "'%s' %s %ld '%s'", program, cases[n].name,
             cases[n].records, dir);
    out = popen(command, "r");
    if (out == NULL || fscanf(out, "%lf", &ns) != 1 || pclose(out) != 0) {
        fprintf(stderr, "%s failed\n", command);
        exit(1);
    }
    remove_dir(dir);
    return ns;
}

static int compare(const void *a, const void *b) {
    double d = *(const double *)a - *(const double *)b;
    return (d > 0) - (d < 0);
}

static void measure(const char *self, const char *gobench, const char *dir, size_t n) {
    double c[rounds], go[rounds], more[rounds], ratio[rounds];
    int i;
    for (i = 0; i < rounds; i++) {
        /* What runs second may find the machine in another state: each does so in turn. */
        if (i % 2 == 0) go[i] = in_process(gobench, n, dir);
        c[i] = in_process(self, n, dir);
        if (i % 2 == 1) go[i] = in_process(gobench, n, dir);
        more[i] = c[i] - go[i];
        ratio[i] = c[i] / go[i];
    }
    qsort(c, rounds, sizeof *c, compare);
    qsort(go, rounds, sizeof *go, compare);
    qsort(more, rounds, sizeof *more, compare);
    qsort(ratio, rounds, sizeof *ratio, compare);
    printf("%-12s %8.1f %8.1f %+8.1f %+10.1f %+7.1f %%\n", cases[n].name, go[rounds / 2],
           c[rounds / 2], more[rounds / 2], more[rounds / 2] * cases[n].per_call,
           100 * (ratio[rounds / 2] - 1));
    fflush(stdout);
}

static void measure_call(void) {
    double best = 1e9;
    int round, i;
    for (round = 0; round < rounds; round++) {
        double begin = now(), ns;
        for (i = 0; i < 1000000; i++) {
            (void)zueGoNothing();
        }
        ns = (now() - begin) / 1e6;
        if (ns < best) best = ns;
    }
    printf("an empty call into Go: %.1f ns\n\n", best);
}

int main(int argc, char **argv) {
    char dir[4096];
    size_t n;
    memset(value, 'v', sizeof value);
    if (argc == 4) {
        return run_case(argv[1], atol(argv[2]), argv[3]);
    }
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: bench <gobench program> [<directory for the logs>]\n");
        return 2;
    }
    snprintf(dir, sizeof dir, "%s/zue-bench-XXXXXX", argc > 2 ? argv[2] : "/tmp");
    if (mkdtemp(dir) == NULL) {
        perror(dir);
        return 1;
    }
    measure_call();
    printf("%d rounds, records of %d bytes, no sync; ns of CPU time per record, medians\n", rounds,
           value_bytes);
    printf("%-12s %8s %8s %8s %10s %9s\n", "", "Go", "C", "C-Go", "C-Go/call", "C/Go");
    for (n = 0; n < sizeof cases / sizeof *cases; n++) {
        measure(argv[0], argv[1], dir, n);
    }
    return 0;
}
