/* DEALLOCATE and DISCARD ALL as statements, of clients whose prepared statements are the pool's: poolforgets.c. */
#ifndef ENDPOINTD_POOLFORGETS_H
#define ENDPOINTD_POOLFORGETS_H

#include "poolmessages.h"

/* What a client has said of such statements by the extended protocol; most have none. */
struct PoolForgetting {
    Forgets unnamed; /* what its unnamed statement is */
    Forgets bound;   /* what a portal would do that was bound last */
    uint8_t portal_len;
    uint8_t portal[FORGOTTEN_NAME_BYTES_MAX];
};

/* A Query.  *is_it* is false, and nothing was done, if *text* is to be looked at like any other. */
Taking query_forgets(PoolClient *client, const Message *message, Slice text, bool *is_it);

/* A Parse: what the statement is to be sent as, which is *body* or stands in *replaced*, and what it does.  False: it is to be
 * looked at like any other. */
enum { REPLACED_BYTES_MAX = 128 };
bool parse_forgets(const PoolClient *client, Slice name, Slice body, Forgets *forgets, uint8_t *replaced, Slice *sent);

/* A Parse of the unnamed statement, or a Bind, was passed on.  False: there is no memory. */
bool unnamed_forgets(PoolClient *client, const Forgets *forgets);
bool bound_forgets(PoolClient *client, Slice portal, Slice statement);

/* An Execute.  *is_it* as above. */
Taking execute_forgets(PoolClient *client, const Message *message, bool *is_it);

#endif
