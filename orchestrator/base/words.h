// How far apart two words are, for "did you mean …?".
#pragma once

#include <cstddef>
#include <string_view>

namespace bpg {

/// Edits (insert, delete, replace, swap of neighbours) that turn one word into the other.
std::size_t edit_distance(std::string_view from, std::string_view to);

}  // namespace bpg
