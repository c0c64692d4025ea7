// /v1/trash: what was deleted or replaced; bring it back, or destroy it.
#pragma once

#include "orchestrator/http/handlers/register.h"

namespace bpg::http {

void add_trash_routes(Router& router, ApiServices& api);

}  // namespace bpg::http
