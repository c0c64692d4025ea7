#include "orchestrator/base/crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace bpg {
namespace {

constexpr std::array<std::uint32_t, 256> crc_table() {
    std::array<std::uint32_t, 256> table{};
    for (std::uint32_t i = 0; i < table.size(); ++i) {
        std::uint32_t value = i;
        for (int bit = 0; bit < 8; ++bit)
            value = (value >> 1) ^ ((value & 1) ? 0x82F63B78U : 0U);
        table.at(i) = value;
    }
    return table;
}

std::uint32_t add_by_table(std::uint32_t state, std::string_view bytes) {
    static constexpr auto kTable = crc_table();
    for (const char c : bytes)
        state = kTable[(state ^ static_cast<unsigned char>(c)) & 0xFFU] ^ (state >> 8);
    return state;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) std::uint32_t add_by_instruction(std::uint32_t state,
                                                                   std::string_view bytes) {
    while (bytes.size() >= sizeof(std::uint64_t)) {
        std::uint64_t word = 0;
        std::memcpy(&word, bytes.data(), sizeof word);
        state = static_cast<std::uint32_t>(_mm_crc32_u64(state, word));
        bytes.remove_prefix(sizeof word);
    }
    for (const char c : bytes)
        state = _mm_crc32_u8(state, static_cast<unsigned char>(c));
    return state;
}
#endif

}  // namespace

void Crc32c::add(std::string_view bytes) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) {
        state_ = add_by_instruction(state_, bytes);
        return;
    }
#endif
    state_ = add_by_table(state_, bytes);
}

std::uint32_t crc32c(std::string_view bytes) {
    Crc32c crc;
    crc.add(bytes);
    return crc.value();
}

}  // namespace bpg
