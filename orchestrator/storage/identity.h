// The identity file of a volume, `betterpg.json` in its top directory: what makes it ours, and what
// the store can be rebuilt from. Drivers of file systems share it; the top directory of a volume is
// root's, so nobody else can write it. Blocking.
#pragma once

#include <optional>
#include <string>

#include "orchestrator/storage/storage.h"

namespace bpg::storage {

inline constexpr const char* kIdentityFile = "betterpg.json";

/// The identity in an open volume; nothing when there is no valid one, i.e. the volume is foreign.
std::optional<Identity> read_identity(int volume_fd);

/// Writes it 0600 root, in place of what a snapshot brought along, and fsyncs the file. Its name is
/// durable only with the directory: the caller syncs when it publishes the volume.
void write_identity(int volume_fd, const Identity& identity);

}  // namespace bpg::storage
