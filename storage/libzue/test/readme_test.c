/*
 * README.md has the example as it is tested, and zue.pc its version from zue.h. Arguments:
 * the example, README.md, zue.pc.
 */
#include "testing.h"

/* Returns what a file has, as a string. */
static char *contents(const char *name) {
    static char nothing[1];
    char *text;
    long size;
    FILE *f = fopen(name, "r");
    CHECK(f != NULL && fseek(f, 0, SEEK_END) == 0 && (size = ftell(f)) > 0);
    rewind(f);
    text = malloc((size_t)size + 1);
    if (text == NULL) return nothing;
    CHECK(fread(text, 1, (size_t)size, f) == (size_t)size && fclose(f) == 0);
    text[size] = 0;
    return text;
}

int main(int argc, char **argv) {
    char *example, *readme, *pc;
    CHECK(argc == 4);
    example = contents(argv[1]);
    readme = contents(argv[2]);
    pc = contents(argv[3]);
    CHECK(strstr(readme, example) != NULL);
    CHECK(strstr(pc, "\nVersion: " ZUE_VERSION "\n") != NULL);
    CHECK(strstr(pc, "@") == NULL);
    free(example);
    free(readme);
    free(pc);
    return 0;
}
