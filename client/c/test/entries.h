/* Entries made by the rules of storage/FORMAT.md, for tests that include zuenet.c. */
#ifndef ZUENET_ENTRIES_H
#define ZUENET_ENTRIES_H

#include "testing.h"

#define TEST_SEED 0x5eed

/* Where entries go, and what comes before the next one. */
typedef struct {
    bytes out;
    zuenet_u64 index, offset, chain;
} log_bytes;

/* The beginning of storage/FORMAT.md's example, from the entry on: key "k", value "hello". */
static const unsigned char format_md_entry[120] = {
    0xce, 0xee, 0xa0, 0x24, 0x8f, 0x04, 0x3b, 0x83, 1,    0,    0,    0,    0,    0,    0,
    0,    0,    0,    0,    0,    0,    0,    0,    0,    1,    0,    0,    0,    0,    0,
    0,    0,    0xba, 0x1e, 0xfe, 0xa2, 0x28, 0x91, 0xa7, 0xae, 0,    0,    0,    0,    0,
    0,    0,    0,    0x35, 0,    0,    0,    1,    0,    0,    0,    0x8f, 0x04, 0x3b, 0x83,
    1,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0x01, 0x8b, 0xcf,
    0xe5, 0x68, 0x7b, 0,    0,    0x01, 0x8b, 0xcf, 0xe5, 0x68, 0x7b, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0,    0,    0,    1,    0x18,
    0,    0,    0,    0x02, 0x6b, 0x0a, 0x68, 0x65, 0x6c, 0x6c, 0x6f, 0,    0,    0,    0};

/* Makes the checksums of the entry at an address right. */
static inline void sign(unsigned char *h) {
    unsigned char seed[4];
    put_at(seed, TEST_SEED, 4);
    put_at(h + 4, test_crc(0, h + 64, (size_t)get(h + 48, 4)), 4);
    put_at(h, test_crc(test_crc(0, seed, 4), h + 4, 60), 4);
}

/* Adds an entry of a body; a control entry if the span is 0. */
static inline void add_entry(log_bytes *l, const void *body, size_t size, zuenet_u32 span) {
    unsigned char h[64] = {0};
    size_t at = l->out.size;
    put_at(h + 8, ++l->index, 8);
    put_at(h + 16, l->offset, 8);
    put_at(h + 24, 1, 8);
    put_at(h + 48, size, 4);
    put_at(h + 52, span, 4);
    put_at(h + 56, test_crc(0, body, size), 4);
    h[60] = span > 0 ? 1 : 2;
    put_at(h + 32, l->chain = chain_of(l->chain, h), 8);
    add(&l->out, h, 64);
    add(&l->out, body, size);
    add_number(&l->out, 0, (int)((8 - size % 8) % 8));
    sign(l->out.at + at);
    l->offset += span;
}

/* Adds an entry of count records, whose values say their offsets. */
static inline void add_batch(log_bytes *l, int count, int headers) {
    static const unsigned char header[] = {4, 2, 'h', 4, 'v', 'w', 0, 1}; /* h: vw, "": null */
    bytes body = {0}, r = {0};
    int i;
    add_number(&body, 0, 2);
    for (i = 3; i >= 0; i--) add_number(&body, (zuenet_u64)(count - 1) >> (8 * i), 1);
    for (i = 7; i >= 0; i--) add_number(&body, (zuenet_u64)1000 >> (8 * i), 1);
    for (i = 7; i >= 0; i--) add_number(&body, (zuenet_u64)1000 >> (8 * i), 1);
    add_number(&body, ~(zuenet_u64)0, 8);
    add_number(&body, ~(zuenet_u64)0, 6);
    for (i = 3; i >= 0; i--) add_number(&body, (zuenet_u64)count >> (8 * i), 1);
    for (i = 0; i < count; i++) {
        char value[32];
        int n = snprintf(value, sizeof value, "value %d", (int)l->offset + i);
        r.size = 0;
        add_number(&r, 0, 2);                    /* attributes, time delta */
        add_number(&r, (zuenet_u64)(2 * i), 1);  /* offset delta */
        add_number(&r, i % 3 == 0 ? 1 : 2, 1);   /* key: null, or one byte */
        if (i % 3 != 0) add(&r, "k", 1);
        add_number(&r, (zuenet_u64)(2 * n), 1);
        add(&r, value, (size_t)n);
        if (headers) {
            add(&r, header, sizeof header);
        } else {
            add_number(&r, 0, 1);
        }
        add_number(&body, 2 * r.size, 1);
        add(&body, r.at, r.size);
    }
    add_entry(l, body.at, body.size, (zuenet_u32)count);
    free(body.at);
    free(r.at);
}

/* Adds the payload of a fetch response that has the entries. */
static inline void add_fetched(bytes *b, zuenet_u64 end, const bytes *entries) {
    add_number(b, 0, 8);
    add_number(b, end, 8);
    add_number(b, entries->size > 0, 1);
    add_number(b, TEST_SEED, 4);
    add_number(b, entries->size, 4);
    add(b, entries->at, entries->size);
}

/* Four entries, of which one is a control entry: offsets 0 to 6. */
static inline log_bytes some_entries(void) {
    log_bytes l = {0};
    add_batch(&l, 1, 0);
    add_entry(&l, "control", 7, 0);
    add_batch(&l, 4, 1);
    add_batch(&l, 2, 0);
    return l;
}

#endif
