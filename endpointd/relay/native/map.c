#include "map.h"

#include <stdlib.h>
#include <string.h>

enum { BUCKETS_MIN = 8 };

static uint32_t hash_of(Slice key)
{
    uint64_t hash = 0xCBF29CE484222325u;
    for (; key.len >= 8; key.at += 8, key.len -= 8) {
        uint64_t part;
        memcpy(&part, key.at, sizeof part);
        hash = (hash ^ part) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 29;
    }
    for (; key.len > 0; key.at++, key.len--)
        hash = (hash ^ *key.at) * 0x100000001B3u;
    return (uint32_t)(hash ^ hash >> 32);
}

static bool has_key(const MapNode *node, Slice key, uint32_t hash)
{
    return node->hash == hash && node->key_len == key.len && (key.len == 0 || memcmp(node->key, key.at, key.len) == 0);
}

MapNode *map_find(const Map *map, Slice key)
{
    if (map->len == 0)
        return NULL;
    uint32_t hash = hash_of(key);
    MapNode *node = map->buckets[hash & (map->cap - 1)];
    while (node != NULL && !has_key(node, key, hash))
        node = node->next;
    return node;
}

static bool grow(Map *map)
{
    uint32_t cap = map->cap ? map->cap * 2 : BUCKETS_MIN;
    MapNode **buckets = calloc(cap, sizeof *buckets);
    if (buckets == NULL)
        return false;
    for (uint32_t i = 0; i < map->cap; i++)
        for (MapNode *node; (node = map->buckets[i]) != NULL;) {
            map->buckets[i] = node->next;
            node->next = buckets[node->hash & (cap - 1)];
            buckets[node->hash & (cap - 1)] = node;
        }
    free(map->buckets);
    map->buckets = buckets;
    map->cap = cap;
    return true;
}

bool map_add(Map *map, MapNode *node, Slice key)
{
    if (map->len == map->cap && !grow(map))
        return false;
    node->key = key.at;
    node->key_len = (uint32_t)key.len;
    node->hash = hash_of(key);
    MapNode **bucket = &map->buckets[node->hash & (map->cap - 1)];
    node->next = *bucket;
    *bucket = node;
    map->len++;
    return true;
}

void map_remove(Map *map, MapNode *node)
{
    MapNode **at = &map->buckets[node->hash & (map->cap - 1)];
    while (*at != node)
        at = &(*at)->next;
    *at = node->next;
    map->len--;
}

MapNode *map_take_any(Map *map, uint32_t *from)
{
    for (; map->len > 0 && *from < map->cap; ++*from)
        if (map->buckets[*from] != NULL) {
            MapNode *node = map->buckets[*from];
            map_remove(map, node);
            return node;
        }
    return NULL;
}

void map_free(Map *map)
{
    free(map->buckets);
    *map = (Map){0};
}
