// A hash that is the same in every version and on every machine: what `H` in a cron expression
// stands for, and how a plan is recognised, must not change with an upgrade. FNV-1a with a final
// mix, so that its low digits are good ones too.
#pragma once

#include <cstdint>
#include <string_view>

namespace bpg::scheduler {

class StableHash {
  public:
    /// Ends with a separator: ("ab", "c") is not ("a", "bc").
    void add(std::string_view text) {
        for (const char byte : text)
            add_byte(static_cast<unsigned char>(byte));
        add_byte(0xFF);  // in no UTF-8 text
    }
    std::uint64_t value() const {
        std::uint64_t mixed = state_;
        mixed = (mixed ^ (mixed >> 30U)) * 0xBF58476D1CE4E5B9U;
        mixed = (mixed ^ (mixed >> 27U)) * 0x94D049BB133111EBU;
        return mixed ^ (mixed >> 31U);
    }

  private:
    void add_byte(std::uint64_t byte) { state_ = (state_ ^ byte) * 0x100000001B3U; }

    std::uint64_t state_ = 0xCBF29CE484222325U;
};

}  // namespace bpg::scheduler
