// The jobs of the API: list, look at, and their events as a stream.
#pragma once

#include "orchestrator/http/handlers/register.h"

namespace bpg::http {

void add_job_routes(Router& router, ApiServices& api);

}  // namespace bpg::http
