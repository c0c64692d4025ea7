// Secrets cannot be shown: what would print one does not compile.
#include "orchestrator/base/secret.h"

#include <fmt/format.h>
#include <fmt/ostream.h>
#include <gtest/gtest.h>

#include <concepts>
#include <nlohmann/json.hpp>
#include <ostream>
#include <utility>

namespace bpg {
namespace {

template <class T>
concept IsStreamed = requires(std::ostream& out, const T& value) { out << value; };
template <class T>
concept IsConcatenated = requires(const T& value) { std::string() + value; };

TEST(Secret, CanNeitherBeStreamedNorFormattedNorBecomeJsonOrText) {
    static_assert(IsStreamed<std::string> && !IsStreamed<Secret>);
    static_assert(fmt::is_formattable<std::string>::value && !fmt::is_formattable<Secret>::value);
    static_assert(std::is_constructible_v<nlohmann::json, std::string> &&
                  !std::is_constructible_v<nlohmann::json, Secret>);
    static_assert(IsConcatenated<std::string> && !IsConcatenated<Secret>);
    static_assert(!std::is_convertible_v<Secret, std::string>);
    static_assert(!std::is_convertible_v<std::string, Secret>, "it is said aloud what is secret");
    EXPECT_EQ(testing::PrintToString(Secret("the password of a branch")).find("password"),
              std::string::npos);
}

TEST(Secret, IsRevealedAsItWasGivenAndCopiedAndMoved) {
    Secret one("pencil");
    const Secret copy = one;
    const Secret moved = std::move(one);
    EXPECT_EQ(copy.reveal(), "pencil");
    EXPECT_EQ(moved.reveal(), "pencil");
    Secret assigned("of another, and longer than a short string is");
    assigned = copy;
    EXPECT_EQ(assigned.reveal(), "pencil");
    EXPECT_TRUE(Secret().empty());
    EXPECT_FALSE(assigned.empty());
}

TEST(Secret, LeavesNothingInItsPlaceWhenItEndsOrIsMovedAway) {
    // Short enough to lie in the object itself, whose place we may look at.
    alignas(Secret) std::array<char, sizeof(Secret)> place{};
    const auto holds = [&place] {
        return std::string_view(place.data(), place.size()).find("pencil") !=
               std::string_view::npos;
    };
    auto* one = new (place.data()) Secret("pencil");
    EXPECT_TRUE(holds());
    const Secret moved = std::move(*one);
    EXPECT_FALSE(holds());
    *one = moved;
    EXPECT_TRUE(holds());
    one->~Secret();
    EXPECT_FALSE(holds());
}

}  // namespace
}  // namespace bpg
