// /v1/schedules and /v1/retention.
#pragma once

#include "orchestrator/http/handlers/register.h"

namespace bpg::http {

void add_schedule_routes(Router& router, ApiServices& api);

}  // namespace bpg::http
