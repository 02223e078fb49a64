/* A hash map from bytes to whatever has a MapNode as its first member. The keys are the nodes' own. */
#ifndef ENDPOINTD_MAP_H
#define ENDPOINTD_MAP_H

#include "words.h"

typedef struct MapNode MapNode;
struct MapNode {
    MapNode *next;
    const uint8_t *key;
    uint32_t key_len;
    uint32_t hash;
};

typedef struct {
    MapNode **buckets;
    uint32_t cap;
    uint32_t len;
} Map;

MapNode *map_find(const Map *map, Slice key);

/* Add a node, whose key is not in the map yet.  False: there is no memory. */
bool map_add(Map *map, MapNode *node, Slice key);
void map_remove(Map *map, MapNode *node);

/* Take any node out; NULL if there is none.  *from* is 0 at first, for one who empties a map. */
MapNode *map_take_any(Map *map, uint32_t *from);
void map_free(Map *map);

#endif
