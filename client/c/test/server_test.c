/* The client against the real server, whose program is argv[1]. */
#include "testing.h"

static zuenet *dial(unsigned port) {
    zuenet *c;
    CALL(ZUENET_OK, NULL, zuenet_connect("127.0.0.1", port, NULL, &c));
    return c;
}

/* Checks what the log has at an offset, read by itself. */
static void has(zuenet *c, zuenet_u64 offset, const char *key, const char *value) {
    zuenet_record r;
    CALL(ZUENET_OK, c, zuenet_read(c, offset, &r));
    CHECK(r.offset == offset && test_is(r.key, r.key_size, key));
    CHECK(test_is(r.value, r.value_size, value));
}

/* Checks the next record that was fetched. */
static void fetched_is(zuenet *c, zuenet_u64 offset, const char *key, const char *value) {
    zuenet_record r;
    CALL(ZUENET_OK, c, zuenet_next(c, &r));
    CHECK(r.offset == offset && test_is(r.key, r.key_size, key));
    CHECK(test_is(r.value, r.value_size, value) && r.timestamp > 0);
    CHECK(zuenet_next_offset(c) == offset + 1 && r.header_count == 0);
}

/* Offsets 0 to 7: three alone, and five in a batch. */
static void append_some(zuenet *c) {
    zuenet_pair p[5];
    zuenet_receipt receipt;
    zuenet_u64 offset, end;
    CALL(ZUENET_OK, c, zuenet_append(c, "key", 3, "value", 5, &offset));
    CHECK(offset == 0 && zuenet_outcome(c) == ZUENET_APPLIED);
    CALL(ZUENET_OK, c, zuenet_append(c, NULL, 0, "no key", 6, &offset));
    CALL(ZUENET_OK, c, zuenet_append(c, "", 0, NULL, 0, NULL));
    p[0] = test_pair("a", "1");
    p[1] = test_pair(NULL, "2");
    p[2] = test_pair("", "3");
    p[3] = test_pair("null value", NULL);
    p[4] = test_pair("", "");
    CALL(ZUENET_OK, c, zuenet_append_batch(c, p, 5, NULL, &receipt));
    CHECK(receipt.first_offset == 3 && receipt.count == 5 && receipt.term == 1);
    CHECK(receipt.copies == 1 && receipt.duplicate == 0);
    CALL(ZUENET_OK, c, zuenet_end_offset(c, &end));
    CHECK(end == 8);
}

static void read_some(zuenet *c) {
    zuenet_record r;
    has(c, 0, "key", "value");
    has(c, 1, NULL, "no key");
    has(c, 2, "", "");
    has(c, 3, "a", "1");
    has(c, 6, "null value", ""); /* a read has no null value */
    memset(&r, 1, sizeof r);
    CALL(ZUENET_ESERVER, c, zuenet_read(c, 8, &r));
    CHECK(zuenet_server_code(c) == ZUENET_SERVER_INVALID_OFFSET && zuenet_message(c)[0] != 0);
    CHECK(r.key_size != 0 && zuenet_usable(c)); /* it was not written to */
    has(c, 7, "", "");
    CHECK(zuenet_server_code(c) == ZUENET_SERVER_NONE && zuenet_message(c)[0] == 0);
}

static void fetch_some(zuenet *c) {
    zuenet_record r;
    zuenet_u64 first = 9, end = 9;
    CALL(ZUENET_OK, c, zuenet_fetch(c, 0, 1 << 20, 1, 0, &first, &end));
    CHECK(first == 0 && end == 8);
    fetched_is(c, 0, "key", "value");
    fetched_is(c, 1, NULL, "no key");
    fetched_is(c, 2, "", "");
    fetched_is(c, 3, "a", "1");
    fetched_is(c, 4, NULL, "2");
    fetched_is(c, 5, "", "3");
    fetched_is(c, 6, "null value", NULL);
    fetched_is(c, 7, "", "");
    CALL(ZUENET_EEND, c, zuenet_next(c, &r));
    CALL(ZUENET_EEND, c, zuenet_next(c, &r));
    CHECK(zuenet_next_offset(c) == 8);
    /* From the middle of a batch, and with room for one byte: one entry all the same. */
    CALL(ZUENET_OK, c, zuenet_fetch(c, 5, 1, 1, 0, NULL, NULL));
    fetched_is(c, 5, "", "3");
    fetched_is(c, 6, "null value", NULL);
    has(c, 0, "key", "value");
    CALL(ZUENET_EINVAL, c, zuenet_next(c, &r)); /* what was fetched is gone */
    CHECK(zuenet_next_offset(c) == 0);
    CALL(ZUENET_ESERVER, c, zuenet_fetch(c, 9, 1, 1, 0, NULL, NULL));
    CHECK(zuenet_server_code(c) == ZUENET_SERVER_INVALID_OFFSET);
    CALL(ZUENET_EINVAL, c, zuenet_next(c, &r));
}

/* Waits at the end: in vain, and for what another connection appends. */
static void wait_for_more(zuenet *c, unsigned port) {
    zuenet_record r;
    long began = test_ms(), took;
    pid_t child;
    int status;
    CALL(ZUENET_OK, c, zuenet_set_timeout(c, 2000));
    CALL(ZUENET_OK, c, zuenet_fetch(c, 8, 1 << 20, 1, 200, NULL, NULL));
    took = test_ms() - began;
    CHECK(took >= 190);
    CALL(ZUENET_EEND, c, zuenet_next(c, &r));
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        struct timespec t = {0, 100000000};
        zuenet *other = dial(port);
        nanosleep(&t, NULL);
        if (zuenet_append(other, "late", 4, "8", 1, NULL) != ZUENET_OK) _exit(1);
        zuenet_close(other);
        _exit(0);
    }
    CALL(ZUENET_OK, c, zuenet_fetch(c, 8, 1 << 20, 1, 30000, NULL, NULL));
    fetched_is(c, 8, "late", "8");
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CALL(ZUENET_OK, c, zuenet_set_timeout(c, 0));
}

/* Only at the right end, offset 9: and offset 9 then. */
static void conditional(zuenet *c) {
    zuenet_pair p = test_pair("if", "9");
    zuenet_receipt receipt;
    zuenet_u64 end = 8;
    CALL(ZUENET_ESERVER, c, zuenet_append_batch(c, &p, 1, &end, &receipt));
    CHECK(zuenet_server_code(c) == ZUENET_SERVER_OFFSET_MISMATCH);
    CHECK(zuenet_outcome(c) == ZUENET_NOT_APPLIED);
    end = 9;
    CALL(ZUENET_OK, c, zuenet_append_batch(c, &p, 1, &end, &receipt));
    CHECK(receipt.first_offset == 9 && receipt.count == 1);
    CALL(ZUENET_ESERVER, c, zuenet_append_batch(c, &p, 1, &end, NULL));
    has(c, 9, "if", "9");
}

/* Timestamps of the caller's, out of order: offsets 10 to 12. */
static void times(zuenet *c) {
    zuenet_pair p[3];
    zuenet_record r;
    zuenet_u64 offset;
    const zuenet_i64 far = (zuenet_i64)1 << 45;
    size_t i;
    for (i = 0; i < 3; i++) p[i] = test_pair("t", "v");
    p[0].timestamp = far + 500;
    p[1].timestamp = far - 500;
    p[2].timestamp = far + 100000000;
    CALL(ZUENET_OK, c, zuenet_append_batch(c, p, 3, NULL, NULL));
    CALL(ZUENET_OK, c, zuenet_offset_for_time(c, far + 501, &offset));
    CHECK(offset == 12);
    CALL(ZUENET_OK, c, zuenet_offset_for_time(c, far + 100000001, &offset));
    CHECK(offset == 13);
    CALL(ZUENET_OK, c, zuenet_fetch(c, 10, 1 << 20, 1, 0, NULL, NULL));
    for (i = 0; i < 3; i++) {
        CALL(ZUENET_OK, c, zuenet_next(c, &r));
        CHECK(r.offset == 10 + i && r.timestamp == p[i].timestamp);
    }
    p[1].timestamp = INT64_MIN;
    CALL(ZUENET_EINVAL, c, zuenet_append_batch(c, p, 3, NULL, NULL));
    CHECK(zuenet_outcome(c) == ZUENET_NOT_APPLIED);
}

static void status(zuenet *c) {
    const char *json;
    size_t size;
    CALL(ZUENET_OK, c, zuenet_status(c, &json, &size));
    CHECK(size == strlen(json) && json[0] == '{');
    CHECK(strstr(json, "\"role\":\"standalone\"") != NULL);
    CHECK(strstr(json, "\"end_offset\":13") != NULL);
}

/* A batch with a header, and one that is compressed (a gzip member with no record in it is
 * refused; so this one is made by hand: stored, not deflated): offsets 13 and 14. */
static void encoded(zuenet *c) {
    static const unsigned char plain[] = {
        0, 0,                               /* attributes */
        0, 0, 0, 0,                         /* last offset delta */
        0, 0, 0, 0, 0, 0, 3, 232,           /* base timestamp: 1000 */
        0, 0, 0, 0, 0, 0, 3, 232,           /* max timestamp */
        255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, /* no producer */
        0, 0, 0, 1,                         /* one record */
        34, 0, 0, 0, 2, 'k', 2, 'v', 4,     /* of 17 bytes, two headers */
        2, 'h', 6, 'a', 'b', 'c', 2, 'n', 1 /* h: abc; n: null */
    };
    static const unsigned char gzip_head[] = {31, 139, 8, 0, 0, 0, 0, 0, 0, 255, 1};
    const unsigned char *record = plain + 40;
    const size_t n = sizeof plain - 40;
    zuenet_u32 crc = 0xffffffff;
    zuenet_receipt receipt;
    zuenet_record r;
    zuenet_header h;
    bytes b = {0};
    size_t i;
    int bit;
    CALL(ZUENET_OK, c, zuenet_append_encoded(c, plain, sizeof plain, NULL, &receipt));
    CHECK(receipt.first_offset == 13 && receipt.count == 1);
    add(&b, plain, 40);
    b.at[1] = 1; /* gzip */
    add(&b, gzip_head, sizeof gzip_head);
    add_number(&b, n, 2);
    add_number(&b, ~n, 2);
    add(&b, record, n);
    for (i = 0; i < n; i++) { /* gzip's own CRC-32 */
        crc ^= record[i];
        for (bit = 0; bit < 8; bit++) crc = crc >> 1 ^ ((crc & 1) ? 0xedb88320u : 0);
    }
    add_number(&b, ~crc, 4);
    add_number(&b, n, 4);
    CALL(ZUENET_OK, c, zuenet_append_encoded(c, b.at, b.size, NULL, &receipt));
    CHECK(receipt.first_offset == 14);
    b.at[b.size - 1] ^= 1;
    CALL(ZUENET_ESERVER, c, zuenet_append_encoded(c, b.at, b.size, NULL, &receipt));
    CHECK(zuenet_server_code(c) == ZUENET_SERVER_INVALID_MESSAGE && zuenet_usable(c));
    free(b.at);
    CALL(ZUENET_OK, c, zuenet_fetch(c, 13, 1 << 20, 1, 0, NULL, NULL));
    CALL(ZUENET_OK, c, zuenet_next(c, &r));
    CHECK(r.offset == 13 && r.timestamp == 1000 && r.header_count == 2);
    CALL(ZUENET_OK, c, zuenet_next_header(&r, &h));
    CHECK(test_is(h.name, h.name_size, "h") && test_is(h.value, h.value_size, "abc"));
    CALL(ZUENET_OK, c, zuenet_next_header(&r, &h));
    CHECK(test_is(h.name, h.name_size, "n") && test_is(h.value, h.value_size, NULL));
    CALL(ZUENET_EEND, c, zuenet_next_header(&r, &h));
    CALL(ZUENET_ECOMPRESSED, c, zuenet_next(c, &r));
    CHECK(zuenet_next_offset(c) == 14 && strstr(zuenet_message(c), "compressed") != NULL);
    has(c, 14, "k", "v"); /* the server decompresses */
}

/* Sizes at the limits. */
static void large(zuenet *c) {
    const size_t size = ZUENET_MAX_RECORD;
    char *text = malloc(size + 1);
    zuenet_pair p = {0};
    zuenet_record r;
    zuenet_u64 offset = 0;
    CHECK(text != NULL);
    memset(text, 'x', size + 1);
    CALL(ZUENET_ETOOLARGE, c, zuenet_append(c, "k", 1, text, size, &offset));
    CALL(ZUENET_ETOOLARGE, c, zuenet_append(c, NULL, 0, text, size + 1, &offset));
    CALL(ZUENET_OK, c, zuenet_append(c, "k", 1, text, size - 1, &offset));
    CALL(ZUENET_OK, c, zuenet_read(c, offset, &r));
    CHECK(r.key_size == 1 && r.value_size == size - 1 && memcmp(r.value, text, size - 1) == 0);
    CALL(ZUENET_OK, c, zuenet_fetch(c, offset, 1, 1, 0, NULL, NULL));
    CALL(ZUENET_OK, c, zuenet_next(c, &r));
    CHECK(r.offset == offset && r.value_size == size - 1 && memcmp(r.value, text, size - 1) == 0);
    CALL(ZUENET_EEND, c, zuenet_next(c, &r));
    p.value = text;
    p.value_size = ZUENET_MAX_BATCH - 40 - 4 - 5 - 4; /* lengths 4 each, 5 bytes besides */
    CALL(ZUENET_OK, c, zuenet_append_batch(c, &p, 1, NULL, NULL));
    CALL(ZUENET_OK, c, zuenet_fetch(c, offset + 1, 1, 1, 0, NULL, NULL));
    CALL(ZUENET_OK, c, zuenet_next(c, &r));
    CHECK(r.key == NULL && r.value_size == p.value_size && memcmp(r.value, text, r.value_size) == 0);
    p.value_size++;
    CALL(ZUENET_ETOOLARGE, c, zuenet_append_batch(c, &p, 1, NULL, NULL));
    p.value_size = (size_t)-1;
    CALL(ZUENET_ETOOLARGE, c, zuenet_append_batch(c, &p, 1, NULL, NULL));
    free(text);
}

/* Many records in batches, and all of them back, by fetches of some KiB. */
static void many(zuenet *c) {
    enum { BATCHES = 40, EACH = 500 };
    static char values[EACH][32];
    static zuenet_pair p[EACH];
    zuenet_receipt receipt = {0};
    zuenet_record r;
    zuenet_u64 first = 0, i, at;
    int b, code, fetches = 0;
    for (b = 0; b < BATCHES; b++) {
        for (i = 0; i < EACH; i++) {
            snprintf(values[i], sizeof values[i], "%d %d", b, (int)i);
            p[i] = test_pair("many", values[i]);
        }
        CALL(ZUENET_OK, c, zuenet_append_batch(c, p, EACH, NULL, &receipt));
        if (b == 0) first = receipt.first_offset;
        CHECK(receipt.first_offset == first + (zuenet_u64)b * EACH && receipt.count == EACH);
    }
    for (at = first + 7; at < first + BATCHES * EACH; fetches++) {
        CALL(ZUENET_OK, c, zuenet_fetch(c, at, 65536, 1, 0, NULL, NULL));
        while ((code = zuenet_next(c, &r)) == ZUENET_OK) {
            char want[32];
            snprintf(want, sizeof want, "%d %d", (int)((at - first) / EACH), (int)((at - first) % EACH));
            CHECK(r.offset == at && test_is(r.value, r.value_size, want));
            at++;
        }
        CALL(ZUENET_EEND, c, code);
        CHECK(zuenet_next_offset(c) == at);
    }
    CHECK(fetches > 5);
}

/* The server goes away. */
static void after_the_end(zuenet *c, unsigned port) {
    zuenet *none = c;
    CALL(ZUENET_ECLOSED, c, zuenet_append(c, "k", 1, "v", 1, NULL));
    CHECK(!zuenet_usable(c));
    CALL(ZUENET_EBROKEN, c, zuenet_append(c, "k", 1, "v", 1, NULL));
    CHECK(zuenet_outcome(c) == ZUENET_NOT_APPLIED);
    CHECK(strstr(zuenet_message(c), "closed the connection") != NULL);
    zuenet_close(c);
    CALL(ZUENET_ESYSTEM, NULL, zuenet_connect("127.0.0.1", port, NULL, &none));
    CHECK(none == NULL);
}

int main(int argc, char **argv) {
    zuenet *c, *named;
    server s;
    CHECK(argc == 2);
    s = start(argv[1]);
    c = dial(s.port);
    append_some(c);
    read_some(c);
    fetch_some(c);
    wait_for_more(c, s.port);
    conditional(c);
    times(c);
    status(c);
    encoded(c);
    large(c);
    many(c);
    CALL(ZUENET_OK, NULL, zuenet_connect("localhost", s.port, NULL, &named));
    has(named, 0, "key", "value");
    zuenet_close(named);
    stop_server(s);
    after_the_end(c, s.port);
    return 0;
}
