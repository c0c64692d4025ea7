// /v1/snapshots: take, list, look at, pin, delete.
#pragma once

#include "orchestrator/http/handlers/register.h"

namespace bpg::http {

void add_snapshot_routes(Router& router, ApiServices& api);

}  // namespace bpg::http
