#include "suspect.h"

#include <stdlib.h>
#include <string.h>

enum {
    VERDICTS_MAX = 4096,
    VERDICTS_BYTES_MAX = 1 << 22,
    WORD_BYTES_MAX = 64, /* a longer word is none of those looked for, but it may begin like one */
};

static const char *const COMMANDS[] = {
    "set", "reset", "listen", "unlisten", "prepare", "execute", "deallocate", "load", "discard", "do",
};
static const char *const ANYWHERE[] = {
    "set_config", "setseed", "temp", "temporary", "hold", "currval", "lastval",
};

static bool is_space(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_letter(uint8_t c)
{
    uint8_t letter = c | 0x20;
    return (letter >= 'a' && letter <= 'z') || (c >= '0' && c <= '9') || c == '_';
}

static bool is_among(const char *word, const char *const *words, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(word, words[i]) == 0)
            return true;
    return false;
}

static bool matters_anywhere(const char *word)
{
    switch (word[0]) {
    case 'p':
        return strncmp(word, "pg_temp", 7) == 0 || strstr(word, "advisory") != NULL ||
               strncmp(word, "pg_replication_origin_session", 29) == 0;
    case 'd':
        return strncmp(word, "dblink_", 7) == 0;
    case 's':
    case 't':
    case 'h':
    case 'c':
    case 'l':
        return is_among(word, ANYWHERE, sizeof ANYWHERE / sizeof *ANYWHERE);
    default:
        return false;
    }
}

bool is_suspicious(Slice text)
{
    bool is_first = true;     /* nothing but blanks so far */
    bool begins_oddly = false; /* what the statement is stands behind a comment or a parenthesis */
    bool ended = false;       /* a semicolon was seen */
    bool has_more = false;    /* and something behind it */
    bool has_command = false; /* a word that matters where a statement begins was seen elsewhere */
    for (size_t pos = 0; pos < text.len && text.at[pos] != 0;) {
        uint8_t c = text.at[pos];
        if (!is_letter(c)) {
            if (c == '&' && pos + 1 < text.len && text.at[pos + 1] == '"')
                return true; /* an identifier that is written in escapes */
            if (c == ';')
                ended = true;
            else if (!is_space(c)) {
                has_more = has_more || ended;
                begins_oddly = begins_oddly || is_first;
                is_first = false;
            }
            pos++;
            continue;
        }
        size_t len = 0;
        char word[WORD_BYTES_MAX + 1];
        for (; pos < text.len && is_letter(text.at[pos]); pos++)
            if (len < WORD_BYTES_MAX)
                word[len++] = (char)(text.at[pos] >= 'A' && text.at[pos] <= 'Z' ? text.at[pos] | 0x20 : text.at[pos]);
        word[len] = 0;
        has_more = has_more || ended;
        if (len > 1 && len <= 11 && is_among(word, COMMANDS, sizeof COMMANDS / sizeof *COMMANDS)) {
            if (is_first)
                return true;
            has_command = true;
        }
        if (len > 3 && matters_anywhere(word))
            return true;
        is_first = false;
    }
    return has_command && (has_more || begins_oddly);
}

typedef struct {
    MapNode node;
    Verdict verdict;
    uint8_t text[];
} Known;

bool verdicts_find(const Verdicts *verdicts, Slice text, Verdict *verdict)
{
    const Known *known = (const Known *)map_find(&verdicts->map, text);
    if (known == NULL)
        return false;
    *verdict = known->verdict;
    return true;
}

static void forget_all(Verdicts *verdicts)
{
    uint32_t from = 0;
    for (MapNode *node; (node = map_take_any(&verdicts->map, &from)) != NULL;)
        free(node);
    verdicts->bytes = 0;
}

void verdicts_add(Verdicts *verdicts, Slice text, Verdict verdict)
{
    Known *known = (Known *)map_find(&verdicts->map, text);
    if (known != NULL) {
        known->verdict = verdict;
        return;
    }
    if (verdicts->map.len >= VERDICTS_MAX || verdicts->bytes + text.len > VERDICTS_BYTES_MAX)
        forget_all(verdicts);
    known = malloc(sizeof *known + text.len);
    if (known == NULL)
        return;
    known->verdict = verdict;
    if (text.len > 0)
        memcpy(known->text, text.at, text.len);
    if (map_add(&verdicts->map, &known->node, (Slice){known->text, text.len}))
        verdicts->bytes += text.len;
    else
        free(known);
}

void verdicts_free(Verdicts *verdicts)
{
    forget_all(verdicts);
    map_free(&verdicts->map);
}
