// A text that nobody may see: no stream, format or JSON takes it, so that it cannot come into a
// log, an error, a record or an argument by mistake, and its memory is overwritten when it ends.
#pragma once

#include <string.h>

#include <nlohmann/json_fwd.hpp>
#include <ostream>
#include <string>
#include <utility>

namespace bpg {

/// A value; not to be shared between threads while one changes it.
class Secret {
  public:
    Secret() = default;
    explicit Secret(std::string text) : text_(std::move(text)) {}
    Secret(const Secret&) = default;
    Secret(Secret&& other) noexcept : text_(std::move(other.text_)) { other.wipe(); }
    Secret& operator=(const Secret& other) {
        if (this != &other) *this = Secret(other);
        return *this;
    }
    Secret& operator=(Secret&& other) noexcept {
        text_.swap(other.text_);
        other.wipe();
        return *this;
    }
    ~Secret() { wipe(); }

    bool empty() const { return text_.empty(); }
    /// For those who give it to whom it is meant for; each call is a place to look at.
    const std::string& reveal() const& { return text_; }
    const std::string& reveal() && = delete;  // it would not outlive the expression

  private:
    void wipe() {
        ::explicit_bzero(text_.data(), text_.capacity());
        text_.clear();
    }

    std::string text_;
};

std::ostream& operator<<(std::ostream&, const Secret&) = delete;
void to_json(nlohmann::json&, const Secret&) = delete;

}  // namespace bpg
