/* What the two halves of libzue, zue.c and the Go code, have of each other beside the
 * functions that the Go code exports (zueGo*). */
#ifndef ZUE_INTERNAL_H
#define ZUE_INTERNAL_H

#include <stdint.h>

#include "zue.h"

/* Not of the shared library's interface, although global in the archive's objects. */
#pragma GCC visibility push(hidden)

/* Keeps text as this thread's zue_last_error. It is not terminated by a 0. */
void zue_internal_set_error(const char *text, size_t size);

/* Is malloc. Go's own call of it ends the process instead of returning NULL. */
void *zue_internal_alloc(size_t size);

/* Writes to standard error what can be written, and raises no SIGPIPE. */
void zue_internal_write_stderr(const char *text, size_t size);

/* What an empty field that has no bytes points to, since null means null. */
extern char zue_internal_empty[1];

#pragma GCC visibility pop

/*
 * zue_header and zue_record, with numbers for pointers. The Go code writes the caller's
 * structs as these: to store a pointer, it would look at what was in the place before,
 * while its garbage collector runs, and take that for a pointer. In the caller's memory
 * there can be anything.
 */
typedef struct zue_internal_header {
    uintptr_t name;
    size_t name_size;
    uintptr_t value;
    size_t value_size;
} zue_internal_header;

typedef struct zue_internal_record {
    zue_u64 offset;
    zue_i64 timestamp;
    uintptr_t key;
    size_t key_size;
    uintptr_t value;
    size_t value_size;
    uintptr_t headers;
    size_t header_count;
} zue_internal_record;

#endif
