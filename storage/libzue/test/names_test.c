/* Functions of the program's whose names are those of Go's own in the library. */
#include "testing.h"

void fatalf(const char *format, ...);
void fatalf(const char *format, ...) { (void)format; CHECK(!"called by the library"); }

int zueGoNothing(void);
int zueGoNothing(void) { CHECK(!"called by the library"); return 1; }

void crosscall2(void);
void crosscall2(void) { CHECK(!"called by the library"); }

int main(void) {
    char dir[4096];
    zue_log log;
    test_dir(dir, "log");
    CALL(ZUE_OK, zue_open(dir, NULL, &log));
    CALL(ZUE_OK, zue_append(log, "k", 1, "v", 1, NULL));
    CALL(ZUE_OK, zue_close(log));
    return 0;
}
