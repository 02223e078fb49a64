#include "words.h"

#include <string.h>

#include "scan.h"

static uint8_t lower(uint8_t c)
{
    return c >= 'A' && c <= 'Z' ? (uint8_t)(c | 0x20) : c;
}

static bool is_word(uint8_t c)
{
    uint8_t letter = lower(c);
    return (letter >= 'a' && letter <= 'z') || (c >= '0' && c <= '9') || c == '_';
}

static bool same_letters(const uint8_t *at, const char *word, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (lower(at[i]) != (uint8_t)word[i])
            return false;
    return true;
}

bool slice_is(Slice slice, const char *word)
{
    size_t len = strlen(word);
    return slice.len == len && memcmp(slice.at, word, len) == 0;
}

bool slice_begins(Slice slice, const char *word)
{
    size_t len = strlen(word);
    return slice.len >= len && memcmp(slice.at, word, len) == 0;
}

bool slice_has(Slice slice, const char *word)
{
    return slice.len > 0 && memmem(slice.at, slice.len, word, strlen(word)) != NULL;
}

Slice slice_string(Slice *rest)
{
    const uint8_t *zero = rest->len > 0 ? memchr(rest->at, 0, rest->len) : NULL;
    Slice string = {rest->at, zero != NULL ? (size_t)(zero - rest->at) : rest->len};
    size_t taken = zero != NULL ? string.len + 1 : string.len;
    if (taken > 0) {
        rest->at += taken;
        rest->len -= taken;
    }
    return string;
}

static bool ends_block(const uint8_t *word, size_t len)
{
    switch (len) {
    case 3:
        return same_letters(word, "end", 3);
    case 5:
        return same_letters(word, "abort", 5);
    case 6:
        return same_letters(word, "commit", 6);
    case 7:
        return same_letters(word, "prepare", 7);
    case 8:
        return same_letters(word, "rollback", 8);
    default:
        return false;
    }
}

bool may_end(Slice text)
{
    if (text.len >= COLLECTED_BYTES_MAX)
        return true;
    for (size_t pos = 0; pos < text.len;) {
        size_t begin = pos;
        while (pos < text.len && is_word(text.at[pos]))
            pos++;
        if (pos > begin && ends_block(text.at + begin, pos - begin))
            return true;
        pos++;
    }
    return false;
}

static bool has_word(Slice text, const char *word, size_t len)
{
    /* Both words have underscores, and few statements have any. */
    const char *underscore = strchr(word, '_');
    size_t before = (size_t)(underscore - word);
    const uint8_t *end = text.at + text.len;
    for (const uint8_t *at = text.at; at < end; at++) {
        at = memchr(at, '_', (size_t)(end - at));
        if (at == NULL)
            return false;
        if ((size_t)(at - text.at) >= before && (size_t)(end - at) >= len - before && same_letters(at - before, word, len))
            return true;
    }
    return false;
}

unsigned speaks_of(Slice text)
{
    static const char commits[] = "synchronous_commit";
    static const char warnings[] = "client_min_messages";
    unsigned found = 0;
    if (text.len == 0)
        return 0;
    if (has_word(text, commits, sizeof commits - 1))
        found |= RELAXES_COMMITS;
    if (has_word(text, warnings, sizeof warnings - 1))
        found |= RELAXES_WARNINGS;
    return found;
}

ReportFields read_report(Slice payload)
{
    static const ReportFields nothing;
    ReportFields report = nothing;
    Slice severity = {0}, translated = {0};
    bool seen[128] = {false};
    Slice rest = payload;
    while (rest.len > 0 && rest.at[0] != 0) {
        uint8_t letter = rest.at[0];
        Slice field = {rest.at + 1, rest.len - 1};
        if (field.len == 0 || memchr(field.at, 0, field.len) == NULL)
            return nothing;
        Slice text = slice_string(&field);
        rest = field;
        if (letter >= 128 || seen[letter]) /* the first of a letter counts */
            continue;
        seen[letter] = true;
        switch (letter) {
        case 'V':
            severity = text;
            break;
        case 'S':
            translated = text;
            break;
        case 'C':
            report.sqlstate = text;
            break;
        case 'R':
            report.routine = text;
            break;
        default:
            break;
        }
    }
    if (rest.len != 1) /* a zero byte, and nothing behind it */
        return nothing;
    report.severity = severity.len > 0 ? severity : translated;
    return report;
}
