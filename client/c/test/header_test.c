/* The header by itself, in each dialect that it claims: compiled with all warnings as
 * errors, and linked. All of it here is C89, and C++. */
#include "client/c/zuenet.h"

/* The sizes are the same in each dialect: a negative one does not compile. */
typedef char u32_has_4_bytes[sizeof(zuenet_u32) == 4 ? 1 : -1];
typedef char i64_has_8_bytes[sizeof(zuenet_i64) == 8 && (zuenet_i64)-1 < 0 ? 1 : -1];
typedef char u64_has_8_bytes[sizeof(zuenet_u64) == 8 && (zuenet_u64)-1 > 0 ? 1 : -1];
typedef char record_is_72[sizeof(void *) != 8 || sizeof(zuenet_record) == 72 ? 1 : -1];
typedef char pair_is_40[sizeof(void *) != 8 || sizeof(zuenet_pair) == 40 ? 1 : -1];

/* Each function's type, so that a change of one is seen here. */
static int (*connect_)(const char *, unsigned, const zuenet_options *, zuenet **) = zuenet_connect;
static void (*close_)(zuenet *) = zuenet_close;
static int (*timeout_)(zuenet *, zuenet_i64) = zuenet_set_timeout;
static int (*append_)(zuenet *, const void *, size_t, const void *, size_t,
                      zuenet_u64 *) = zuenet_append;
static int (*batch_)(zuenet *, const zuenet_pair *, size_t, const zuenet_u64 *,
                     zuenet_receipt *) = zuenet_append_batch;
static int (*encoded_)(zuenet *, const void *, size_t, const zuenet_u64 *,
                       zuenet_receipt *) = zuenet_append_encoded;
static int (*read_)(zuenet *, zuenet_u64, zuenet_record *) = zuenet_read;
static int (*fetch_)(zuenet *, zuenet_u64, zuenet_u32, zuenet_u32, zuenet_u32, zuenet_u64 *,
                     zuenet_u64 *) = zuenet_fetch;
static int (*next_)(zuenet *, zuenet_record *) = zuenet_next;
static zuenet_u64 (*next_offset_)(const zuenet *) = zuenet_next_offset;
static int (*header_)(zuenet_record *, zuenet_header *) = zuenet_next_header;
static int (*end_)(zuenet *, zuenet_u64 *) = zuenet_end_offset;
static int (*time_)(zuenet *, zuenet_i64, zuenet_u64 *) = zuenet_offset_for_time;
static int (*status_)(zuenet *, const char **, size_t *) = zuenet_status;
static int (*usable_)(const zuenet *) = zuenet_usable;
static const char *(*message_)(const zuenet *) = zuenet_message;
static int (*code_)(const zuenet *) = zuenet_server_code;
static int (*errno_)(const zuenet *) = zuenet_errno;
static int (*outcome_)(const zuenet *) = zuenet_outcome;
static const char *(*text_)(int) = zuenet_strerror;

int main(void) {
    int all = close_ && timeout_ && append_ && batch_ && encoded_ && read_ && fetch_ && next_ &&
              next_offset_ && header_ && end_ && time_ && status_ && usable_ && message_ &&
              code_ && errno_ && outcome_ && text_;
    zuenet *c = 0;
    return all && connect_(0, 0, 0, &c) == ZUENET_EINVAL && c == 0 ? 0 : 1;
}
