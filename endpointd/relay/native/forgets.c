#include "forgets.h"

#include <string.h>

static bool is_blank(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void take(Slice *rest, size_t len)
{
    rest->at += len;
    rest->len -= len;
}

static bool begins_with(Slice rest, const char *two)
{
    return rest.len >= 2 && rest.at[0] == (uint8_t)two[0] && rest.at[1] == (uint8_t)two[1];
}

/* Comments in C's style are nested in SQL. */
static void skip_comment(Slice *rest)
{
    int depth = 0;
    do {
        bool opens = begins_with(*rest, "/*"), closes = begins_with(*rest, "*/");
        depth += opens - closes;
        take(rest, opens || closes ? 2 : 1);
    } while (depth > 0 && rest->len > 0);
}

static void skip_blanks(Slice *rest)
{
    while (rest->len > 0) {
        if (is_blank(rest->at[0])) {
            take(rest, 1);
        } else if (begins_with(*rest, "--")) {
            while (rest->len > 0 && rest->at[0] != '\n' && rest->at[0] != '\r')
                take(rest, 1);
        } else if (begins_with(*rest, "/*")) {
            skip_comment(rest);
        } else {
            return;
        }
    }
}

static bool begins_word(uint8_t c)
{
    uint8_t letter = c | 0x20;
    return (letter >= 'a' && letter <= 'z') || c == '_';
}

/* Take a name off the front, as a server understands it; false: there is none that is plain. */
static bool take_name(Slice *rest, Forgets *found)
{
    size_t len = 0;
    bool is_quoted = rest->len > 0 && rest->at[0] == '"', is_closed = !is_quoted;
    if (is_quoted)
        take(rest, 1);
    else if (rest->len == 0 || !begins_word(rest->at[0]))
        return false;
    for (; rest->len > 0; take(rest, 1)) {
        uint8_t c = rest->at[0];
        if (is_quoted && c == '"') {
            if (!begins_with(*rest, "\"\"")) {
                take(rest, 1);
                is_closed = true;
                break;
            }
            take(rest, 1);
        } else if (!is_quoted && !begins_word(c) && !(c >= '0' && c <= '9') && c != '$') {
            break;
        }
        if (len == FORGOTTEN_NAME_BYTES_MAX || c >= 0x80)
            return false;
        found->name[len++] = !is_quoted && c >= 'A' && c <= 'Z' ? c | 0x20 : c;
    }
    found->len = (uint8_t)len;
    return is_closed && len > 0 && !(rest->len > 0 && rest->at[0] >= 0x80);
}

static bool take_word(Slice *rest, const char *word)
{
    Slice behind = *rest;
    Forgets found;
    if (behind.len == 0 || behind.at[0] == '"' || !take_name(&behind, &found) || found.len != strlen(word) ||
        memcmp(found.name, word, found.len) != 0)
        return false;
    skip_blanks(&behind);
    *rest = behind;
    return true;
}

static bool is_end(Slice rest)
{
    for (skip_blanks(&rest); rest.len > 0 && rest.at[0] == ';'; skip_blanks(&rest))
        take(&rest, 1);
    return rest.len == 0;
}

Forgets forgets_of(Slice text)
{
    const Forgets nothing = {.what = FORGETS_NOTHING};
    Forgets found = nothing;
    skip_blanks(&text);
    if (text.len < 11 || (text.at[0] | 0x20) != 'd' || (text.at[1] == 'o' || text.at[1] == 'O'))
        return nothing;
    if (take_word(&text, "discard"))
        found.what = take_word(&text, "all") ? DISCARDS_ALL : FORGETS_NOTHING;
    else if (take_word(&text, "deallocate")) {
        Slice rest = text;
        if (take_word(&rest, "prepare") && !is_end(rest)) /* else it is the name of one */
            text = rest;
        if (take_word(&text, "all"))
            found.what = FORGETS_ALL;
        else if (take_name(&text, &found))
            found.what = FORGETS_ONE;
    }
    return found.what != FORGETS_NOTHING && is_end(text) ? found : nothing;
}
