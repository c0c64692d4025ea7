// SCRAM-SHA-256 verifiers (RFC 5803) as PostgreSQL stores them, so that a password never has to be
// sent to a server, where a log could keep it. Thread-safe; CPU-bound.
#pragma once

#include <string>
#include <string_view>

#include "orchestrator/base/secret.h"

namespace bpg::postgres {

/// "SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>" for a given salt (raw bytes). For
/// one with a random salt call scram_verifier() of the port. Throws kInternal `crypto_failed`.
std::string scram_verifier_with_salt(const Secret& password, std::string_view salt, int iterations);

/// Whether the text has the shape of such a verifier and so is no plain password.
bool is_scram_verifier(std::string_view text);

}  // namespace bpg::postgres
