// The branches of the API: create, list, look at, change, delete, and all
// that is done with one.
#pragma once

#include "orchestrator/http/handlers/register.h"

namespace bpg::http {

void add_branch_routes(Router& router, ApiServices& api);

}  // namespace bpg::http
