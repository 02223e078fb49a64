/* What a client says, one message after the other, as its server is to be told: poolmessages.c. */
#ifndef ENDPOINTD_POOLMESSAGES_H
#define ENDPOINTD_POOLMESSAGES_H

#include "pooler.h"

/* Take as much of *data* as can be passed on now, and pass it on; return how much that is.  The rest waits for the rest of a
 * message, for a server, or for what somebody says of a statement. */
size_t take_messages(PoolClient *client, const uint8_t *data, size_t len);

#endif
