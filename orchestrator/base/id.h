// Ids and names. An id is opaque to everybody but this file: 16 characters of lower-case base 32
// from 80 random bits, never derived from a clock. Names are what users choose.
#pragma once

#include <string>
#include <string_view>

namespace bpg {

/// A fresh id; blocks only while the kernel has no entropy yet (early boot).
std::string new_id();

/// `bytes` random bytes as lower-case hexadecimal text (twice as many characters).
std::string random_hex(std::size_t bytes);

/// `[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?`: database and branch names (SEC-4).
bool is_valid_name(std::string_view name);

/// Throws kInvalid `name_invalid`; `noun` ("database", "branch") opens the message.
void check_name(std::string_view noun, std::string_view name);

/// The on-disk form: a valid name, two joined by '-', and optionally ".<n>". Drivers check it again
/// before it becomes a path or an argument; throws kInvalid `volume_name_invalid`.
void check_volume_name(std::string_view name);

/// 16 characters as made by new_id(); drivers check ids that become part of a path.
bool is_valid_id(std::string_view id);

}  // namespace bpg
