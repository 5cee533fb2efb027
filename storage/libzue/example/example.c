#include <stdio.h>
#include <stdlib.h>

#include <zue.h>

/* Ends the program when a call has failed. */
static void check(int code, const char *what) {
    if (code != ZUE_OK) {
        fprintf(stderr, "%s: %s (%s)\n", what, zue_strerror(code), zue_last_error());
        exit(1);
    }
}

/* Prints a record: the end of the text is known by its size, there is no 0 behind it. */
static void print(const zue_record *r) {
    printf("%lu: %.*s = %.*s\n", (unsigned long)r->offset, (int)r->key_size,
           r->key ? (const char *)r->key : "", (int)r->value_size,
           r->value ? (const char *)r->value : "");
}

int main(int argc, char **argv) {
    static const zue_record batch[2] = {
        {0, 0, "b", 1, "two", 3, NULL, 0},
        {0, 0, "c", 1, "three", 5, NULL, 0},
    };
    zue_log log;
    zue_iter iter;
    zue_record record, records[16];
    zue_u64 offset, first, end;
    size_t count, i;
    char buffer[100];
    int code;

    check(zue_open(argc > 1 ? argv[1] : "data", NULL, &log), "open");

    /* On disk when it returns. A batch is one write, and all or nothing. */
    check(zue_append(log, "a", 1, "one", 3, &offset), "append");
    check(zue_append_batch(log, batch, 2, NULL), "append a batch");

    check(zue_read(log, offset, buffer, sizeof buffer, &record, NULL), "read");
    print(&record);

    check(zue_range(log, &first, &end), "range");
    check(zue_iter_open(log, first, &iter), "iterate");
    while ((code = zue_iter_next(iter, records, 16, &count)) == ZUE_OK) {
        for (i = 0; i < count; i++) {
            print(&records[i]);
        }
    }
    if (code != ZUE_EEND) check(code, "iterate");
    check(zue_iter_close(iter), "close the iterator");
    printf("%lu records\n", (unsigned long)(end - first));

    check(zue_close(log), "close");
    return 0;
}
