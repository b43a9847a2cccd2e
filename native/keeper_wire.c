/* What the keeper's loop reads and writes itself: the request for a program, the replies to it, and
 * the records of status pipes. kinfolk.processes.keeper_messages has them all as Python's structs;
 * the numbers here are the tags and fields there, and tests/unit/test_keeper.py holds the two
 * together.
 *
 *     StartProgram   [0, number, block]
 *     Started        [0, number, pid]
 *     Failed         [1, number, step, errno, item]
 *     Refused        [3, number, why, errno]
 *
 * The format is msgpack (github.com/msgpack/msgpack, spec.md). A packet that is anything else is not
 * understood here, and is for Python to decode.
 */

#include "keeper_wire.h"

#include <string.h>

enum { ARRAY = 0x90, STRING = 0xd9, UINT64 = 0xcf, INT32 = 0xd2 };
enum { START_PROGRAM = 0, STARTED = 0, FAILED = 1, REFUSED = 3 };

static uint64_t
big_endian(const unsigned char *bytes, int count)
{
    uint64_t number = 0;
    for (int i = 0; i < count; i++)
        number = number << 8 | bytes[i];
    return number;
}

/* A number behind its type, which is `first` for one of 1 byte, then of 2, 4, … up to `last`. Moves on;
 * false when it is of another type, or does not end before `end`. */
static bool
take(const unsigned char **at, const unsigned char *end, int first, int last, uint64_t *number)
{
    if (*at == end || **at < first || **at > last)
        return false;
    int count = 1 << (**at - first);
    if (end - *at - 1 < count)
        return false;
    *number = big_endian(*at + 1, count);
    *at += 1 + count;
    return true;
}

bool
kin_wire_is_program(const unsigned char *packet, size_t size, uint64_t *number,
                    const unsigned char **block, size_t *block_size)
{
    enum { UINT8 = 0xcc, BIN8 = 0xc4, BIN32 = 0xc6, FIXINT_MOST = 0x7f };
    const unsigned char *at = packet, *end = packet + size;
    uint64_t length;
    if (size < 3 || *at++ != (ARRAY | 3) || *at++ != START_PROGRAM)
        return false;
    if (*at <= FIXINT_MOST)
        *number = *at++;
    else if (!take(&at, end, UINT8, UINT64, number))
        return false;
    if (!take(&at, end, BIN8, BIN32, &length) || length != (uint64_t)(end - at))
        return false;
    *block = at;
    *block_size = (size_t)length;
    return true;
}

/* -------------------------------------------------------------------------------- to write */

static void
put_number(struct kin_wire_reply *reply, int type, int count, uint64_t number)
{
    reply->bytes[reply->size++] = (unsigned char)type;
    for (int i = count - 1; i >= 0; i--)
        reply->bytes[reply->size++] = (unsigned char)(number >> (8 * i));
}

static void
put_int(struct kin_wire_reply *reply, int number)
{
    put_number(reply, INT32, 4, (uint32_t)number);
}

static void
put_text(struct kin_wire_reply *reply, const char *text)
{
    size_t length = strlen(text);
    if (length > 0xff)
        length = 0xff;
    put_number(reply, STRING, 1, length);
    memcpy(reply->bytes + reply->size, text, length);
    reply->size += length;
}

static void
begin(struct kin_wire_reply *reply, int fields, int tag, uint64_t number)
{
    reply->size = 0;
    reply->bytes[reply->size++] = (unsigned char)(ARRAY | fields);
    reply->bytes[reply->size++] = (unsigned char)tag;
    put_number(reply, UINT64, 8, number);
}

void
kin_wire_started(struct kin_wire_reply *reply, uint64_t number, pid_t pid)
{
    begin(reply, 3, STARTED, number);
    put_int(reply, pid);
}

void
kin_wire_failed(struct kin_wire_reply *reply, uint64_t number, const char *step, int error,
                int item)
{
    begin(reply, 5, FAILED, number);
    put_text(reply, step);
    put_int(reply, error);
    put_int(reply, item);
}

void
kin_wire_refused(struct kin_wire_reply *reply, uint64_t number, int error)
{
    begin(reply, 4, REFUSED, number);
    put_text(reply, strerror(error));
    put_int(reply, error);
}

static double
seconds(struct timeval time)
{
    return (double)time.tv_sec + (double)time.tv_usec / 1e6;
}

void
kin_wire_record(struct kin_wire_record *record, enum kin_wire_kind kind, int word,
                const struct rusage *usage)
{
    _Static_assert(sizeof *record == 4 * 4 + 2 * 8 + 14 * 8, "the struct of keeper_messages.py");
    memset(record, 0, sizeof *record);
    record->kind = kind;
    record->word = word;
    if (usage == NULL)
        return;
    record->user = seconds(usage->ru_utime);
    record->system = seconds(usage->ru_stime);
    const long rest[] = {
        usage->ru_maxrss,  usage->ru_ixrss,  usage->ru_idrss,    usage->ru_isrss,
        usage->ru_minflt,  usage->ru_majflt, usage->ru_nswap,    usage->ru_inblock,
        usage->ru_oublock, usage->ru_msgsnd, usage->ru_msgrcv,   usage->ru_nsignals,
        usage->ru_nvcsw,   usage->ru_nivcsw,
    };
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++)
        record->usage[i] = rest[i];
}
