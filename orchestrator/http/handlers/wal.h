// /v1/wal: what is archived of each branch, and what of it can be restored.
#pragma once

#include "orchestrator/http/handlers/register.h"

namespace bpg::http {

void add_wal_routes(Router& router, ApiServices& api);

}  // namespace bpg::http
