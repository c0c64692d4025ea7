// What operations do to one another: what each holds, and what becomes of a request while another
// job is open. The README prints this table; a test holds it against the code.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "jobs/queue.h"

namespace bpg::operations {

struct Rule {
    std::string_view operation;
    std::string_view holds;  ///< its locks, in words
    jobs::Again again;       ///< the same request while it is open
};

std::span<const Rule> rules();
const Rule& rule_of(std::string_view operation);
/// The table as Markdown.
std::string rules_as_markdown();

}  // namespace bpg::operations
