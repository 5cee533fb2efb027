/*
 * What is made of fetched entries: right ones, and all kinds of wrong ones. It includes the
 * client itself, to get at its decoder without a server. Buffers are as large as what is in
 * them, so that AddressSanitizer sees each byte that is read beyond.
 */
#include "client/c/zuenet.c"

#include "entries.h"

static zuenet_u64 state = 88172645463325252u;

/* Returns a number below n: the same ones in each run. */
static size_t random_below(size_t n) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (size_t)(state >> 11) % n;
}

/* Begins to decode a payload, in memory of its own. */
static zuenet *decoder(const bytes *payload, zuenet_u64 from, int want) {
    zuenet *c = calloc(1, sizeof *c);
    cursor p = {NULL, NULL, 0};
    zuenet_u64 first, end;
    CHECK(c != NULL);
    c->fd = -1;
    c->in = malloc(payload->size ? payload->size : 1);
    CHECK(c->in != NULL);
    if (payload->size > 0) memcpy(c->in, payload->at, payload->size);
    p.at = c->in;
    p.end = c->in + payload->size;
    c->fetched.state = ZUENET_EINVAL;
    CALL(want, c, open_fetched(c, p, from, &first, &end));
    return c;
}

/* Decodes all. Checks that what is shown can be: in the buffer, in order, not before from.
 * exact: and that it is what some_entries has. Returns the code at the end. */
static int drain(zuenet *c, const bytes *payload, zuenet_u64 from, int exact, int *count) {
    const unsigned char *begin_ = c->in, *end = c->in + payload->size;
    zuenet_u64 least = from, limit = c->fetched.limit;
    zuenet_record r;
    zuenet_header h;
    int code;
    *count = 0;
    while ((code = zuenet_next(c, &r)) == ZUENET_OK) {
        const unsigned char *key = r.key, *value = r.value;
        char want[32];
        CHECK(r.offset >= least && r.offset < limit && zuenet_next_offset(c) == r.offset + 1);
        CHECK(key == NULL || (key >= begin_ && key + r.key_size <= end));
        CHECK(value == NULL || (value >= begin_ && value + r.value_size <= end));
        snprintf(want, sizeof want, "value %d", (int)r.offset);
        CHECK(!exact || (test_is(value, r.value_size, want) && r.timestamp == 1000));
        while ((code = zuenet_next_header(&r, &h)) == ZUENET_OK) {
            CHECK(h.name != NULL && (h.value == NULL || (const byte *)h.value + h.value_size <= end));
        }
        CHECK(code == ZUENET_EEND);
        least = r.offset + 1;
        ++*count;
    }
    CHECK(code != ZUENET_OK && zuenet_next(c, &r) == code);
    CHECK(zuenet_next_offset(c) >= least && zuenet_next_offset(c) <= (limit > from ? limit : from));
    return code;
}

/* Decodes a payload from an offset, and returns the code at the end. */
static int decode(const bytes *payload, zuenet_u64 from, int exact, int *count) {
    zuenet *c = decoder(payload, from, ZUENET_OK);
    int code = drain(c, payload, from, exact, count);
    zuenet_close(c);
    return code;
}

static void known_values(void) {
    static const i64 numbers[] = {0, -1, 1, 63, 64, -64, -65, INT32_MAX, INT64_MAX, INT64_MIN};
    byte b[16];
    cursor p;
    size_t i;
    CHECK(crc32c(0, (const byte *)"123456789", 9) == 0xe3069283u);
    CHECK(crc32c(crc32c(0, (const byte *)"1234", 4), (const byte *)"56789", 5) == 0xe3069283u);
    CHECK(chain_of(0, format_md_entry) == get(format_md_entry + 32, 8));
    for (i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        p.at = b;
        p.end = put_varint(b, numbers[i]);
        p.bad = 0;
        CHECK((size_t)(p.end - b) == varint_size(numbers[i]));
        CHECK(take_varint(&p) == numbers[i] && !p.bad && p.at == p.end);
    }
    memset(b, 0xff, sizeof b);
    b[9] = 2; /* 65 bits */
    p.at = b;
    p.end = b + 16;
    p.bad = 0;
    take_varint(&p);
    CHECK(p.bad);
}

static void right_ones(void) {
    log_bytes l = some_entries(), none = {0};
    bytes payload = {0}, example = {0}, entry = {0};
    zuenet_record r;
    zuenet_u64 from;
    zuenet *c;
    int n;
    add(&entry, format_md_entry, sizeof format_md_entry);
    add_fetched(&example, 1, &entry);
    c = decoder(&example, 0, ZUENET_OK);
    CALL(ZUENET_OK, c, zuenet_next(c, &r));
    CHECK(r.offset == 0 && test_is(r.key, r.key_size, "k") && test_is(r.value, r.value_size, "hello"));
    CHECK(r.timestamp == (zuenet_i64)1700000000123);
    CALL(ZUENET_EEND, c, zuenet_next(c, &r));
    zuenet_close(c);
    add_fetched(&payload, 7, &l.out);
    CHECK(decode(&payload, 0, 1, &n) == ZUENET_EEND && n == 7);
    /* Not from the first entry's records: then the server has sent too much. */
    for (from = 1; from < 8; from++) CHECK(decode(&payload, from, 1, &n) == ZUENET_ECORRUPT);
    payload.size = 0;
    add_fetched(&payload, 7, &none.out);
    CHECK(decode(&payload, 7, 1, &n) == ZUENET_EEND && n == 0);
    /* From within a batch: what comes before is not shown. */
    payload.size = 0;
    add_batch(&none, 5, 1);
    add_fetched(&payload, 5, &none.out);
    for (from = 0; from < 5; from++) {
        CHECK(decode(&payload, from, 1, &n) == ZUENET_EEND && n == 5 - (int)from);
    }
    free(payload.at), free(example.at), free(entry.at), free(l.out.at), free(none.out.at);
}

/* Each bit flipped; each length cut off; garbage behind. */
static void damaged_ones(void) {
    log_bytes l = some_entries();
    bytes payload = {0};
    size_t i, seen = 0;
    int bit, n;
    add_fetched(&payload, 7, &l.out);
    for (i = 25; i < payload.size; i++) {
        for (bit = 0; bit < 8; bit++) {
            payload.at[i] ^= (unsigned char)(1 << bit);
            /* Right is only what no checksum covers: zeros behind a body. */
            if (decode(&payload, 0, 1, &n) == ZUENET_EEND) {
                CHECK(n == 7);
                seen++;
            }
            payload.at[i] ^= (unsigned char)(1 << bit);
        }
    }
    CHECK(seen > 0 && seen <= 4 * 7 * 8);
    for (i = 0; i < l.out.size; i++) {
        bytes cut = l.out, part = {0};
        cut.size = i;
        add_fetched(&part, 7, &cut);
        n = 0;
        CHECK(decode(&part, 0, 1, &n) == ZUENET_ECORRUPT || n < 7);
        free(part.at);
    }
    for (i = 0; i < 25; i++) { /* the fixed part of the answer */
        payload.size = i;
        zuenet_close(decoder(&payload, 0, ZUENET_EPROTOCOL));
    }
    free(payload.at), free(l.out.at);
}

/* Headers with right checksums, and wrong in themselves. */
static void forged_headers(void) {
    static const struct {
        size_t at;
        unsigned char flip;
        int code;
    } cases[] = {
        {8, 1, ZUENET_ECORRUPT},   {8, 4, ZUENET_ECORRUPT},  {15, 0x80, ZUENET_ECORRUPT},
        {16, 4, ZUENET_ECORRUPT},  {23, 0xff, ZUENET_ECORRUPT}, {40, 0xff, ZUENET_ECORRUPT},
        {52, 2, ZUENET_ECORRUPT},  {55, 0xff, ZUENET_ECORRUPT}, {60, 3, ZUENET_ECORRUPT},
        {60, 4, ZUENET_ECORRUPT},  {61, 1, ZUENET_ECORRUPT}, {63, 1, ZUENET_ECORRUPT},
        {64, 1, ZUENET_EVERSION},  {65, 5, ZUENET_EVERSION}, {65, 16, ZUENET_EVERSION},
        {65, 4, ZUENET_ECOMPRESSED}, {67, 1, ZUENET_ECORRUPT}, {100, 0x80, ZUENET_ECORRUPT},
        {103, 3, ZUENET_ECORRUPT}, {103, 1, ZUENET_ECORRUPT}, {105, 1, ZUENET_ECORRUPT},
    };
    size_t i;
    int n;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        log_bytes l = {0};
        bytes payload = {0};
        add_batch(&l, 1, 0);
        l.out.at[cases[i].at] ^= cases[i].flip;
        sign(l.out.at);
        add_fetched(&payload, 1, &l.out);
        n = decode(&payload, 0, 0, &n);
        if (n != cases[i].code && cases[i].at != 8) { /* any index may be the first */
            fprintf(stderr, "byte %d: %d\n", (int)cases[i].at, n);
            exit(1);
        }
        free(payload.at), free(l.out.at);
    }
}

/* Entries that do not follow each other, each right by itself. */
static void forged_orders(void) {
    static const size_t fields[] = {8, 16, 24, 32};
    size_t i;
    int n;
    for (i = 0; i < sizeof fields / sizeof *fields; i++) {
        log_bytes l = {0};
        bytes payload = {0};
        size_t second;
        add_batch(&l, 2, 0);
        second = l.out.size;
        add_batch(&l, 2, 0);
        l.out.at[second + fields[i]] ^= 1;
        if (fields[i] != 32) { /* the chain of what it says */
            put_at(l.out.at + second + 32, chain_of(get(l.out.at + 32, 8), l.out.at + second), 8);
        }
        sign(l.out.at + second);
        add_fetched(&payload, 10, &l.out);
        CHECK(decode(&payload, 0, 1, &n) == ZUENET_ECORRUPT && n == 2);
        free(payload.at), free(l.out.at);
    }
}

/* Signs entries again, and decodes them as those of a log that ends at an offset. */
static int signed_again(log_bytes *l, zuenet_u64 end, int *count, zuenet_u64 *next) {
    bytes payload = {0};
    zuenet *c;
    int code;
    sign(l->out.at);
    add_fetched(&payload, end, &l->out);
    c = decoder(&payload, 0, ZUENET_OK);
    code = drain(c, &payload, 0, 0, count);
    *next = zuenet_next_offset(c);
    zuenet_close(c);
    free(payload.at), free(l->out.at);
    return code;
}

static void forged_batches(void) {
    log_bytes l = {0}, reaching = {0}, longer = {0}, compacted = {0}, beyond = {0};
    zuenet_u64 next;
    int n;
    add_entry(&l, "too short", 9, 1); /* without a batch's header */
    CHECK(signed_again(&l, 1, &n, &next) == ZUENET_ECORRUPT && n == 0 && next == 0);
    /* A value that reaches beyond the body, to the zeros behind it. */
    add_batch(&reaching, 1, 0);
    reaching.out.at[104] = (unsigned char)(reaching.out.at[104] + 2);
    reaching.out.at[109] = (unsigned char)(reaching.out.at[109] + 2);
    CHECK(signed_again(&reaching, 1, &n, &next) == ZUENET_ECORRUPT && n == 0);
    /* A record with a byte behind its headers. */
    add_batch(&longer, 1, 0);
    longer.out.at[109] = (unsigned char)(longer.out.at[109] - 2);
    longer.out.at[116] = 0;
    CHECK(signed_again(&longer, 1, &n, &next) == ZUENET_ECORRUPT && n == 0);
    /* The last of three records is gone: it goes on behind it. */
    add_batch(&compacted, 2, 0);
    compacted.out.at[52] = 3;
    compacted.out.at[69] = 2;
    CHECK(signed_again(&compacted, 3, &n, &next) == ZUENET_EEND && n == 2 && next == 3);
    /* Records at the log's end. */
    add_batch(&beyond, 2, 0);
    CHECK(signed_again(&beyond, 1, &n, &next) == ZUENET_ECORRUPT && n == 0);
}

/* Random changes of entries whose checksums are made right again, and random bytes. */
static void fuzz(int rounds) {
    int i, k, n, good_ones = 0, shown = 0;
    for (i = 0; i < rounds; i++) {
        log_bytes l = some_entries();
        bytes payload = {0};
        size_t at, next;
        for (k = (int)random_below(6); k >= 0; k--) {
            at = random_below(l.out.size);
            l.out.at[at] = (unsigned char)(random_below(2) ? random_below(256)
                                                           : l.out.at[at] ^ 1u << random_below(8));
        }
        for (at = 0; at + 64 <= l.out.size; at = next) {
            size_t size = (size_t)get(l.out.at + at + 48, 4);
            if (size > l.out.size - at - 64) break;
            sign(l.out.at + at);
            next = at + 64 + ((size + 7) & ~(size_t)7);
        }
        if (random_below(8) == 0) l.out.size = random_below(l.out.size + 1);
        add_fetched(&payload, 7 + random_below(3), &l.out);
        if (decode(&payload, 0, 0, &n) == ZUENET_EEND) good_ones++;
        shown += n;
        payload.size = 25 + random_below(200);
        for (at = 25; at < payload.size; at++) {
            if (at >= payload.capacity) break;
            payload.at[at] = (unsigned char)random_below(256);
        }
        payload.size = at;
        payload.at[16] = 1; /* the format */
        put_at(payload.at + 21, at - 25, 4);
        n = decode(&payload, 0, 0, &k);
        CHECK(k == 0 && (n == ZUENET_ECORRUPT || at == 25));
        free(payload.at), free(l.out.at);
    }
    fprintf(stderr, "%d rounds: %d good to the end, %d records shown\n", rounds, good_ones, shown);
    CHECK(good_ones > 0 && shown > rounds / 2);
}

int main(void) {
    known_values();
    right_ones();
    damaged_ones();
    forged_headers();
    forged_orders();
    forged_batches();
    fuzz(20000);
    return 0;
}
