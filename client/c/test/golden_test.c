/*
 * The bytes of messages, by the golden files of net/wire/testdata: what this client sends for
 * a call, and what it makes of the answer. Each argument is one of these files.
 */
#include "testing.h"

static char directory[4096];

/* Starts a server that wants one golden request, and gives one golden answer. */
static fake play_golden(const char *request, const char *answer, zuenet **c) {
    bytes want = {0}, say = {0};
    script s = {0};
    fake f;
    add_golden(&want, directory, request);
    add_golden(&say, directory, answer);
    if (strncmp(request, "batch_append_request", 20) == 0) {
        /* The file has another log, and the checksum of another body. */
        CHECK(want.at[5] == 0 || want.at[5] == 3);
        want.at[5] = 0;
        put_at(want.at + 18, test_crc(0, "a batch", 7), 4);
    }
    s.want = &want;
    s.answer = &say;
    f = fake_connect(&s, 5000, c);
    free(want.at);
    free(say.at);
    return f;
}

static void appends(void) {
    static const struct {
        const char *request, *key, *value;
    } cases[] = {
        {"append_request", "key", "value"},
        {"append_request_null_key", NULL, "value"},
        {"append_request_empty_key", "", "value"},
        {"append_request_empty_value", "key", ""},
        {"append_request_empty_value", "key", NULL},
    };
    zuenet *c;
    zuenet_u64 offset;
    size_t i;
    fake f;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        zuenet_pair p = test_pair(cases[i].key, cases[i].value);
        f = play_golden(cases[i].request, "append_response", &c);
        CALL(ZUENET_OK, c, zuenet_append(c, p.key, p.key_size, p.value, p.value_size, &offset));
        CHECK(offset == 5 && zuenet_outcome(c) == ZUENET_APPLIED && zuenet_usable(c));
        fake_end(f, c);
    }
    f = play_golden("append_request", "append_response_large_offset", &c);
    CALL(ZUENET_OK, c, zuenet_append(c, "key", 3, "value", 5, &offset));
    CHECK(offset == 0x0123456789abcdef);
    fake_end(f, c);
    f = play_golden("append_request", "error_no_message", &c);
    offset = 77;
    CALL(ZUENET_ESERVER, c, zuenet_append(c, "key", 3, "value", 5, &offset));
    CHECK(offset == 77 && zuenet_server_code(c) == ZUENET_SERVER_NOT_LEADER);
    CHECK(zuenet_outcome(c) == ZUENET_NOT_APPLIED && zuenet_message(c)[0] == 0);
    fake_end(f, c);
}

static void batches(void) {
    zuenet *c;
    zuenet_receipt r;
    zuenet_u64 end = 7;
    fake f = play_golden("batch_append_request", "batch_append_response", &c);
    CALL(ZUENET_OK, c, zuenet_append_encoded(c, "a batch", 7, NULL, &r));
    CHECK(r.first_offset == 7 && r.count == 3 && r.term == 1 && r.copies == 1 && !r.duplicate);
    fake_end(f, c);
    f = play_golden("batch_append_request_if", "batch_append_response_again", &c);
    CALL(ZUENET_OK, c, zuenet_append_encoded(c, "a batch", 7, &end, &r));
    CHECK(r.first_offset == 7 && r.count == 3 && r.term == 9 && r.copies == 2 && r.duplicate == 1);
    fake_end(f, c);
}

static void reads(void) {
    static const struct {
        const char *answer, *key, *value;
    } cases[] = {
        {"read_response", "key", "value"},
        {"read_response_null_key", NULL, "value"},
        {"read_response_empty", "", ""},
    };
    zuenet *c;
    zuenet_record r;
    size_t i;
    fake f;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        f = play_golden("read_request", cases[i].answer, &c);
        CALL(ZUENET_OK, c, zuenet_read(c, 5, &r));
        CHECK(r.offset == 5 && r.timestamp == 0 && r.header_count == 0);
        CHECK(test_is(r.key, r.key_size, cases[i].key));
        CHECK(test_is(r.value, r.value_size, cases[i].value));
        fake_end(f, c);
    }
    f = play_golden("read_request", "error_invalid_offset", &c);
    CALL(ZUENET_ESERVER, c, zuenet_read(c, 5, &r));
    CHECK(zuenet_server_code(c) == ZUENET_SERVER_INVALID_OFFSET && zuenet_usable(c));
    CHECK(strcmp(zuenet_message(c), "offset 7 is beyond the end") == 0);
    fake_end(f, c);
}

static void others(void) {
    zuenet *c;
    zuenet_record r;
    const char *json;
    zuenet_u64 a = 0, b = 0;
    size_t size;
    fake f = play_golden("fetch_request", "fetch_response", &c);
    CALL(ZUENET_OK, c, zuenet_fetch(c, 5, 1 << 20, 1, 500, &a, &b));
    CHECK(a == 2 && b == 9 && zuenet_next_offset(c) == 5);
    CALL(ZUENET_ECORRUPT, c, zuenet_next(c, &r)); /* its entries are the text "entries!" */
    CALL(ZUENET_ECORRUPT, c, zuenet_next(c, &r));
    CHECK(zuenet_usable(c));
    fake_end(f, c);
    f = play_golden("fetch_request", "fetch_response_none", &c);
    CALL(ZUENET_OK, c, zuenet_fetch(c, 5, 1 << 20, 1, 500, &a, &b));
    CALL(ZUENET_EEND, c, zuenet_next(c, &r));
    CHECK(a == 2 && b == 9 && zuenet_next_offset(c) == 5);
    fake_end(f, c);
    f = play_golden("offset_for_time_request", "offset_for_time_response", &c);
    CALL(ZUENET_OK, c, zuenet_offset_for_time(c, (zuenet_i64)1700000000123, &a));
    CHECK(a == 5);
    fake_end(f, c);
    f = play_golden("status_request", "status_response", &c);
    CALL(ZUENET_OK, c, zuenet_status(c, &json, &size));
    CHECK(strcmp(json, "{\"role\":\"standalone\"}") == 0 && size == strlen(json));
    fake_end(f, c);
    f = play_golden("barrier_request", "barrier_response", &c);
    CALL(ZUENET_OK, c, zuenet_end_offset(c, &a));
    CHECK(a == 9);
    fake_end(f, c);
}

int main(int argc, char **argv) {
    CHECK(argc >= 2 && strrchr(argv[1], '/') != NULL);
    snprintf(directory, sizeof directory, "%s", argv[1]);
    *strrchr(directory, '/') = 0;
    appends();
    batches();
    reads();
    others();
    return 0;
}
