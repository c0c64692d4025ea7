// See refusals.h.
#include "tests/harness/refusals.h"

#include <fmt/format.h>

#include <optional>

#include "orchestrator/base/subprocess.h"

namespace bpg::test {

namespace {

using namespace std::chrono_literals;

/// Databases, branches and their states, without what is measured now and then.
std::string catalog_of(const TestHost& host) {
    Json branches = host.bpg_json({"branch", "list"});
    for (Json& branch : branches.at("items"))
        branch.erase("storage");
    return host.bpg_json({"db", "list"}).dump(1) + "\n" + branches.dump(1);
}

/// "  why:  first line" and the others below it.
std::string part(const std::string& label, const std::string& text) {
    std::string shown = fmt::format("  {:<6}", label);
    for (const char c : text) {
        shown += c;
        if (c == '\n') shown += std::string(8, ' ');
    }
    return shown + "\n";
}

std::string as_people_read_it(const CliError& error) {
    return "error: " + error.what + "\n" + part("why:", error.why) + part("fix:", error.fix) +
           part("code:", error.code);
}

/// Takes the parts out of what people read; throws when they are not all there, in their order.
CliError parse_error(const std::string& text, int exit_code) {
    std::vector<std::string> parts;
    std::size_t from = text.find("error: ");
    for (const char* label : {"error: ", "\n  why:  ", "\n  fix:  ", "\n  code: "}) {
        const std::size_t begin = text.find(label, from == std::string::npos ? 0 : from);
        if (begin == std::string::npos) {
            throw std::runtime_error(fmt::format("no part \"{}\" in: {}", label, text));
        }
        if (!parts.empty()) parts.back() = text.substr(from, begin - from);
        from = begin + std::string(label).size();
        parts.emplace_back();
    }
    parts.back() = text.substr(from, text.find('\n', from) - from);
    return {exit_code, parts[3], parts[0], parts[1], parts[2]};
}

}  // namespace

CliError refusal(const TestHost& host, const std::vector<std::string>& arguments) {
    std::vector<std::string> all = {"-o", "json"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    const CliResult result = host.bpg(all);
    EXPECT_FALSE(result.ok()) << fmt::format("bpg {} was not refused", fmt::join(all, " "));
    EXPECT_EQ(result.out, "") << "stdout is for data";
    const Json problem = Json::parse(result.err, nullptr, false);
    EXPECT_TRUE(problem.is_object()) << "stderr is not one JSON object: " << result.text();
    if (!problem.is_object()) return {};
    for (const char* member : {"type", "title", "status", "detail", "code", "hint"}) {
        EXPECT_TRUE(problem.contains(member)) << "no member " << member << ": " << result.err;
    }
    EXPECT_EQ(problem.value("type", ""), "urn:betterpg:error:" + problem.value("code", ""));
    return result.error();
}

void expect_refused(const TestHost& host, const std::vector<std::string>& arguments,
                    const CliError& expected) {
    SCOPED_TRACE(fmt::format("bpg {}", fmt::join(arguments, " ")));
    expect_same(refusal(host, arguments), expected);
    const CliResult shown = host.bpg(arguments);
    EXPECT_EQ(shown.exit_code, expected.exit_code);
    EXPECT_EQ(shown.out, "");
    EXPECT_EQ(shown.err, as_people_read_it(expected));
}

CliError refusal_of_bpgd(const std::filesystem::path& config) {
    Command command;
    command.argv = {(bin_dir() / "bpgd").string(), "--config", config.string()};
    command.deadline = 30s;
    const CommandResult result = run_command(command);
    EXPECT_FALSE(result.timed_out) << "bpgd runs: " << result.err;
    EXPECT_EQ(result.out, "");
    return parse_error(result.err, result.exit_code);
}

Untouched::Untouched(const TestHost& host)
    : host_(host), world_(host.world()), catalog_(catalog_of(host)) {}

void Untouched::expect() const {
    EXPECT_EQ(describe_difference(world_, host_.world()), "");
    EXPECT_EQ(catalog_of(host_), catalog_);
}

}  // namespace bpg::test
