#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zuenet.h>

/* Ends the program when a call has failed. */
static void check(int code, const zuenet *c, const char *what) {
    if (code != ZUENET_OK) {
        /* Without a connection there is no message of its own: errno says why. */
        const char *why = c == NULL && code == ZUENET_ESYSTEM ? strerror(errno) : zuenet_message(c);

        fprintf(stderr, "%s: %s%s%s\n", what, zuenet_strerror(code), *why ? ": " : "", why);
        exit(1);
    }
}

/* Prints a record: the end of the text is known by its size, there is no 0 behind it. */
static void print(const zuenet_record *r) {
    printf("%lu: %.*s = %.*s\n", (unsigned long)r->offset, (int)r->key_size,
           r->key ? (const char *)r->key : "", (int)r->value_size,
           r->value ? (const char *)r->value : "");
}

int main(int argc, char **argv) {
    static const zuenet_pair batch[2] = {
        {"b", 1, "two", 3, 0},
        {"c", 1, "three", 5, 0},
    };
    zuenet *c;
    zuenet_record record;
    zuenet_u64 offset, next, end;
    int code;

    if (argc != 3) {
        fprintf(stderr, "usage: %s <host> <port>\n", argv[0]);
        return 2;
    }
    check(zuenet_connect(argv[1], (unsigned)atoi(argv[2]), NULL, &c), NULL, "connect");

    /* On the server's disk when it returns. A batch is one write, and all or nothing. */
    check(zuenet_append(c, "a", 1, "one", 3, &offset), c, "append");
    check(zuenet_append_batch(c, batch, 2, NULL, NULL), c, "append a batch");

    check(zuenet_read(c, offset, &record), c, "read");
    print(&record);

    /* All from there to the end, up to 1 MiB at a time. To follow the log, go on at the
     * end, with a wait of some seconds. */
    check(zuenet_end_offset(c, &end), c, "ask for the end");
    for (next = offset; next < end; next = zuenet_next_offset(c)) {
        check(zuenet_fetch(c, next, 1 << 20, 1, 0, NULL, NULL), c, "fetch");
        while ((code = zuenet_next(c, &record)) == ZUENET_OK) {
            print(&record);
        }
        if (code != ZUENET_EEND) check(code, c, "fetch");
    }

    zuenet_close(c);
    return 0;
}
