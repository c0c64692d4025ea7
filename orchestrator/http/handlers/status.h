// One object about everything, and whether bpgd lives and is ready.
#pragma once

#include "orchestrator/http/handlers/register.h"

namespace bpg::http {

void add_status_routes(Router& router, ApiServices& api);

}  // namespace bpg::http
