/* The header by itself, in each dialect that it claims: compiled with all warnings as
 * errors, and linked. All of it here is C89, and C++. */
#include "storage/libzue/zue.h"

/* The sizes are the same in each dialect: a negative one does not compile. */
typedef char u32_has_4_bytes[sizeof(zue_u32) == 4 ? 1 : -1];
typedef char i64_has_8_bytes[sizeof(zue_i64) == 8 && (zue_i64)-1 < 0 ? 1 : -1];
typedef char u64_has_8_bytes[sizeof(zue_u64) == 8 && (zue_u64)-1 > 0 ? 1 : -1];
typedef char record_is_64[sizeof(void *) != 8 || sizeof(zue_record) == 64 ? 1 : -1];
typedef char header_is_32[sizeof(void *) != 8 || sizeof(zue_header) == 32 ? 1 : -1];
typedef char options_is_64[sizeof(void *) != 8 || sizeof(zue_options) == 64 ? 1 : -1];
typedef char metrics_is_136[sizeof(void *) != 8 || sizeof(zue_metrics) == 136 ? 1 : -1];

/* Each function's type, so that a change of one is seen here. */
static int (*open_)(const char *, const zue_options *, zue_log *) = zue_open;
static int (*close_)(zue_log) = zue_close;
static int (*append_)(zue_log, const void *, size_t, const void *, size_t, zue_u64 *) = zue_append;
static int (*batch_)(zue_log, const zue_record *, size_t, zue_u64 *) = zue_append_batch;
static int (*async_)(zue_log, const zue_record *, size_t, zue_pending *) = zue_append_async;
static int (*wait_)(zue_pending, zue_i64, zue_u64 *) = zue_wait;
static int (*drop_)(zue_pending) = zue_drop;
static int (*read_)(zue_log, zue_u64, void *, size_t, zue_record *, size_t *) = zue_read;
static int (*iter_open_)(zue_log, zue_u64, zue_iter *) = zue_iter_open;
static int (*next_)(zue_iter, zue_record *, size_t, size_t *) = zue_iter_next;
static int (*iter_wait_)(zue_iter, zue_i64) = zue_iter_wait;
static int (*iter_offset_)(zue_iter, zue_u64 *) = zue_iter_offset;
static int (*iter_close_)(zue_iter) = zue_iter_close;
static int (*range_)(zue_log, zue_u64 *, zue_u64 *) = zue_range;
static int (*time_)(zue_log, zue_i64, zue_u64 *) = zue_offset_for_time;
static int (*sync_)(zue_log) = zue_sync;
static int (*truncate_)(zue_log, zue_u64) = zue_truncate_prefix;
static int (*verify_)(zue_log, zue_u64 *) = zue_verify;
static int (*metrics_)(zue_log, zue_metrics *) = zue_get_metrics;
static const char *(*error_)(void) = zue_last_error;
static const char *(*text_)(int) = zue_strerror;
static const char *(*version_)(void) = zue_version;
static int (*abi_)(void) = zue_abi_version;

int main(void) {
    int all = open_ && close_ && append_ && batch_ && async_ && wait_ && drop_ && read_ &&
              iter_open_ && next_ && iter_wait_ && iter_offset_ && iter_close_ && range_ && time_ &&
              sync_ && truncate_ && verify_ && metrics_ && error_ && text_;
    zue_log log = 0;
    if (!all || open_(0, 0, &log) != ZUE_EINVAL || abi_() != ZUE_ABI_VERSION) return 1;
    return version_() != 0 && log == 0 ? 0 : 1;
}
