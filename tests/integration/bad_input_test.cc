// Whatever a user, a client of the API or the machine gets wrong: each has its exit code and an
// error of four parts, in these very words, and leaves everything as it was.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <regex>
#include <sstream>

#include "orchestrator/base/subprocess.h"
#include "tests/harness/http.h"
#include "tests/harness/refusals.h"
#include "tests/harness/suite.h"

namespace bpg::test {
namespace {

namespace fs = std::filesystem;

constexpr const char* kNameRule =
    "a name has 1 to 63 characters of a-z, 0-9, _ and -, and begins and ends with a letter or "
    "digit";

std::string text_of(const fs::path& file) {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

/// Another text in the configuration, for a while, with a bpgd that has read it.
class ConfigChange {
  public:
    ConfigChange(TestHost& host, const std::string& from, const std::string& to)
        : host_(host), before_(text_of(host.config_file())) {
        std::string text = before_;
        const std::size_t at = text.find(from);
        if (at == std::string::npos) throw std::runtime_error("no \"" + from + "\" in: " + text);
        apply(text.replace(at, from.size(), to));
    }
    ~ConfigChange() { apply(before_); }
    ConfigChange(const ConfigChange&) = delete;
    ConfigChange& operator=(const ConfigChange&) = delete;

  private:
    void apply(const std::string& text) {
        EXPECT_EQ(host_.stop_daemon(), 0);
        std::ofstream(host_.config_file()) << text;
        host_.start_daemon();
    }

    TestHost& host_;
    std::string before_;
};

/// Somebody of whom bpgd knows nothing, on a port: this very program.
class Stranger {
  public:
    explicit Stranger(std::uint16_t port) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
        const int on = 1;
        ::setsockopt(socket_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        const sockaddr address = loopback(port);
        if (::bind(socket_.get(), &address, sizeof address) != 0 ||
            ::listen(socket_.get(), 1) != 0) {
            throw std::runtime_error(fmt::format("port {} is not free", port));
        }
    }
    /// As bpgd names it.
    static std::string name() {
        return fmt::format("process {} ({})", ::getpid(),
                           process_facts(::getpid()).value().argv.front());
    }

  private:
    UniqueFd socket_;
};

// ---- names, objects, daemon ---------------------------------------------------------------------

class BadInput : public HostSuite<BadInput> {
  protected:
    void SetUp() override {
        HostSuite::SetUp();
        database("shop");
        host().wait_until_idle();
    }
    static std::size_t jobs() {
        return host().bpg_json({"job", "list", "--limit", "10000"}).at("items").size();
    }
    /// "2025-10-07T14:30:00.123456Z" of a branch.
    static std::string created(const std::string& ref) {
        return host().branch(ref).at("created_at");
    }
    static HttpAnswer ask(std::string_view method, std::string_view target,
                          std::string_view body = "") {
        return http_request(host().socket(), method, target, body);
    }
};

TEST_P(BadInput, WrongNamesAreRefusedInTheseWords) {
    const Untouched before(host());
    const auto bad_name = [](const std::string& shown, const std::string& noun) {
        return CliError{2, "name_invalid",
                        fmt::format("\"{}\" is not a valid {} name", shown, noun), kNameRule,
                        "choose another name"};
    };
    expect_refused(host(), {"db", "create", "Bad Name"}, bad_name("Bad Name", "database"));
    expect_refused(host(), {"db", "create", ""}, bad_name("", "database"));
    expect_refused(host(), {"db", "get", "a\tb"}, bad_name("a\\x09b", "database"));
    expect_refused(host(), {"branch", "create", "shop/ü"}, bad_name("\\xc3\\xbc", "branch"));
    expect_refused(host(), {"branch", "create", "shop/../x"}, bad_name("../x", "branch"));
    expect_refused(host(), {"branch", "create", "shop/x", "--from", "shop/-x"},
                   bad_name("-x", "branch"));
    expect_refused(host(), {"branch", "get", "Shop/main"}, bad_name("Shop", "database"));
    expect_refused(host(), {"branch", "create", "shop"},
                   {2, "usage", "\"shop\" does not name a branch",
                    "a branch is written DATABASE/BRANCH", "did you mean shop/main?"});
    expect_refused(host(), {"db", "get", "shop/main"},
                   {2, "usage", "\"shop/main\" does not name a database",
                    "it has a slash, like the name of a branch",
                    "this command takes a database, not a branch"});
    before.expect();
}

TEST_P(BadInput, WrongWordsAreRefusedInTheseWords) {
    const Untouched before(host());
    expect_refused(
        host(), {"branch", "creat", "shop/x"},
        {2, "usage", "there is no command \"bpg branch creat\"",
         "bpg branch has: create, list, get, delete, undo-delete, sync, promote, rename, "
         "protect, unprotect, set",
         "did you mean \"bpg branch create\"?"});
    expect_refused(host(), {"branch", "create", "shop/x", "--frm", "shop/main"},
                   {2, "usage", "bpg branch create has no option --frm",
                    "no option of that name is known here", "did you mean --from?"});
    expect_refused(
        host(), {"--timeout", "soon", "db", "list"},
        {2, "usage", "\"soon\" is no duration for --timeout",
         "a duration is a number with ms, s, m, h, d or w", "for example --timeout 90s"});
    before.expect();
}

TEST_P(BadInput, WhatIsNotThereIsRefusedInTheseWords) {
    const Untouched before(host());
    const CliError no_database{3, "database_not_found", "there is no database \"nowhere\"",
                               "it was never created here, or it was deleted",
                               "bpg db list shows the databases there are"};
    const CliError no_branch{3, "branch_not_found", "there is no branch \"shop/nobody\"",
                             "it was never created, or it was deleted",
                             "bpg branch list shop shows the branches there are"};
    expect_refused(host(), {"db", "get", "nowhere"}, no_database);
    expect_refused(host(), {"-y", "db", "delete", "nowhere"}, no_database);
    expect_refused(host(), {"branch", "create", "nowhere/x"}, no_database);
    expect_refused(host(), {"branch", "list", "nowhere"}, no_database);
    expect_refused(host(), {"branch", "get", "shop/nobody"}, no_branch);
    expect_refused(host(), {"-y", "branch", "delete", "shop/nobody"}, no_branch);
    expect_refused(host(), {"branch", "create", "shop/x", "--from", "shop/nobody"}, no_branch);
    for (const char* verb : {"start", "stop", "restart", "url", "env"})
        expect_refused(host(), {verb, "shop/nobody"}, no_branch);
    expect_refused(
        host(), {"job", "get", "nojob"},
        {3, "job_not_found", "there is no job nojob", "no job's id is that or begins with it",
         "bpg job list shows the jobs there are"});
    before.expect();
}

TEST_P(BadInput, WhatIsInTheWayIsNamedInTheseWords) {
    create("shop/taken");
    create("shop/child", {"--from", "shop/taken"});
    database("other");
    const Untouched before(host());
    expect_refused(host(), {"branch", "create", "shop/taken"},
                   {5, "branch_exists", "branch \"shop/taken\" already exists",
                    fmt::format("it was created {} from shop/main", created("shop/taken")),
                    "choose another name, or pass --if-not-exists to use it"});
    expect_refused(
        host(), {"db", "create", "shop"},
        {5, "database_exists", "database \"shop\" already exists", "a name stands for one database",
         "choose another name, or pass --if-not-exists to use it"});
    expect_refused(host(), {"branch", "create", "other/x", "--from", "shop/main"},
                   {2, "parent_elsewhere", "a branch stays in the database of its parent",
                    "\"other/x\" cannot be cut from \"shop/main\"", "name it shop/…"});
    expect_refused(
        host(), {"-y", "branch", "delete", "shop/taken"},
        {5, "branch_has_children", "branch \"shop/taken\" has children", "cut from it: shop/child",
         "delete those first, or pass --recursive to delete them too"});
    expect_refused(
        host(), {"-y", "branch", "delete", "shop/main"},
        {5, "branch_is_main", "branch \"shop/main\" goes only with its database",
         "it is the first branch of the database", "bpg db delete deletes the database"});
    expect_refused(host(), {"-y", "db", "delete", "shop"},
                   {5, "database_has_branches", "database \"shop\" has branches besides main",
                    "shop/child, shop/taken", "delete those first, or pass --force to delete all"});
    before.expect();
    remove("shop/child");
    remove("shop/taken");
    remove_database("other");
}

TEST_P(BadInput, WithoutADaemonTheSocketIsNamed) {
    const CliError unreachable{
        6, "daemon_unreachable", fmt::format("cannot reach bpgd on {}", host().socket().string()),
        "No such file or directory",
        "start it: bpg init, or systemctl start betterpg; another socket: --socket"};
    ASSERT_EQ(host().stop_daemon(), 0);
    const World before = host().world();
    expect_refused(host(), {"status"}, unreachable);
    expect_refused(host(), {"branch", "create", "shop/never"}, unreachable);
    EXPECT_EQ(describe_difference(before, host().world()), "");
    // A socket that a dead one has left.
    host().start_daemon();
    host().kill_daemon();
    CliError refused = unreachable;
    refused.why = "Connection refused";
    expect_refused(host(), {"branch", "list"}, refused);
    host().start_daemon();
    EXPECT_FALSE(host().branch_exists("shop/never"));
}

// ---- names, fuzzed ------------------------------------------------------------------------------

unsigned fuzz_seed() {
    const char* given = std::getenv("BPG_SEED");
    return given != nullptr ? static_cast<unsigned>(std::strtoul(given, nullptr, 10))
                            : std::random_device()();
}

std::vector<std::string> pieces_of_names() {
    std::istringstream printable(
        "/ .. ../ . ' \" `id` $(id) ${HOME} ; | & * ? % %s%n %2e%2e \\ < # - _ --help A Main main "
        "shop a 0 @ {\"a\":1} = + , : ~ ! /etc/passwd ');-- a.init .building .snapshots "
        "ü e\u0301 日本 \u202e \u0085 \u00a0 \u200b \xff \xc0\x80 \x7f \x01 \x1b[31m");
    std::vector<std::string> pieces = {"", " ", "\t", "\n", "\r\n", std::string(1, '\0')};
    pieces.insert(pieces.end(), {std::string(64, 'a'), std::string(300, 'x')});
    for (std::string piece; printable >> piece;)
        pieces.push_back(piece);
    return pieces;
}

/// A word that is no name, though often it is nearly one.
std::string wrong_name(std::mt19937& random) {
    static const std::vector<std::string> pieces = pieces_of_names();
    static const std::regex name("[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?");
    std::uniform_int_distribution<std::size_t> which(0, pieces.size() - 1);
    std::uniform_int_distribution<int> number(1, 5);
    while (true) {
        std::string made;
        for (int i = number(random); i > 0; --i)
            made += pieces[which(random)];
        if (!std::regex_match(made, name)) return made;
    }
}

/// As a JSON string, whatever the bytes are: what is no UTF-8 stays so.
std::string json_string(const std::string& text) {
    std::string quoted = "\"";
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (c == '"' || c == '\\') {
            quoted += '\\';
            quoted += c;
        } else if (byte < 0x20) {
            quoted += fmt::format("\\u{:04x}", byte);
        } else {
            quoted += c;
        }
    }
    return quoted + "\"";
}

std::string url_segment(const std::string& text) {
    std::string encoded;
    for (const char c : text)
        encoded += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    return encoded;
}

std::string shown(const std::string& text) {
    return Json(text).dump(-1, ' ', true, Json::error_handler_t::replace);
}

/// A refusal with all its parts; `also` is allowed besides 400 and 422.
void expect_problem(const HttpAnswer& answer, int also, const std::string& about) {
    EXPECT_TRUE(answer.status == 400 || answer.status == 422 || answer.status == also)
        << answer.status << " for " << about << ": " << answer.body;
    EXPECT_NE(answer.head.find("application/problem+json"), std::string::npos) << answer.head;
    const Json problem = Json::parse(answer.body, nullptr, false);
    ASSERT_TRUE(problem.is_object()) << about << ": " << answer.body;
    EXPECT_EQ(problem.value("status", 0), answer.status) << answer.body;
    for (const char* member : {"title", "detail", "hint", "code"})
        EXPECT_NE(problem.value(member, ""), "") << member << " for " << about << answer.body;
}

TEST_P(BadInput, FuzzedNamesAreRefusedByTheApiAndNothingIsMade) {
    const unsigned seed = fuzz_seed();
    fmt::print("BPG_SEED={}\n", seed);
    SCOPED_TRACE(fmt::format("BPG_SEED={}", seed));
    std::mt19937 random(seed);
    const Untouched before(host());
    const std::size_t jobs_before = jobs();
    const int names = long_mode() ? 5000 : 400;
    for (int i = 0; i < names && !HasFailure(); ++i) {
        const std::string name = wrong_name(random);
        const std::string about = shown(name);
        const std::string in_url = url_segment(name);
        expect_problem(ask("POST", "/v1/databases", "{\"name\":" + json_string(name) + "}"), 422,
                       about);
        for (const std::string& ref : {"shop/" + name, name + "/x"}) {
            expect_problem(ask("POST", "/v1/branches", "{\"ref\":" + json_string(ref) + "}"), 422,
                           about);
            expect_problem(ask("POST", "/v1/branches",
                               "{\"ref\":\"shop/fuzz\",\"from\":" + json_string(ref) + "}"),
                           422, about);
        }
        expect_problem(ask("DELETE", "/v1/databases/" + in_url), 404, about);
        expect_problem(ask("GET", "/v1/branches/shop/" + in_url), 404, about);
        expect_problem(ask("POST", "/v1/branches/" + in_url + "/main/stop"), 404, about);
        expect_problem(ask("GET", "/v1/branches?database=" + in_url), 404, about);
    }
    EXPECT_EQ(jobs(), jobs_before);
    before.expect();
    EXPECT_EQ(host().compare_world_with_catalog(), "");
}

TEST_P(BadInput, FuzzedNamesAreRefusedByTheCommandLine) {
    const unsigned seed = fuzz_seed();
    fmt::print("BPG_SEED={}\n", seed);
    SCOPED_TRACE(fmt::format("BPG_SEED={}", seed));
    std::mt19937 random(seed);
    const Untouched before(host());
    const int names = long_mode() ? 400 : 25;
    for (int i = 0; i < names; ++i) {
        std::string name = wrong_name(random);
        std::erase(name, '\0');  // an argument ends there
        if (name.empty() || std::regex_match(name, std::regex("[a-z0-9_-]+"))) name = "A";
        SCOPED_TRACE(shown(name));
        for (const std::vector<std::string>& words :
             {std::vector<std::string>{"db", "create", "--", name},
              {"branch", "create", "--", "shop/" + name},
              {"branch", "create", "shop/fuzz", "--from=shop/" + name},
              {"-y", "branch", "delete", "--", name + "/main"}}) {
            const CliError error = refusal(host(), words);
            EXPECT_EQ(error.exit_code, 2) << error.code << ": " << error.what;
            EXPECT_TRUE(error.code == "name_invalid" || error.code == "usage") << error.code;
            EXPECT_FALSE(error.why.empty() || error.fix.empty()) << error.what;
        }
    }
    before.expect();
}

// ---- malformed HTTP -----------------------------------------------------------------------------

struct WrongRequest {
    std::string bytes;
    int status = 0;
    std::string code;
    std::string what;
    std::string why;
};

std::string request_line_and_body(const std::string& line, const std::string& body) {
    return fmt::format(
        "{} HTTP/1.1\r\nHost: bpgd\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{}", line,
        body.size(), body);
}

/// What no server of HTTP takes.
std::vector<WrongRequest> wrong_messages() {
    const std::string not_well_formed = "the request is not well-formed";
    const std::string host = "Host: bpgd\r\n";
    return {
        {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 400, "request_malformed", not_well_formed,
         "bad method"},
        {"branch create shop/dev\r\n\r\n", 400, "request_malformed", not_well_formed,
         "bad version"},
        {"GET /v1/status HTTP/9.9\r\n" + host + "\r\n", 400, "request_malformed", not_well_formed,
         "bad version"},
        {"GET /v1/status HTTP/1.1\r\n" + host + "X-Long: " + std::string(20'000, 'x') + "\r\n\r\n",
         431, "header_too_large", "the header of the request is too large",
         "8192 bytes are the most"},
        {"POST /v1/branches HTTP/1.1\r\n" + host + "Content-Length: 2097152\r\n\r\n" +
             std::string(100'000, ' '),
         413, "body_too_large", "the body of the request is too large",
         "1048576 bytes are the most"},
        {"POST /v1/branches HTTP/1.1\r\n" + host +
             "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
         400, "request_malformed", not_well_formed, "bad Transfer-Encoding"},
        {"GET /v1/branches/shop/%zz HTTP/1.1\r\n" + host + "\r\n", 400, "request_malformed",
         not_well_formed, "the path or query is not well-formed"},
        {"GET /v1/branches/shop/%00 HTTP/1.1\r\n" + host + "\r\n", 400, "request_malformed",
         not_well_formed, "the path or query is not well-formed"},
    };
}

/// What is HTTP, and not what the API takes.
std::vector<WrongRequest> wrong_requests() {
    const auto post = [](const std::string& body) {
        return request_line_and_body("POST /v1/branches", body);
    };
    const std::string not_well_formed = "the request is not well-formed";
    return {
        {post(""), 400, "request_malformed", not_well_formed,
         "the body is missing; it takes a JSON object"},
        {post("{\"ref\":"), 400, "request_malformed", not_well_formed, "the body is no JSON"},
        {post("{\"ref\":\"shop/\xff\"}"), 400, "request_malformed", not_well_formed,
         "the body is no JSON"},
        {post(std::string(400'000, '[')), 400, "request_malformed", not_well_formed,
         "the body is no JSON"},
        {post(std::string(200'000, '[') + std::string(200'000, ']')), 422, "field_invalid",
         "the body is no JSON object", "it is of type array"},
        {post("{}"), 422, "field_missing", "\"ref\" is missing", "at /ref"},
        {post("{\"ref\":7}"), 422, "field_invalid", "\"ref\" takes a string, not a number",
         "at /ref"},
        {post("{\"ref\":null}"), 422, "field_invalid", "\"ref\" takes a string, not a null",
         "at /ref"},
        {post("{\"ref\":\"shop/x\",\"fast\":\"yes\"}"), 422, "field_invalid",
         "\"fast\" takes true or false, not a string", "at /fast"},
        {post("{\"ref\":\"shop/x\",\"bogus\":1}"), 422, "field_unknown",
         "there is no field \"bogus\" here", "at /bogus"},
        {request_line_and_body("GET /v1/nothing", ""), 404, "route_not_found",
         "there is nothing at /v1/nothing", "no route of the API has this path"},
        {request_line_and_body("PUT /v1/branches", "{}"), 405, "method_not_allowed",
         "PUT cannot be done with /v1/branches", "it takes GET, HEAD, POST"},
        {request_line_and_body("BREW /v1/branches", ""), 405, "method_not_allowed",
         "BREW cannot be done with /v1/branches", "it takes GET, HEAD, POST"},
        {request_line_and_body("GET /v1/jobs?limit=all", ""), 422, "parameter_invalid",
         "the query parameter \"limit\" has no valid value",
         "it takes a whole number from 1 to 10000"},
        {request_line_and_body("DELETE /v1/branches/shop/x?force=perhaps", ""), 422,
         "parameter_invalid", "the query parameter \"force\" has no valid value",
         "it takes 1 or 0"},
    };
}

TEST_P(BadInput, MalformedHttpIsRefusedAndTheDaemonServesOn) {
    const Untouched before(host());
    const std::size_t jobs_before = jobs();
    std::vector<WrongRequest> all = wrong_messages();
    for (WrongRequest& one : wrong_requests())
        all.push_back(std::move(one));
    for (const WrongRequest& wrong : all) {
        SCOPED_TRACE(shown(wrong.bytes.substr(0, 100)));
        const HttpAnswer answer = http_exchange(host().socket(), wrong.bytes);
        EXPECT_EQ(answer.status, wrong.status);
        EXPECT_NE(answer.head.find("application/problem+json"), std::string::npos) << answer.head;
        const Json problem = Json::parse(answer.body, nullptr, false);
        ASSERT_TRUE(problem.is_object()) << answer.body;
        EXPECT_EQ(problem.value("status", 0), wrong.status);
        EXPECT_EQ(problem.value("code", ""), wrong.code);
        EXPECT_EQ(problem.value("title", ""), wrong.what);
        EXPECT_EQ(problem.value("detail", ""), wrong.why);
        EXPECT_NE(problem.value("hint", ""), "") << answer.body;
        EXPECT_EQ(ask("GET", "/v1/status").status, 200);
    }
    // One who hangs up in the middle of a word gets no answer, and nobody else notices.
    for (const char* part :
         {"", "GE", "GET /v1/status HTT", "POST /v1/branches HTTP/1.1\r\nHost: x",
          "POST /v1/branches HTTP/1.1\r\nContent-Length: 50\r\n\r\n{\"ref\":"}) {
        EXPECT_EQ(http_exchange(host().socket(), part).status, 0) << part;
        EXPECT_EQ(ask("GET", "/v1/status").status, 200);
    }
    EXPECT_EQ(jobs(), jobs_before);
    before.expect();
}

// ---- configuration ------------------------------------------------------------------------------

struct WrongConfig {
    std::string text;
    std::string place;  ///< "line:column"
    std::string what;
    std::string why;
    std::string fix;
};

std::vector<WrongConfig> wrong_configs() {
    return {
        {"network:\n  prots: 1-2\n", "2:3", "unknown key prots in network",
         "known here: listen, ports", "did you mean ports?"},
        {"jobs: { running_max: many }\n", "1:22",
         "jobs.running_max must be a whole number from 1 to 64, not \"many\"",
         "Jobs that run at once; one place is kept for interactive ones.",
         "leave it out for the default, 4"},
        {"network: { ports: [1, 2] }\n", "1:19",
         "network.ports must be a range of ports from 1024 to 65535, like 5432-6431, not a list",
         "The ports branches get, the lowest free one first.",
         "leave it out for the default, 5432-6431"},
        {"storage:\n  root: relative/path\n", "2:9",
         "storage.root must be an absolute path without '..', not \"relative/path\"",
         "a daemon has no working directory that a relative path could start from",
         "leave it out for the default, /var/lib/betterpg/volumes"},
        {"runtime: docker\n", "1:10", "runtime must be a section with keys of its own",
         "known here: driver, docker, process, limits, stop_timeout",
         "write one `key: value` a line below it"},
        {"jobs: { running_max: 4 }\njobs: { queued_max: 9 }\n", "2:1", "jobs is given twice",
         "only one of the two values could count", "remove one of them"},
        {"postgres:\n  config: { port: \"1\" }\n", "2:13", "postgres.config may not set port",
         "bpgd sets it for every instance itself", "remove this line"},
        {"network:\n\tports: 1-2\n", "2:7", "this is not YAML", "illegal map value",
         "check indentation, colons and quotes here and just above"},
    };
}

TEST_P(BadInput, MalformedConfigIsRefusedWithLineAndColumn) {
    const fs::path file = host().base() / "wrong.yaml";
    const Untouched before(host());
    for (const WrongConfig& wrong : wrong_configs()) {
        SCOPED_TRACE(wrong.text);
        std::ofstream(file) << wrong.text;
        CliError expected{2, "config_invalid",
                          fmt::format("{}:{}: {}", file.string(), wrong.place, wrong.what),
                          wrong.why, wrong.fix};
        expect_same(refusal_of_bpgd(file), expected);
    }
    fs::remove(file);
    before.expect();
}

TEST_P(BadInput, MalformedConfigIsRefusedByTheCommandLineToo) {
    const fs::path file = host().config_file();
    const std::string good = text_of(file);
    std::ofstream(file) << "network:\n\tports: 1-2\n";
    expect_refused(host(), {"status"},
                   {2, "config_invalid", fmt::format("{}:2:7: not valid YAML", file.string()),
                    "illegal map value", "correct the file; bpgd would not start with it either"});
    const std::string wrong = "network:\n  prots: 1-2\n";
    std::ofstream(file) << wrong;
    expect_refused(
        host(), {"init", "--no-start"},
        {2, "config_invalid", fmt::format("{}:2:3: unknown key prots in network", file.string()),
         "known here: listen, ports", "did you mean ports?"});
    EXPECT_EQ(text_of(file), wrong) << "init wrote into a file it did not understand";
    std::ofstream(file) << good;
    expect_same(refusal_of_bpgd("/nowhere/config.yaml"),
                {2, "config_missing", "there is no configuration /nowhere/config.yaml",
                 "bpgd takes storage, ports and paths from it and guesses none of them",
                 "`bpg init` writes one; --config or BPG_CONFIG names another"});
}

// ---- another bpgd -------------------------------------------------------------------------------

TEST_P(BadInput, ASecondDaemonOnTheSameStateIsRefused) {
    const Untouched before(host());
    expect_same(refusal_of_bpgd(host().config_file()),
                {5, "bpgd_running", "another bpgd runs on this state directory",
                 host().state().string() + " is locked",
                 "stop the other bpgd, or give this one a config with paths of its own"});
    before.expect();
}

TEST_P(BadInput, ASecondDaemonOnTheSameVolumesIsRefused) {
    const fs::path file = host().base() / "second.yaml";
    std::string text = text_of(host().config_file());
    for (const char* place : {"state", "run", "wal"}) {
        const std::string path = (host().base() / place).string();
        for (std::size_t at = 0; (at = text.find(path, at)) != std::string::npos;)
            text.replace(at, path.size(), path + "2"), at += path.size() + 1;
    }
    std::ofstream(file) << text;
    Command init;
    init.argv = {(bin_dir() / "bpgd").string(), "--config", file.string(), "init"};
    const CommandResult prepared = run_command(init);
    ASSERT_TRUE(prepared.ok()) << prepared.explain(init);
    const Untouched before(host());
    expect_same(refusal_of_bpgd(file),
                {5, "bpgd_running", "another bpgd runs on this volume root",
                 host().volumes().string() + " is locked",
                 "stop the other bpgd, or give this one a config with paths of its own"});
    before.expect();
}

// ---- ports --------------------------------------------------------------------------------------

TEST_P(BadInput, AnExhaustedPortRangeIsRefusedAndNothingIsMade) {
    const int first = host().branch("shop/main").at("port");
    const ConfigChange narrow(
        host(), fmt::format("ports: {}-{}", host().ports().first(), host().ports().last_instance()),
        fmt::format("ports: {}-{}", first, first + 1));
    const Stranger stranger(static_cast<std::uint16_t>(first + 1));
    const Untouched before(host());
    const CliError exhausted{
        8, "ports_exhausted", "no port is free for another branch",
        fmt::format("every port of network.ports {}-{} is held by a branch, in use, or claimed by "
                    "a cluster under /etc/postgresql",
                    first, first + 1),
        "delete a branch, or widen network.ports"};
    expect_refused(host(), {"branch", "create", "shop/more"}, exhausted);
    expect_refused(host(), {"db", "create", "more"}, exhausted);
    before.expect();
}

TEST_P(BadInput, AFullQueueIsRefusedAndLeavesNoReservation) {
    const ConfigChange narrow(host(), "trash: {", "jobs: { queued_max: 1 }\ntrash: {");
    // The one job there is room for waits for a server that does not answer.
    const pid_t parent = host().postmaster("shop/main").pid;
    ::kill(parent, SIGSTOP);
    const Json job = host().bpg_json({"--no-wait", "branch", "create", "shop/first"});
    const CliError full{8, "queue_full", "the job queue is full",
                        "1 jobs are open, jobs.queued_max allows 1",
                        "wait for jobs to finish (bpg job list), or raise jobs.queued_max"};
    expect_refused(host(), {"branch", "create", "shop/second"}, full);
    expect_refused(host(), {"db", "create", "second"}, full);
    ::kill(parent, SIGCONT);
    EXPECT_EQ(host().outcome(job.at("id")), "succeeded");
    EXPECT_FALSE(host().branch_exists("shop/second"));
    EXPECT_EQ(host().bpg({"db", "get", "second"}).exit_code, 3);
    EXPECT_EQ(host().compare_world_with_catalog(), "");
    create("shop/second");
    remove("shop/first");
    remove("shop/second");
}

INSTANTIATE_TEST_SUITE_P(Btrfs, BadInput, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);

// ---- what the drivers meet ----------------------------------------------------------------------

class BadInputDrivers : public HostSuite<BadInputDrivers> {
  protected:
    void SetUp() override {
        HostSuite::SetUp();
        database("shop");
        host().wait_until_idle();
    }
    static std::uint16_t port_of(const std::string& ref) { return host().branch(ref).at("port"); }
    static fs::path data_of(const std::string& ref) {
        const std::string volume = host().branch(ref).at("storage").at("name");
        return host().volumes() / volume / "data";
    }
    static std::string version() { return host().bpg_json({"db", "get", "shop"}).at("pg_version"); }
    /// A failed start is not a change of what is there: the branch is as stopped as before, says
    /// why, and is started by nobody but its user.
    static void expect_failed(const std::string& ref, const std::string& why) {
        const Json branch = host().branch(ref);
        EXPECT_EQ(branch.at("state"), "failed");
        EXPECT_EQ(branch.at("warnings"), Json::array({"start failed: " + why}));
        EXPECT_EQ(host().compare_world_with_catalog(), "");
    }
};

TEST_P(BadInputDrivers, APortThatAStrangerTookIsGivenToNobody) {
    std::uint16_t next = port_of("shop/main");
    while (!port_is_free(next))
        ++next;
    const Stranger stranger(next);
    create("shop/beside");
    EXPECT_EQ(port_of("shop/beside"), next + 1);
    EXPECT_EQ(query_number(host().url("shop/beside"), "SELECT 1"), 1);
    remove("shop/beside");
}

TEST_P(BadInputDrivers, StartOnAPortThatAStrangerTookNamesTheStranger) {
    create("shop/robbed");
    execute(host().url("shop/robbed"), "CREATE TABLE mine AS SELECT 7 AS n");
    host().bpg_json({"stop", "shop/robbed"});
    const std::uint16_t port = port_of("shop/robbed");
    const World before = host().world();
    {
        const Stranger stranger(port);
        const World with_stranger = host().world();
        const CliError error = host().bpg_error({"start", "shop/robbed"});
        EXPECT_EQ(error.exit_code, 5);
        EXPECT_EQ(error.code, "port_taken");
        EXPECT_EQ(error.what, fmt::format("port {} is taken", port));
        EXPECT_EQ(error.why.substr(0, error.why.find('\n')), Stranger::name() + " listens on it");
        EXPECT_EQ(error.fix, "stop what listens on it, or give the branch another port");
        EXPECT_EQ(describe_difference(with_stranger, host().world()), "");
    }
    EXPECT_EQ(describe_difference(before, host().world()), "");
    expect_failed("shop/robbed", fmt::format("port {} is taken", port));
    host().bpg_json({"start", "shop/robbed"});
    EXPECT_EQ(query_number(host().url("shop/robbed"), "SELECT n FROM mine"), 7);
    EXPECT_EQ(host().branch("shop/robbed").at("warnings"), Json::array());
    remove("shop/robbed");
}

TEST_P(BadInputDrivers, APostgresThatRefusesToStartSaysItsLastWords) {
    create("shop/broken");
    execute(host().url("shop/broken"), "CREATE TABLE mine AS SELECT 7 AS n");
    host().bpg_json({"stop", "shop/broken"});
    const fs::path settings = data_of("shop/broken") / "postgresql.auto.conf";
    const std::string good = text_of(settings);
    std::ofstream(settings, std::ios::app) << "shared_buffers 'no equals, no value\n";
    const World before = host().world();
    const CliError error = host().bpg_error({"start", "shop/broken"});
    EXPECT_EQ(error.exit_code, 1);
    EXPECT_EQ(error.code, "postgres_refused");
    EXPECT_EQ(error.what, "PostgreSQL ended while it was starting");
    const std::regex last_words(
        "[^\\n]* LOG:  syntax error in file \"[^\\n]*/data/postgresql.auto.conf\" line [0-9]+, "
        "near "
        "token \"'\"\n"
        "[^\\n]* FATAL:  configuration file \"postgresql.auto.conf\" contains errors\n+"
        "in step await_ready of start of shop/broken");
    EXPECT_TRUE(std::regex_match(error.why, last_words)) << error.why;
    EXPECT_EQ(error.fix,
              "the lines above are the end of its log: correct what they say, then try again");
    EXPECT_EQ(describe_difference(before, host().world()), "");
    expect_failed("shop/broken", "PostgreSQL ended while it was starting");
    std::ofstream(settings) << good;
    host().bpg_json({"start", "shop/broken"});
    EXPECT_EQ(query_number(host().url("shop/broken"), "SELECT n FROM mine"), 7);
    remove("shop/broken");
}

TEST_P(BadInputDrivers, ASettingThatPostgresRefusesFailsTheCreateAndLeavesNothing) {
    const ConfigChange wrong(host(), "shared_buffers: 64MB", "shared_buffers: plenty");
    const Untouched before(host());
    for (const std::vector<std::string>& words :
         {std::vector<std::string>{"db", "create", "wrong"}, {"branch", "create", "shop/wrong"}}) {
        const CliError error = host().bpg_error(words);
        EXPECT_EQ(error.exit_code, 1);
        EXPECT_EQ(error.code, "postgres_refused");
        EXPECT_EQ(error.what, "PostgreSQL ended while it was starting");
        EXPECT_NE(error.why.find("invalid value for parameter \"shared_buffers\": \"plenty\""),
                  std::string::npos)
            << error.why;
        before.expect();
    }
    EXPECT_EQ(query_number(host().url("shop/main"), "SELECT 1"), 1);
}

TEST_P(BadInputDrivers, AnEngineThatIsNotThereIsRefusedInTheseWords) {
    const Untouched before(host());
    if (host().in_docker()) {
        const CliError none =
            host().bpg_error({"db", "create", "lost", "--image", "bpg-no-such-image:1"});
        expect_error(none, 3, "image_not_found");
        EXPECT_TRUE(none.what.starts_with("image bpg-no-such-image:1 is not ")) << none.what;
        expect_refused(host(), {"db", "create", "lost", "--image", "No Such/Image"},
                       {2, "image_invalid", "'No Such/Image' is no name of an image",
                        "a name is lower-case words joined by . _ - and /",
                        "write it as in docker pull: postgres:16, registry/name:tag"});
        expect_refused(host(), {"db", "create", "lost", "--pg-version", "9"},
                       {2, "version_unsupported", "a PostgreSQL version cannot be chosen here",
                        "with the docker runtime the image decides the version",
                        "choose an image: --image postgres:9"});
    } else {
        expect_refused(host(), {"db", "create", "lost", "--image", "postgres:16"},
                       {2, "image_unsupported", "an image cannot be chosen",
                        "this runtime runs native PostgreSQL", "choose with --pg-version instead"});
        expect_refused(host(), {"db", "create", "lost", "--pg-version", "9"},
                       {3, "postgres_not_found", "there is no PostgreSQL 9 on this machine",
                        "found: " + version(), "install it, or set runtime.process.bin_dir"});
    }
    before.expect();
}

/// A PostgreSQL of a version of its own, that is the machine's under another name.
class RenamedPostgres {
  public:
    RenamedPostgres(fs::path directory, const std::string& version) : directory_(directory) {
        fs::create_directories(directory_);
        wrap("postgres", fmt::format("[ \"$1\" = --version ] && exec echo 'postgres (PostgreSQL) "
                                     "{}'\n",
                                     version));
        wrap("initdb", "");
        for (fs::path at = directory_; at != at.root_path(); at = at.parent_path()) {
            fs::permissions(at, fs::perms::others_exec | fs::perms::others_read,
                            fs::perm_options::add);
        }
    }
    void remove() const { fs::remove_all(directory_); }

  private:
    void wrap(const std::string& program, const std::string& before) const {
        const fs::path file = directory_ / program;
        std::ofstream(file) << "#!/bin/sh\n"
                            << before << "exec /usr/lib/postgresql/15/bin/" << program
                            << " \"$@\"\n";
        fs::permissions(file, fs::perms(0755));
    }

    fs::path directory_;
};

TEST_P(BadInputDrivers, ADeadRuntimeIsSaidAndNothingIsMade) {
    if (host().in_docker()) {
        DockerHost& docker = DockerHost::get();
        docker.kill_daemon();
        const CliError refused{
            6, "runtime_unavailable", "the Docker daemon does not answer",
            docker.socket().string() + ": Connection refused",
            "is dockerd running? Start it (systemctl start docker), or set runtime.docker.socket"};
        // The kernel still closes the socket of the one that died.
        EXPECT_TRUE(eventually(
            [&] { return host().bpg_error({"db", "create", "never"}).why == refused.why; }, 10s));
        expect_refused(host(), {"db", "create", "never"}, refused);
        docker.start_daemon();
        EXPECT_TRUE(eventually([&] { return host().compare_world_with_catalog().empty(); }, 60s))
            << host().compare_world_with_catalog();
        EXPECT_EQ(host().bpg({"db", "get", "never"}).exit_code, 3);
        return;
    }
    const RenamedPostgres postgres(host().base() / "pg", "14.99");
    const ConfigChange elsewhere(host(), "driver: process\n",
                                 fmt::format("driver: process\n  process: {{ bin_dir: {} }}\n",
                                             (host().base() / "pg").string()));
    host().bpg_json({"db", "create", "gone", "--pg-version", "14"});
    host().bpg_json({"stop", "gone/main"});
    postgres.remove();
    const Untouched before(host());
    const CliError refused{3, "postgres_not_found", "there is no PostgreSQL 14.99 on this machine",
                           "nor another release of the same major version",
                           "install it, or set runtime.process.bin_dir"};
    CliError error = host().bpg_error({"branch", "create", "gone/dev"});
    error.why = error.why.substr(0, error.why.find('\n'));
    expect_same(error, refused);
    before.expect();
    error = host().bpg_error({"start", "gone/main"});
    error.why = error.why.substr(0, error.why.find('\n'));
    expect_same(error, refused);
    expect_failed("gone/main", refused.what);
    remove_database("gone");
}

INSTANTIATE_TEST_SUITE_P(Btrfs, BadInputDrivers, ::testing::Values(DriverPair{"btrfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(ZfsDocker, BadInputDrivers, ::testing::Values(DriverPair{"zfs", "docker"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(Copy, BadInputDrivers, ::testing::Values(DriverPair{"copy", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(Zfs, BadInputDrivers, ::testing::Values(DriverPair{"zfs", "process"}),
                         pair_name);
INSTANTIATE_TEST_SUITE_P(BtrfsDocker, BadInputDrivers,
                         ::testing::Values(DriverPair{"btrfs", "docker"}), pair_name);

}  // namespace
}  // namespace bpg::test
