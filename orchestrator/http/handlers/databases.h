// The databases of the API: create, list, look at, delete.
#pragma once

#include "orchestrator/http/handlers/register.h"

namespace bpg::http {

void add_database_routes(Router& router, ApiServices& api);

}  // namespace bpg::http
