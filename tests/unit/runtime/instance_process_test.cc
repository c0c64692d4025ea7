// Command lines, logs, ports and processes, without PostgreSQL.
#include "orchestrator/runtime/instance_process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>

#include "orchestrator/base/error.h"
#include "orchestrator/base/id.h"

namespace bpg::runtime {
namespace {

class Directory {
  public:
    Directory() : path_(std::filesystem::temp_directory_path() / ("bpg-runtime-" + new_id())) {
        std::filesystem::create_directory(path_);
    }
    ~Directory() { std::filesystem::remove_all(path_); }
    Directory(const Directory&) = delete;
    Directory& operator=(const Directory&) = delete;
    const std::filesystem::path& path() const { return path_; }

  private:
    std::filesystem::path path_;
};

void append(const std::filesystem::path& path, const std::string& text) {
    std::ofstream(path, std::ios::app) << text;
}

std::string joined(const std::vector<std::string>& argv) {
    std::string all;
    for (const auto& one : argv)
        all += one + "|";
    return all;
}

TEST(PostmasterArguments, EndWithTheBranchItServes) {
    InstanceSpec spec;
    spec.branch_id = "abc";
    spec.data_directory = "/v/data";
    spec.settings = {{"port", "1"}, {"cluster_name", "a b=c"}};
    EXPECT_EQ(joined(postmaster_arguments("/bin", spec)),
              "/bin/postgres|-D|/v/data|-c|port=1|-c|cluster_name=a b=c|-c|bpg.branch_id=abc|");
}

TEST(PostmasterArguments, RunWithoutRightsUnderTheirUser) {
    const std::string line = joined(as_user({.uid = 101, .gid = 104}, {"postgres", "--x"}));
    EXPECT_NE(line.find("--reuid|101|--regid|104|"), std::string::npos);
    EXPECT_NE(line.find("--bounding-set=-all|"), std::string::npos);
    EXPECT_NE(line.find("--no-new-privs|"), std::string::npos);
    EXPECT_TRUE(line.ends_with("|--|postgres|--x|")) << line;
}

TEST(PostmasterArguments, UnderSystemdBelongToAScopeOfTheirOwn) {
    const std::string line = joined(in_own_scope("abc", {"setpriv", "x"}));
    EXPECT_TRUE(line.starts_with("systemd-run|--scope|")) << line;
    EXPECT_TRUE(line.ends_with("|--|setpriv|x|")) << line;
}

TEST(LogTail, ShowsOnlyTheNewestStart) {
    const Directory directory;
    const auto log = directory.path() / "log";
    begin_log(log, "abc");
    append(log, "old 1\nold 2\n");
    begin_log(log, "abc");
    EXPECT_EQ(read_log_tail(log, 10), "");
    append(log, "new 1\nnew 2\nnew 3");
    EXPECT_EQ(read_log_tail(log, 10), "new 1\nnew 2\nnew 3");
    EXPECT_EQ(read_log_tail(log, 2), "new 2\nnew 3");
    EXPECT_EQ(read_log_tail(log, 0), "");
}

TEST(LogTail, IsBoundedAndBeginsWithAWholeLine) {
    const Directory directory;
    const auto log = directory.path() / "log";
    begin_log(log, "abc");
    for (int i = 0; i < 2000; ++i)
        append(log, "line " + std::to_string(i) + " of the log\n");
    const std::string tail = read_log_tail(log, 100'000);
    EXPECT_LE(tail.size(), 16U * 1024);
    EXPECT_GT(tail.size(), 15U * 1024);
    EXPECT_TRUE(tail.starts_with("line ")) << tail.substr(0, 20);
    EXPECT_TRUE(tail.ends_with("line 1999 of the log\n"));
}

TEST(LogTail, OfALogThatIsNotThereIsEmpty) {
    EXPECT_EQ(read_log_tail("/nonexistent/log", 10), "");
}

TEST(Log, IsPutAsideWhenItHasGrown) {
    const Directory directory;
    const auto log = directory.path() / "log";
    append(log, "first\n");
    std::filesystem::resize_file(log, (16U << 20U) + 1);
    begin_log(log, "abc");
    EXPECT_LT(std::filesystem::file_size(log), 1024U);
    EXPECT_EQ(std::filesystem::file_size(directory.path() / "log.1"), (16U << 20U) + 1);
}

TEST(Log, IsNotWrittenThroughASymbolicLink) {
    const Directory directory;
    append(directory.path() / "target", "precious\n");
    std::filesystem::create_symlink(directory.path() / "target", directory.path() / "log");
    EXPECT_THROW(begin_log(directory.path() / "log", "abc"), Error);
    EXPECT_EQ(std::filesystem::file_size(directory.path() / "target"), 9U);
}

TEST(Port, ThatSomebodyListensOnIsRefusedNamingThem) {
    const UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    void* raw = &address;
    ASSERT_EQ(::bind(listener.get(), static_cast<sockaddr*>(raw), size), 0);
    ASSERT_EQ(::listen(listener.get(), 1), 0);
    ASSERT_EQ(::getsockname(listener.get(), static_cast<sockaddr*>(raw), &size), 0);
    const int port = ntohs(address.sin_port);
    try {
        check_port_free("127.0.0.1, ::1", port);
        FAIL() << "a taken port was taken for free";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), "port_taken");
        EXPECT_NE(error.info().detail.find(std::to_string(::getpid())), std::string::npos)
            << error.info().detail;
    }
    EXPECT_NO_THROW(check_port_free("::1", port));
    EXPECT_NO_THROW(check_port_free("", port));
}

TEST(Processes, OfADirectoryAreFoundByWhereTheyWork) {
    const Directory directory;
    EXPECT_TRUE(processes_in(directory.path()).empty());
    EXPECT_TRUE(processes_in("/nonexistent").empty());
    const std::filesystem::path before = std::filesystem::current_path();
    std::filesystem::current_path(directory.path());
    const auto found = processes_in(directory.path());
    std::filesystem::current_path(before);
    EXPECT_EQ(found, std::vector<pid_t>{::getpid()});
}

}  // namespace
}  // namespace bpg::runtime
