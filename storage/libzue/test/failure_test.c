/*
 * Writes that fail: the files that a log has open are replaced by such as cannot be
 * written to, as by a disk that does not any more.
 */
#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "testing.h"

/* Makes every descriptor of a segment in dir one of the file named. It returns how many. */
static int replace(const char *dir, const char *file, int flags) {
    int other = open(file, flags | O_CLOEXEC), n = 0;
    DIR *d = opendir("/proc/self/fd");
    struct dirent *e;
    CHECK(other >= 0 && d != NULL);
    while ((e = readdir(d)) != NULL) {
        char target[4096];
        ssize_t size = readlinkat(dirfd(d), e->d_name, target, sizeof target - 1);
        if (size <= 0) continue;
        target[size] = 0;
        if (strncmp(target, dir, strlen(dir)) != 0 || strstr(target, ".log") == NULL) continue;
        CHECK(dup3(other, atoi(e->d_name), O_CLOEXEC) >= 0);
        n++;
    }
    CHECK(closedir(d) == 0 && close(other) == 0);
    return n;
}

/* A log whose writes, or syncs, have failed says so until it is opened again, and has then
 * what was durable before. */
static void fails(const char *file, int flags) {
    char dir[4096], buffer[8];
    zue_metrics m;
    zue_record r, v = test_record("k", "v");
    zue_pending pending;
    zue_log log;
    zue_u64 end = 9;
    int code;
    test_dir(dir, "log");
    CALL(ZUE_OK, zue_open(dir, NULL, &log));
    CALL(ZUE_OK, zue_append(log, "k", 1, "v", 1, NULL));
    CHECK(replace(dir, file, flags) > 0);
    CALL(ZUE_EFAILED, zue_append(log, "k", 1, "v", 1, NULL)); /* it may be on disk */
    CALL(ZUE_EFAILED, zue_append(log, "k", 1, "v", 1, NULL));
    CALL(ZUE_EFAILED, zue_append_batch(log, &v, 1, NULL));
    code = zue_append_async(log, &v, 1, &pending);
    if (code == ZUE_OK) code = zue_wait(pending, -1, NULL);
    CHECK(code == ZUE_EFAILED);
    CALL(ZUE_EFAILED, zue_sync(log));
    m.size = sizeof m;
    CALL(ZUE_OK, zue_get_metrics(log, &m));
    CHECK(m.failed == 1);
    CALL(ZUE_OK, zue_read(log, 0, buffer, sizeof buffer, &r, NULL));
    CALL(ZUE_EFAILED, zue_close(log));
    CALL(ZUE_OK, zue_open(dir, NULL, &log));
    CALL(ZUE_OK, zue_range(log, NULL, &end));
    CHECK(end == 1);
    CALL(ZUE_OK, zue_append(log, "k", 1, "v", 1, NULL));
    CALL(ZUE_OK, zue_close(log));
}

int main(void) {
    fails("/dev/null", O_RDONLY);
    fails("/dev/full", O_RDWR);
    return 0;
}
