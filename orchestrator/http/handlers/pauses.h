// /v1/pauses: lanes and databases whose jobs stand still.
#pragma once

#include "orchestrator/http/handlers/register.h"

namespace bpg::http {

void add_pause_routes(Router& router, ApiServices& api);

}  // namespace bpg::http
