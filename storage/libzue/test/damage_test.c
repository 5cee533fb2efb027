/* A log whose files someone has damaged: it says so, and what is whole can be read. */
#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "testing.h"

enum { records = 2000 };

/* Makes a log of several segments; returns where the second one begins. */
static zue_u64 make(const char *dir) {
    zue_options o = test_options(ZUE_SYNC_NEVER);
    char value[1000];
    zue_log log;
    zue_u64 first = 0;
    int i;
    memset(value, 'v', sizeof value);
    CALL(ZUE_OK, zue_open(dir, &o, &log));
    for (i = 0; i < records; i++) CALL(ZUE_OK, zue_append(log, NULL, 0, value, sizeof value, NULL));
    CALL(ZUE_OK, zue_close(log));
    while (first == 0) {
        /* The names of segments are their first offsets. */
        DIR *d = opendir(dir);
        struct dirent *e;
        CHECK(d != NULL);
        while ((e = readdir(d)) != NULL) {
            zue_u64 n = strtoull(e->d_name, NULL, 10);
            if (strstr(e->d_name, ".log") && n > 0 && (first == 0 || n < first)) first = n;
        }
        CHECK(closedir(d) == 0 && first > 0);
    }
    return first;
}

/* Opens the segment that begins with an offset. */
static int segment(const char *dir, zue_u64 offset) {
    char name[4200];
    int fd;
    snprintf(name, sizeof name, "%s/%020llu.log", dir, (unsigned long long)offset);
    fd = open(name, O_RDWR);
    CHECK(fd >= 0);
    return fd;
}

/* Changes one bit of a file. */
static void flip(int fd, off_t position) {
    char byte;
    CHECK(pread(fd, &byte, 1, position) == 1);
    byte ^= 4;
    CHECK(pwrite(fd, &byte, 1, position) == 1);
}

/* Reads by iterator up to damage, and returns the code and how far it came. */
static int read_all(zue_log log, zue_u64 *at) {
    zue_record list[16];
    zue_iter iter;
    size_t n;
    int code, again;
    CALL(ZUE_OK, zue_iter_open(log, 0, &iter));
    while ((code = zue_iter_next(iter, list, 16, &n)) == ZUE_OK) *at = list[n - 1].offset + 1;
    again = zue_iter_next(iter, list, 16, &n);
    CHECK(again == code && n == 0); /* it stays so */
    CALL(ZUE_OK, zue_iter_close(iter));
    return code;
}

static void flipped_bits(void) {
    char dir[4096], buffer[1000];
    zue_u64 second, damaged = 0, at = 0;
    zue_metrics m;
    zue_record r;
    zue_log log;
    int fd;
    test_dir(dir, "log");
    second = make(dir);
    fd = segment(dir, second);
    flip(fd, 600);
    flip(fd, 100600); /* in another entry */
    CHECK(close(fd) == 0);
    CALL(ZUE_OK, zue_open(dir, NULL, &log));
    CALL(ZUE_OK, zue_read(log, second - 1, buffer, sizeof buffer, &r, NULL));
    CALL(ZUE_ECORRUPT, zue_read(log, second, buffer, sizeof buffer, &r, NULL));
    CHECK(strstr(zue_last_error(), ".log: corrupt at position") != NULL);
    CALL(ZUE_OK, zue_read(log, second + 1, buffer, sizeof buffer, &r, NULL));
    CALL(ZUE_ECORRUPT, read_all(log, &at));
    CHECK(at == second);
    CALL(ZUE_ECORRUPT, zue_verify(log, &damaged));
    CHECK(damaged == 2 && strstr(zue_last_error(), ".log: corrupt at position") != NULL);
    m.size = sizeof m;
    CALL(ZUE_OK, zue_get_metrics(log, &m));
    CHECK(m.corruptions >= 2);
    CALL(ZUE_OK, zue_close(log));
}

/* What is mapped and no longer there would end the process. */
static void cut_off_under_it(void) {
    char dir[4096], buffer[1000];
    zue_u64 second, damaged = 0, at = 0;
    zue_record r;
    zue_log log;
    int fd;
    test_dir(dir, "log");
    second = make(dir);
    CALL(ZUE_OK, zue_open(dir, NULL, &log));
    fd = segment(dir, second);
    CHECK(ftruncate(fd, 4096) == 0 && close(fd) == 0);
    CALL(ZUE_OK, zue_read(log, second - 1, buffer, sizeof buffer, &r, NULL));
    memset(&r, 0x55, sizeof r);
    CALL(ZUE_EFAULT, zue_read(log, second + 100, buffer, sizeof buffer, &r, NULL));
    CHECK(r.offset == 0x5555555555555555u); /* a failure writes nothing */
    CALL(ZUE_EFAULT, read_all(log, &at));
    CHECK(at >= second && at < second + 4);
    CALL(ZUE_ECORRUPT, zue_verify(log, &damaged)); /* which goes on behind it */
    CHECK(damaged >= 1);
    CALL(ZUE_OK, zue_close(log));
}

/* The same of bytes that were read and found good before, which are not checked again. The
 * iterator has no room for the second record and keeps it: the fault comes when it is
 * copied. */
static void cut_off_after_a_check(void) {
    enum { large = 200000 }; /* of which an iterator's memory holds one */
    static char bytes[large + 1]; /* and the key */
    zue_options o = test_options(ZUE_SYNC_NEVER);
    char dir[4096];
    zue_record r, two[2];
    zue_iter iter;
    zue_log log;
    size_t n;
    int i, fd;
    test_dir(dir, "log");
    CALL(ZUE_OK, zue_open(dir, &o, &log));
    two[0] = test_record("k", NULL);
    two[0].value = bytes;
    two[0].value_size = large;
    two[1] = two[0];
    for (i = 0; i < 5; i++) CALL(ZUE_OK, zue_append_batch(log, two, 2, NULL));
    CALL(ZUE_ESMALL, zue_read(log, 0, NULL, 0, &r, &n));
    CALL(ZUE_OK, zue_iter_open(log, 0, &iter));
    CALL(ZUE_OK, zue_iter_next(iter, two, 2, &n));
    CHECK(n == 1);
    CALL(ZUE_OK, zue_sync(log)); /* a page that is being written may outlive the cut */
    fd = segment(dir, 0);
    CHECK(ftruncate(fd, 4096) == 0 && close(fd) == 0);
    memset(&r, 0x55, sizeof r);
    CALL(ZUE_EFAULT, zue_read(log, 0, bytes, sizeof bytes, &r, &n));
    CHECK(r.offset == 0x5555555555555555u); /* a failure writes nothing */
    memset(two, 0x55, sizeof two);
    CALL(ZUE_EFAULT, zue_iter_next(iter, two, 2, &n));
    CHECK(n == 0 && two[0].offset == 0x5555555555555555u);
    CALL(ZUE_EFAULT, zue_iter_next(iter, two, 2, &n)); /* it stays so */
    CALL(ZUE_OK, zue_iter_close(iter));
    CALL(ZUE_OK, zue_close(log));
}

/* CRC-32C, as the files have it. */
static zue_u32 checksum(const unsigned char *bytes, size_t size) {
    zue_u32 crc = ~0u;
    size_t i;
    int bit;
    for (i = 0; i < size; i++) {
        crc ^= bytes[i];
        for (bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return ~crc;
}

/* A segment of a format that this library does not know. */
static void unknown_version(void) {
    char dir[4096];
    unsigned char header[64];
    zue_u32 crc;
    zue_u64 second;
    zue_log log;
    int fd, i;
    test_dir(dir, "log");
    second = make(dir);
    fd = segment(dir, second);
    CHECK(pread(fd, header, 64, 0) == 64);
    header[12] = 77;
    crc = checksum(header + 4, 60);
    for (i = 0; i < 4; i++) header[i] = (unsigned char)(crc >> 8 * i);
    CHECK(pwrite(fd, header, 64, 0) == 64 && close(fd) == 0);
    CALL(ZUE_EVERSION, zue_open(dir, NULL, &log));
    CHECK(log == 0);
}

/* Removes a log's files and its directory. The log may make the file of the segment to come
 * meanwhile: then it is done again. */
static void remove_all(const char *dir) {
    char name[4400];
    int tries = 0;
    do {
        struct dirent *e;
        DIR *d = opendir(dir);
        CHECK(d != NULL && tries++ < 1000);
        while ((e = readdir(d)) != NULL) {
            snprintf(name, sizeof name, "%s/%s", dir, e->d_name);
            (void)unlink(name); /* not "." and ".." */
        }
        CHECK(closedir(d) == 0);
    } while (rmdir(dir) != 0);
}

/* Someone removed the directory: appends fail when they need a new file, as the system's
 * error, whatever that is. */
static void directory_gone(void) {
    zue_options o = test_options(ZUE_SYNC_NEVER);
    char dir[4096], value[4000];
    zue_log log;
    int i, code;
    memset(value, 'v', sizeof value);
    o.segment_bytes = 16384;
    test_dir(dir, "log");
    CALL(ZUE_OK, zue_open(dir, &o, &log));
    CALL(ZUE_OK, zue_append(log, NULL, 0, value, sizeof value, NULL));
    remove_all(dir);
    for (i = 0; (code = zue_append(log, NULL, 0, value, sizeof value, NULL)) == ZUE_OK; i++) {
        CHECK(i < 40);
    }
    CHECK(code == ZUE_EIO || code == ZUE_EFAILED);
    code = zue_truncate_prefix(log, ~(zue_u64)0);
    CHECK(code == ZUE_OK || code == ZUE_EIO || code == ZUE_EFAILED);
    code = zue_close(log);
    CHECK(code == ZUE_OK || code == ZUE_EIO || code == ZUE_EFAILED);
}

int main(void) {
    flipped_bits();
    cut_off_under_it();
    cut_off_after_a_check();
    unknown_version();
    directory_gone();
    return 0;
}
