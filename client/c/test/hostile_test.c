/*
 * Servers that are broken, slow, or hostile. Whatever one sends, a call ends in its time, with
 * an error that says what was wrong, and nothing wrong is taken for right. It includes the
 * client itself, to look at the memory that it has.
 */
#include "client/c/zuenet.c"

#include "entries.h"

/* Returns a frame of a type and a payload. */
static bytes frame(int type, const void *payload, size_t size) {
    bytes b = {0};
    add_number(&b, size + 1, 4);
    add_number(&b, (zuenet_u64)type, 1);
    add(&b, payload, size);
    return b;
}

static bytes error_frame(int code, const char *message) {
    bytes p = {0}, b;
    add_number(&p, (zuenet_u64)code, 1);
    add_number(&p, strlen(message), 4);
    add(&p, message, strlen(message));
    b = frame(ERROR, p.at, p.size);
    free(p.at);
    return b;
}

/* Checks that the connection says that it is of no use. */
static void is_broken(zuenet *c) {
    zuenet_u64 offset = 77;
    zuenet_record r;
    CHECK(!zuenet_usable(c));
    CALL(ZUENET_EBROKEN, c, zuenet_append(c, "k", 1, "v", 1, &offset));
    CHECK(offset == 77 && zuenet_outcome(c) == ZUENET_NOT_APPLIED);
    CALL(ZUENET_EBROKEN, c, zuenet_read(c, 0, &r));
    CALL(ZUENET_EBROKEN, c, zuenet_fetch(c, 0, 1, 1, 0, NULL, NULL));
    CALL(ZUENET_EINVAL, c, zuenet_next(c, &r));
    CHECK(strlen(zuenet_message(c)) > 0);
}

/* Appends to a server that answers with these bytes; ends with the code. */
static void append_gets(const bytes *answer, int hang, zuenet_i64 timeout_ms, int want) {
    script s = {0};
    zuenet_u64 offset = 77;
    zuenet *c;
    fake f;
    s.answer = answer;
    s.hang = hang;
    f = fake_connect(&s, timeout_ms, &c);
    CALL(want, c, zuenet_append(c, "k", 1, "v", 1, &offset));
    CHECK(offset == 77 && zuenet_outcome(c) == ZUENET_MAYBE);
    CHECK(c->in_capacity <= 4 * FIRST_INPUT); /* whatever length it claims */
    is_broken(c);
    fake_end(f, c);
}

static void wrong_answers(void) {
    static const struct {
        const char *bytes;
        size_t size;
    } cases[] = {
        {"\x00\x00\x00\x00\x02", 5},                         /* a length of 0 */
        {"\x01\x00\xa0\x00\x02", 5},                         /* one too large by one */
        {"\xff\xff\xff\xff\x02", 5},                         /* the largest */
        {"\x01\x00\xa0\x00\xff", 5},                         /* too large an error */
        {"\x09\x00\x00\x00\x04\x05\0\0\0\0\0\0\0", 13},      /* another type */
        {"\x09\x00\x00\x00\x01\x05\0\0\0\0\0\0\0", 13},      /* a request */
        {"\x08\x00\x00\x00\x02\x05\0\0\0\0\0\0", 12},        /* too short a payload */
        {"\x0a\x00\x00\x00\x02\x05\0\0\0\0\0\0\0\0", 14},    /* too long a payload */
        {"\x01\x00\x00\x00\x02", 5},                         /* no payload */
        {"\x09\x00\x00\x00\x02\x05\0\0\0\0\0\0\0\x09", 14},  /* more behind it */
        {"\x01\x00\x00\x00\xff", 5},                         /* an error without a code */
        {"\x02\x00\x00\x00\xff\x01", 6},                     /* without a message length */
        {"\x06\x00\x00\x00\xff\x01\x01\0\0\0", 10},          /* without its message */
        {"\x06\x00\x00\x00\xff\x01\xff\xff\xff\xff", 10},    /* a negative length */
        {"\x07\x00\x00\x00\xff\x01\0\0\0\0x", 11},           /* more than its message */
        {"HTTP/1.1 400 Bad Request\r\n\r\n", 28},
    };
    size_t i;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        bytes b = {0};
        add(&b, cases[i].bytes, cases[i].size);
        append_gets(&b, 1, 5000, ZUENET_EPROTOCOL);
        free(b.at);
    }
}

/* The right answer, or one that claims 10 MiB, cut off: with the end of the stream behind it,
 * or with silence. */
static void cut_off(void) {
    bytes good_ = {0}, huge = {0}, part;
    size_t i;
    add_number(&good_, 9, 4);
    add_number(&good_, 2, 1);
    add_number(&good_, 5, 8);
    for (i = 0; i < good_.size; i++) {
        part = good_;
        part.size = i;
        append_gets(&part, 0, 5000, ZUENET_ECLOSED);
    }
    part.size = 7;
    append_gets(&part, 1, 150, ZUENET_ETIMEDOUT);
    part.size = 0;
    append_gets(&part, 1, 150, ZUENET_ETIMEDOUT);
    add_number(&huge, MAX_FRAME, 4);
    add_number(&huge, 2, 1);
    append_gets(&huge, 1, 150, ZUENET_ETIMEDOUT);
    append_gets(&huge, 0, 5000, ZUENET_ECLOSED);
    while (huge.size < 2000) add_number(&huge, 0, 8); /* memory follows what arrives */
    append_gets(&huge, 0, 5000, ZUENET_ECLOSED);
    free(good_.at), free(huge.at);
}

/* One byte at a time: right if there is time, and in vain, but in time, if there is not. */
static void slow(void) {
    bytes answer = {0};
    script s = {0};
    zuenet_u64 offset = 0;
    zuenet *c;
    long began;
    fake f;
    add_number(&answer, 9, 4);
    add_number(&answer, 2, 1);
    add_number(&answer, 5, 8);
    s.answer = &answer;
    s.piece = 1;
    s.pause_ms = 20;
    f = fake_connect(&s, 5000, &c);
    CALL(ZUENET_OK, c, zuenet_append(c, "k", 1, "v", 1, &offset));
    CHECK(offset == 5 && zuenet_usable(c));
    fake_end(f, c);
    s.pause_ms = 900;
    f = fake_connect(&s, 350, &c);
    began = test_ms();
    CALL(ZUENET_ETIMEDOUT, c, zuenet_append(c, "k", 1, "v", 1, &offset));
    CHECK(test_ms() - began >= 340 && test_ms() - began < 5000);
    is_broken(c);
    fake_end(f, c);
    free(answer.at);
}

/* A server that reads nothing gets no part of a request that could be carried out. */
static void deaf(void) {
    const size_t size = ZUENET_MAX_RECORD;
    char *text = calloc(1, size);
    bytes refusal = error_frame(ZUENET_SERVER_INVALID_MESSAGE, "too large");
    script s = {0};
    zuenet *c;
    long began;
    int code;
    fake f;
    CHECK(text != NULL);
    s.deaf = s.hang = 1;
    f = fake_connect(&s, 200, &c);
    began = test_ms();
    CALL(ZUENET_ETIMEDOUT, c, zuenet_append(c, NULL, 0, text, size, NULL));
    CHECK(test_ms() - began < 5000 && zuenet_outcome(c) == ZUENET_NOT_APPLIED);
    is_broken(c);
    fake_end(f, c);
    /* Refused, and hung up on, in the middle: a reset can overtake what it said. */
    s.hang = 0;
    s.answer = &refusal;
    f = fake_connect(&s, 5000, &c);
    code = zuenet_append(c, NULL, 0, text, size, NULL);
    CHECK(code == ZUENET_ESERVER || code == ZUENET_ECLOSED);
    CHECK(code == ZUENET_ECLOSED || strcmp(zuenet_message(c), "too large") == 0);
    CHECK(zuenet_outcome(c) == ZUENET_NOT_APPLIED);
    is_broken(c);
    fake_end(f, c);
    free(text), free(refusal.at);
}

/* What each code of a refusal says about an append. */
static void refusals(void) {
    static const int maybe[] = {0x00, 0x03, 0x11, 0x12, 0x42, 0xfe};
    static const int no[] = {0x01, 0x02, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x10, 0x13, 0x14};
    size_t i, n = sizeof maybe / sizeof *maybe;
    for (i = 0; i < n + sizeof no / sizeof *no; i++) {
        int code = i < n ? maybe[i] : no[i - n];
        bytes b = error_frame(code, "why");
        script s = {0};
        zuenet *c;
        fake f;
        s.answer = &b;
        f = fake_connect(&s, 5000, &c);
        CALL(ZUENET_ESERVER, c, zuenet_append(c, "k", 1, "v", 1, NULL));
        CHECK(zuenet_server_code(c) == code && strcmp(zuenet_message(c), "why") == 0);
        CHECK(zuenet_outcome(c) == (i < n ? ZUENET_MAYBE : ZUENET_NOT_APPLIED));
        CHECK(zuenet_usable(c) == (code != ZUENET_SERVER_OVERLOADED));
        fake_end(f, c);
        free(b.at);
    }
}

/* A server that says more than one answer, or hangs up, before the next request: that is
 * surely not carried out. */
static void between_requests(void) {
    int stray;
    for (stray = 0; stray < 2; stray++) {
        bytes answer = {0};
        script s = {0};
        zuenet_u64 offset = 0;
        struct pollfd p;
        zuenet *c;
        fake f;
        int i;
        for (i = 0; i <= stray; i++) {
            add_number(&answer, 9, 4);
            add_number(&answer, 2, 1);
            add_number(&answer, 5, 8);
        }
        s.answer = &answer;
        s.piece = 13;
        s.pause_ms = 500;
        f = fake_connect(&s, 5000, &c);
        CALL(ZUENET_OK, c, zuenet_append(c, "k", 1, "v", 1, &offset));
        p.fd = c->fd;
        p.events = POLLIN;
        CHECK(poll(&p, 1, 5000) == 1);
        offset = 77;
        CALL(stray ? ZUENET_EPROTOCOL : ZUENET_ECLOSED, c,
             zuenet_append(c, "k", 1, "v", 1, &offset));
        CHECK(offset == 77 && zuenet_outcome(c) == ZUENET_NOT_APPLIED);
        is_broken(c);
        fake_end(f, c);
        free(answer.at);
    }
}

/* A message that is longer than what is kept of it, and has a 0 in it. */
static void long_message(void) {
    char text[3000];
    bytes b;
    script s = {0};
    zuenet *c;
    fake f;
    memset(text, 'm', sizeof text);
    text[sizeof text - 1] = 0;
    b = error_frame(5, text);
    b.at[20] = 0;
    s.answer = &b;
    f = fake_connect(&s, 5000, &c);
    CALL(ZUENET_ESERVER, c, zuenet_append(c, "k", 1, "v", 1, NULL));
    CHECK(strlen(zuenet_message(c)) == 511 && zuenet_usable(c));
    fake_end(f, c);
    free(b.at);
}

/* Receipts for something else than what was sent. */
static void wrong_receipts(void) {
    static const int cases[][2] = {{2, 0}, {0, 0}, {1, 2}, {1, 255}}; /* count, duplicate */
    zuenet_pair p = test_pair("k", "v");
    size_t i;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        bytes r = {0}, b;
        script s = {0};
        zuenet *c;
        fake f;
        add_number(&r, 7, 8);
        add_number(&r, (zuenet_u64)cases[i][0], 4);
        add_number(&r, 1, 8);
        add_number(&r, 1, 4);
        add_number(&r, (zuenet_u64)cases[i][1], 1);
        b = frame(BATCH_APPEND + 1, r.at, r.size);
        s.answer = &b;
        f = fake_connect(&s, 5000, &c);
        CALL(ZUENET_EPROTOCOL, c, zuenet_append_batch(c, &p, 1, NULL, NULL));
        CHECK(zuenet_outcome(c) == ZUENET_MAYBE);
        is_broken(c);
        fake_end(f, c);
        free(r.at), free(b.at);
    }
}

/* Fetches an answer, and takes all records; returns the code at the end. All that is shown is
 * right. The answer comes in two pieces. */
static int fetch_all(const bytes *answer, int *count) {
    script s = {0};
    zuenet *c;
    zuenet_record r;
    int code;
    fake f;
    *count = 0;
    s.answer = answer;
    s.piece = answer->size / 2 + 1;
    f = fake_connect(&s, 5000, &c);
    code = zuenet_fetch(c, 0, 1 << 20, 1, 0, NULL, NULL);
    while (code == ZUENET_OK && (code = zuenet_next(c, &r)) == ZUENET_OK) {
        char want[32];
        snprintf(want, sizeof want, "value %d", *count);
        CHECK(r.offset == (zuenet_u64)*count && test_is(r.value, r.value_size, want));
        CHECK(r.timestamp == 1000);
        ++*count;
    }
    fake_end(f, c);
    return code;
}

/* A good answer to a fetch; then each of its bytes changed, and each length of it. */
static void fetches(void) {
    log_bytes l = some_entries();
    bytes p = {0}, b, part;
    size_t i;
    int n, code;
    add_fetched(&p, 7, &l.out);
    b = frame(FETCH + 1, p.at, p.size);
    CHECK(fetch_all(&b, &n) == ZUENET_EEND && n == 7);
    for (i = 0; i < b.size; i++) {
        b.at[i] ^= 0xff;
        code = fetch_all(&b, &n);
        b.at[i] ^= 0xff;
        /* The end offset is nobody's to check; a larger one is believed. */
        CHECK(code != ZUENET_OK && (code != ZUENET_EEND || n == 7));
        CHECK(code != ZUENET_EEND || (i >= 13 && (i < 26 || i >= 30))); /* nor the lengths */
    }
    for (i = 0; i < b.size; i += 3) {
        part = b;
        part.size = i;
        CHECK(fetch_all(&part, &n) == ZUENET_ECLOSED && n == 0);
    }
    free(p.at), free(b.at), free(l.out.at);
}

/* Random bytes, the same ones in each run, for each kind of request. */
static void garbage(void) {
    zuenet_u64 state = 88172645463325252u;
    zuenet_pair p = test_pair("k", "v");
    zuenet_record r;
    const char *json;
    zuenet_u64 end;
    int i, code = ZUENET_OK;
    for (i = 0; i < 120; i++) {
        static const int types[] = {2, 4, 0x33, 0x35, 0x39, 0x3b};
        int kind = i % 6;
        bytes b = {0};
        script s = {0};
        zuenet *c;
        fake f;
        size_t n;
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        n = state % 300;
        for (; b.size < n; add_number(&b, state >> 16, 1)) {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        }
        if (i >= 60 && n >= 5) { /* a right head before it */
            put_at(b.at, n - 4, 4);
            b.at[4] = (unsigned char)types[kind];
        }
        s.answer = &b;
        f = fake_connect(&s, 5000, &c);
        if (kind == 0) code = zuenet_append(c, "k", 1, "v", 1, NULL);
        if (kind == 1) code = zuenet_read(c, 0, &r);
        if (kind == 2) code = zuenet_append_batch(c, &p, 1, NULL, NULL);
        if (kind == 3) code = zuenet_fetch(c, 0, 1 << 20, 1, 0, NULL, NULL);
        if (kind == 4) code = zuenet_status(c, &json, NULL);
        if (kind == 5) code = zuenet_end_offset(c, &end);
        CHECK(code == ZUENET_EPROTOCOL || code == ZUENET_ECLOSED);
        is_broken(c);
        fake_end(f, c);
        free(b.at);
    }
}

/* A listener whose queue is full does not answer: connecting ends in its time. */
static void no_answer(void) {
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    int fds[8], listener = socket(AF_INET, SOCK_STREAM, 0);
    zuenet_options o = {sizeof o, 300};
    zuenet *c;
    long began;
    size_t i;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(listener >= 0 && bind(listener, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(listen(listener, 0) == 0);
    CHECK(getsockname(listener, (struct sockaddr *)&address, &size) == 0);
    for (i = 0; i < 8; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(fds[i] >= 0 && fcntl(fds[i], F_SETFL, O_NONBLOCK) == 0);
        CHECK(connect(fds[i], (struct sockaddr *)&address, sizeof address) == 0 ||
              errno == EINPROGRESS);
    }
    began = test_ms();
    CALL(ZUENET_ETIMEDOUT, NULL,
         zuenet_connect("127.0.0.1", ntohs(address.sin_port), &o, &c));
    CHECK(c == NULL && test_ms() - began >= 290 && test_ms() - began < 5000);
    for (i = 0; i < 8; i++) close(fds[i]);
    close(listener);
}

/* Calls that are wrong themselves. */
static void misuse(void) {
    struct {
        zuenet_options o;
        char more[8];
    } large = {{sizeof large, 0}, {0}};
    zuenet_pair p = test_pair(NULL, "v");
    zuenet_options o = {3, 0};
    script s = {0};
    zuenet_header h;
    zuenet_record r = {0};
    zuenet *c;
    fake f;
    int code;
    CALL(ZUENET_EINVAL, NULL, zuenet_connect("127.0.0.1", 9000, &o, &c));
    CALL(ZUENET_EINVAL, NULL, zuenet_connect(NULL, 9000, NULL, &c));
    CALL(ZUENET_EINVAL, NULL, zuenet_connect("", 9000, NULL, &c));
    CALL(ZUENET_EINVAL, NULL, zuenet_connect("127.0.0.1", 0, NULL, &c));
    CALL(ZUENET_EINVAL, NULL, zuenet_connect("127.0.0.1", 65536, NULL, &c));
    CALL(ZUENET_EINVAL, NULL, zuenet_connect("127.0.0.1", 9000, NULL, NULL));
    large.more[7] = 1;
    CALL(ZUENET_ENOTSUP, NULL, zuenet_connect("127.0.0.1", 9000, &large.o, &c));
    CHECK(c == NULL);
    zuenet_close(NULL);
    CALL(ZUENET_EINVAL, NULL, zuenet_append(NULL, "k", 1, "v", 1, NULL));
    CALL(ZUENET_EINVAL, NULL, zuenet_next(NULL, NULL));
    CALL(ZUENET_EEND, NULL, zuenet_next_header(&r, &h));
    r.header_count = 1;
    CALL(ZUENET_ECORRUPT, NULL, zuenet_next_header(&r, &h));
    CHECK(!zuenet_usable(NULL) && zuenet_next_offset(NULL) == 0 && zuenet_message(NULL)[0] == 0);
    s.deaf = 1;
    f = fake_connect(&s, 5000, &c);
    CALL(ZUENET_EINVAL, c, zuenet_append(c, NULL, 1, "v", 1, NULL));
    CALL(ZUENET_EINVAL, c, zuenet_append(c, NULL, 0, NULL, 1, NULL));
    CALL(ZUENET_ETOOLARGE, c, zuenet_append(c, "k", (size_t)-1, "v", (size_t)-1, NULL));
    CALL(ZUENET_EINVAL, c, zuenet_append_batch(c, &p, 0, NULL, NULL));
    CALL(ZUENET_EINVAL, c, zuenet_append_batch(c, NULL, 1, NULL, NULL));
    p.key_size = 1;
    CALL(ZUENET_EINVAL, c, zuenet_append_batch(c, &p, 1, NULL, NULL));
    CALL(ZUENET_EINVAL, c, zuenet_append_encoded(c, NULL, 0, NULL, NULL));
    CALL(ZUENET_EINVAL, c, zuenet_read(c, 0, NULL));
    CALL(ZUENET_EINVAL, c, zuenet_status(c, NULL, NULL));
    CALL(ZUENET_EINVAL, c, zuenet_end_offset(c, NULL));
    CALL(ZUENET_EINVAL, c, zuenet_next(c, &r));
    CHECK(zuenet_usable(c)); /* none of them has sent anything */
    fake_end(f, c);
    for (code = ZUENET_EVERSION - 2; code < 3; code++) CHECK(strlen(zuenet_strerror(code)) > 5);
    CHECK(strcmp(zuenet_strerror(ZUENET_EVERSION - 1), zuenet_strerror(1)) == 0);
    CHECK(strstr(zuenet_strerror(ZUENET_EVERSION), "format") != NULL);
}

int main(void) {
    wrong_answers();
    cut_off();
    slow();
    deaf();
    refusals();
    between_requests();
    long_message();
    wrong_receipts();
    fetches();
    garbage();
    no_answer();
    misuse();
    return 0;
}
