/* What the two halves of libzue, zue.c and the Go code, have of each other beside the
 * functions that the Go code exports (zueGo*). */
#ifndef ZUE_INTERNAL_H
#define ZUE_INTERNAL_H

#include "zue.h"

/* Keeps text as this thread's zue_last_error. It is not terminated by a 0. */
void zue_internal_set_error(const char *text, size_t size);

/* What an empty field that has no bytes points to, since null means null. */
extern char zue_internal_empty[1];

#endif
