// Connections: how they are made, and what their failures mean.
#include "orchestrator/postgres/session.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <charconv>
#include <utility>

#include "orchestrator/base/error.h"

namespace bpg::postgres {

namespace {

constexpr std::size_t kDetailMax = 2048;
constexpr int kEventTriggersSetting = 17;  // the first major that can switch them off

/// What a server said, fit for a message: one bounded text without a trailing newline.
std::string detail_of(const std::exception& failure) {
    std::string text = failure.what();
    text.resize(std::min(text.size(), kDetailMax));
    while (!text.empty() && (text.back() == '\n' || text.back() == ' '))
        text.pop_back();
    return text;
}

Error unreachable(const std::exception& failure) {
    return {ErrorKind::kUnavailable, "postgres_unreachable", "PostgreSQL does not answer",
            detail_of(failure)};
}

Error server_error(const pqxx::sql_error& failure) {
    const std::string& state = failure.sqlstate();
    // query_canceled, lock_not_available
    if (state == "57014" || state == "55P03") {
        return {ErrorKind::kTimeout, "postgres_timeout", "PostgreSQL took too long",
                detail_of(failure)};
    }
    // admin_shutdown, crash_shutdown, cannot_connect_now, and the class of connection exceptions
    if (state == "57P01" || state == "57P02" || state == "57P03" || state.starts_with("08") ||
        state.empty()) {
        return unreachable(failure);
    }
    if (state == "53100") {
        return {ErrorKind::kExhausted, "no_space", "PostgreSQL has no space left",
                detail_of(failure)};
    }
    return {ErrorKind::kInternal, "postgres_error", "PostgreSQL refused a statement of bpgd",
            detail_of(failure)};
}

/// Runs `work` and turns what libpqxx throws into our errors.
template <class Work>
auto translated(Work work) {
    try {
        return work();
    } catch (const pqxx::broken_connection& failure) {
        throw unreachable(failure);
    } catch (const pqxx::sql_error& failure) {
        throw server_error(failure);
    } catch (const pqxx::pqxx_exception& failure) {
        throw Error(ErrorKind::kInternal, "postgres_error",
                    "PostgreSQL gave an answer nobody expected", detail_of(failure.base()));
    }
}

Error unexpected(std::string detail) {
    return {ErrorKind::kInternal, "postgres_error", "PostgreSQL gave an answer nobody expected",
            std::move(detail)};
}

Secret conninfo(const SessionTarget& target, bool event_triggers_off) {
    // What a role or database setting could change against us is set here: it weighs more.
    std::string options = fmt::format(
        "-c search_path= -c statement_timeout={} -c lock_timeout={} -c synchronous_commit=local "
        "-c default_transaction_read_only=off -c client_min_messages=error",
        target.statement_timeout.count(), target.statement_timeout.count() / 2);
    if (event_triggers_off) options += " -c event_triggers=off";

    std::string text = "host=" + quote_conninfo(target.host) +
                       " port=" + std::to_string(target.port) +
                       " dbname=" + quote_conninfo(target.dbname) +
                       " user=postgres connect_timeout=10 application_name=bpgd"
                       " client_encoding=UTF8 sslmode=disable gssencmode=disable"
                       " passfile=/dev/null/none options=" +
                       quote_conninfo(options);
    if (!target.password.empty()) text += " password=" + quote_conninfo(target.password.reveal());
    return Secret(std::move(text));
}

}  // namespace

int Cutoff::watch(int socket) {
    const std::lock_guard lock(mutex_);
    return std::exchange(socket_, socket);
}

void Cutoff::cut() {
    const std::lock_guard lock(mutex_);
    cut_ = true;
    // The waiting thread sees the end of the stream and gives up; closing is still its own.
    if (socket_ >= 0) ::shutdown(socket_, SHUT_RDWR);
}

bool Cutoff::was_cut() const {
    const std::lock_guard lock(mutex_);
    return cut_;
}

std::optional<int> VersionMemory::find(const std::string& branch_id) const {
    const std::lock_guard lock(mutex_);
    const auto found = majors_.find(branch_id);
    if (found == majors_.end()) return std::nullopt;
    return found->second;
}

void VersionMemory::remember(const std::string& branch_id, int major) {
    constexpr std::size_t kBranchesMax = 10'000;
    const std::lock_guard lock(mutex_);
    // Only a memory: forgetting costs one refused attempt for each branch.
    if (majors_.size() >= kBranchesMax) majors_.clear();
    majors_[branch_id] = major;
}

Session::Session(const SessionTarget& target, VersionMemory& versions) {
    const auto known =
        target.major > 0 ? std::optional(target.major) : versions.find(target.branch_id);
    const bool try_off = !known || *known >= kEventTriggersSetting;
    try {
        connect(target, try_off);
    } catch (const Error& failure) {
        // A version that does not know the setting refuses the connection and names it.
        const bool unknown_setting =
            failure.info().detail.find("\"event_triggers\"") != std::string::npos;
        if (!try_off || !unknown_setting) throw;
        connect(target, false);
    }
    versions.remember(target.branch_id, version() / 10'000);
    check_branch(target.branch_id);
}

void Session::connect(const SessionTarget& target, bool event_triggers_off) {
    translated([&] {
        quiet_.reset();
        const Secret text = conninfo(target, event_triggers_off);
        connection_ = std::make_unique<pqxx::connection>(text.reveal());
        // libpq would print what a server sends as a notice.
        quiet_ = std::make_unique<pqxx::quiet_errorhandler>(*connection_);
// libpqxx 6 connects again by itself, even to another server; 7 never does, hence "deprecated".
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
        connection_->inhibit_reactivation(true);
#pragma GCC diagnostic pop
    });
}

void Session::check_branch(const std::string& branch_id) {
    const auto answer = ask("SELECT pg_catalog.current_setting('bpg.branch_id', true)");
    const std::string found =
        answer.empty() || answer[0][0].is_null() ? "" : text_value(answer[0][0], 64);
    if (found != branch_id) {
        throw Error(ErrorKind::kConflict, "wrong_instance",
                    "another PostgreSQL answers where this branch should",
                    found.empty() ? "it is not one of bpgd's"
                                  : fmt::format("it is branch {}, not {}", found, branch_id),
                    "stop the other server, or give the branch another port");
    }
}

pqxx::result Session::ask(const std::string& sql) {
    return translated([&] {
        pqxx::nontransaction transaction(*connection_);
        return transaction.exec(sql);
    });
}

pqxx::result Session::ask(const std::string& sql, const std::string& parameter) {
    return translated([&] {
        pqxx::nontransaction transaction(*connection_);
        return transaction.exec_params(sql, parameter);
    });
}

std::string text_value(const pqxx::field& field, std::size_t max) {
    if (field.is_null()) throw unexpected("a value is missing");
    if (field.size() > max) throw unexpected(fmt::format("a value has {} bytes", field.size()));
    return {field.c_str(), field.size()};
}

Lsn lsn_value(const pqxx::field& field) {
    const std::string text = text_value(field, 32);
    const auto lsn = parse_lsn(text);
    if (!lsn) throw unexpected("'" + text + "' is no LSN");
    return *lsn;
}

std::int64_t integer_value(const pqxx::field& field) {
    const std::string text = text_value(field, 32);
    std::int64_t value = 0;
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (failure != std::errc() || end != text.data() + text.size()) {
        throw unexpected("'" + text + "' is no number");
    }
    return value;
}

bool bool_value(const pqxx::field& field) {
    const std::string text = text_value(field, 8);
    if (text != "t" && text != "f") throw unexpected("'" + text + "' is neither true nor false");
    return text == "t";
}

std::string quote_conninfo(const std::string& value) {
    std::string quoted = "'";
    for (const char c : value) {
        if (c == '\'' || c == '\\') quoted += '\\';
        quoted += c;
    }
    return quoted + '\'';
}

}  // namespace bpg::postgres
