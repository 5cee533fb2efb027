/*
 * libzue.so loaded and, as far as that goes, unloaded by a program that is not linked with
 * it. The argument is the library.
 */
#include <dlfcn.h>

#include "testing.h"

static void *library;

/* Gets a function. Its types are void * and a function's, which C does not convert. */
static void look_up(const char *name, void *function) {
    void *found = dlsym(library, name);
    CHECK(found != NULL);
    memcpy(function, &found, sizeof found);
}

int main(int argc, char **argv) {
    int (*open_)(const char *, const zue_options *, zue_log *);
    int (*append_)(zue_log, const void *, size_t, const void *, size_t, zue_u64 *);
    int (*close_)(zue_log);
    int (*abi_version)(void);
    char dir[4096];
    zue_u64 offset = 9;
    zue_log log = 0;
    int i;

    CHECK(argc == 2);
    test_dir(dir, "log");
    library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) fprintf(stderr, "%s\n", dlerror());
    CHECK(library != NULL);
    look_up("zue_abi_version", &abi_version);
    look_up("zue_open", &open_);
    look_up("zue_append", &append_);
    look_up("zue_close", &close_);
    CHECK(abi_version() == ZUE_ABI_VERSION);
    CHECK(open_(dir, NULL, &log) == ZUE_OK);

    /* Go's runtime stays: what was got from the library is good after dlclose. */
    CHECK(dlclose(library) == 0);
    for (i = 0; i < 10; i++) {
        CHECK(append_(log, "k", 1, "v", 1, &offset) == ZUE_OK && offset == (zue_u64)i);
    }
    CHECK(close_(log) == ZUE_OK);
    return 0;
}
