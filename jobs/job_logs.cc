#include "jobs/job_logs.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "orchestrator/base/error.h"
#include "orchestrator/base/files.h"
#include "orchestrator/base/log.h"

namespace bpg::jobs {
namespace {

constexpr std::size_t kPiece = 64U << 10U;
constexpr std::string_view kFull = "[the rest is left out: jobs.log_max is reached]\n";

/// A terminal that shows the log must not obey it.
std::string tame(std::string text) {
    for (char& byte : text) {
        const auto code = static_cast<unsigned char>(byte);
        if ((code < 0x20 && byte != '\n' && byte != '\t') || code == 0x7f) byte = '?';
    }
    if (!text.empty() && text.back() != '\n') text += '\n';
    return text;
}

std::string line_of(const Event& event) {
    std::string line = fmt::format("{} {}{}{}", format_time(event.at), event.type,
                                   event.step.empty() ? "" : " " + event.step,
                                   event.message.empty() ? "" : ": " + event.message);
    for (const auto& [name, value] : event.data.items()) {
        line += fmt::format(" {}={}", name,
                            value.is_string() ? value.get<std::string>() : value.dump());
    }
    return line;
}

void write_whole(int fd, std::string_view text) {
    while (!text.empty()) {
        const ssize_t written = ::write(fd, text.data(), text.size());
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) throw errno_error("write the log of a job", errno);
        text.remove_prefix(static_cast<std::size_t>(written));
    }
}

}  // namespace

void JobLogs::note(const Job& job, const Event& event) {
    append(job.id, line_of(event));
}

void JobLogs::append(const std::string& job_id, std::string text) {
    if (text.empty()) return;
    writer_.post([this, job_id, text = tame(std::move(text))] {
        try {
            write(job_id, text);
        } catch (const Error& error) {
            log::debug("the log of a job could not be written", {{"why", error.what()}});
        }
    });
}

void JobLogs::write(const std::string& job_id, const std::string& text) const {
    const std::filesystem::path file = path(job_id);
    const UniqueFd fd(::open(
        file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC, 0640));
    if (!fd) throw errno_error("open " + file.string(), errno);
    struct stat facts{};
    if (::fstat(fd.get(), &facts) != 0) throw errno_error("examine " + file.string(), errno);
    const auto size = static_cast<std::uint64_t>(facts.st_size);
    if (size >= bytes_max_) return;
    const std::uint64_t room = bytes_max_ - size;
    write_whole(fd.get(), std::string_view(text).substr(0, room));
    if (text.size() >= room) write_whole(fd.get(), "\n" + std::string(kFull));
}

asio::awaitable<void> JobLogs::written() {
    co_await writer_.run([] {});
}

asio::awaitable<std::string> JobLogs::read(std::string job_id, std::uint64_t from) {
    auto work = [this, &job_id, from] { return read_lines(job_id, from); };
    co_return co_await writer_.run(work);
}

std::string JobLogs::read_lines(const std::string& job_id, std::uint64_t from) const {
    const std::filesystem::path file = path(job_id);
    const UniqueFd fd(::open(file.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (!fd && errno == ENOENT) return {};
    if (!fd) throw errno_error("open " + file.string(), errno);
    std::string piece(kPiece, '\0');
    const ssize_t size = ::pread(fd.get(), piece.data(), piece.size(), static_cast<off_t>(from));
    if (size < 0) throw errno_error("read " + file.string(), errno);
    piece.resize(static_cast<std::size_t>(size));
    const auto end = piece.rfind('\n');
    if (end != std::string::npos) piece.resize(end + 1);
    return piece;
}

void JobLogs::remove(const std::string& job_id) const {
    const std::filesystem::path file = path(job_id);
    if (::unlink(file.c_str()) != 0 && errno != ENOENT) {
        throw errno_error("remove " + file.string(), errno);
    }
}

}  // namespace bpg::jobs
