/* A malloc that has no memory left: a code, and nothing is lost. */
#include <stdatomic.h>

#include "testing.h"

extern void *__libc_malloc(size_t size);

static atomic_size_t most = SIZE_MAX;

/* Takes the place of the C library's, in this program and the library. */
void *malloc(size_t size) { return size > most ? NULL : __libc_malloc(size); }

int main(void) {
    enum { large = 600000 };
    static char value[large];
    char dir[4096];
    zue_record r[2];
    zue_iter iter;
    zue_log log;
    zue_u64 offset = 9;
    size_t n = 9;
    test_dir(dir, "log");
    CALL(ZUE_OK, zue_open(dir, NULL, &log));
    CALL(ZUE_OK, zue_append(log, "k", 1, "v", 1, NULL));
    CALL(ZUE_OK, zue_append(log, "k", 1, value, large, NULL));
    CALL(ZUE_OK, zue_iter_open(log, 0, &iter));
    most = 100000;
    CALL(ZUE_ENOMEM, zue_iter_next(iter, r, 2, &n));
    CHECK(n == 0 && strstr(zue_last_error(), "record 0") != NULL);
    CALL(ZUE_ENOMEM, zue_iter_next(iter, r, 2, &n));
    most = 300000;
    CALL(ZUE_OK, zue_iter_next(iter, r, 2, &n));
    CHECK(n == 1 && r[0].offset == 0 && test_is(r[0].value, r[0].value_size, "v"));
    CALL(ZUE_ENOMEM, zue_iter_next(iter, r, 2, &n)); /* no room for the large one */
    CALL(ZUE_OK, zue_iter_offset(iter, &offset));
    CHECK(n == 0 && offset == 1);
    most = SIZE_MAX;
    CALL(ZUE_OK, zue_iter_next(iter, r, 2, &n));
    CHECK(n == 1 && r[0].offset == 1 && r[0].value_size == large);
    CALL(ZUE_OK, zue_iter_close(iter));
    CALL(ZUE_OK, zue_close(log));
    return 0;
}
