/* pool: what the engine's own code needs of a team beyond engine.h.  Private to engine/. */
#ifndef DD_ENGINE_POOL_H
#define DD_ENGINE_POOL_H

#include "engine/engine.h"

/* Threads that may ever run a chunk of this team: lanes are 0 … dd_team_lanes - 1. */
int dd_team_lanes(const struct dd_team *team);
/* Inside a chunk: which of them this thread is.  For scratch memory only; results must not depend on it. */
int dd_team_lane(void);

#endif
