#include "orchestrator/storage/zfs.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "orchestrator/base/error.h"
#include "orchestrator/base/signal.h"

namespace bpg::storage {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kFirstPause{5};  // unmounting an idle zfs-fuse dataset takes about that
constexpr milliseconds kLongestPause{250};

Error copy_unsupported() {
    return {ErrorKind::kInvalid, "copy_unsupported",
            "volumes of the storage driver zfs are not copied file by file",
            "it has snapshots and clones", "take a snapshot and clone it"};
}

}  // namespace

ZfsStorage::ZfsStorage(const ZfsSettings& settings, BlockingPool& pool)
    : volumes_(settings), pool_(pool), busy_patience_(settings.busy_patience) {}

asio::awaitable<void> ZfsStorage::patiently(std::function<void()> work) {
    const auto deadline = steady_clock::now() + busy_patience_;
    for (milliseconds pause = kFirstPause;; pause = std::min(2 * pause, kLongestPause)) {
        try {
            co_await pool_.run(work);
            co_return;
        } catch (const Error& error) {
            if (error.code() != "volume_busy" || steady_clock::now() + pause > deadline) throw;
        }
        co_await pause_for(pause);
    }
}

std::filesystem::path ZfsStorage::volume_path(const std::string& volume) const {
    return volumes_.volume_path(volume);
}

std::filesystem::path ZfsStorage::snapshot_path(const SnapshotRef& snapshot) const {
    return volumes_.snapshot_path(snapshot);
}

asio::awaitable<std::optional<Identity>> ZfsStorage::find_volume(const std::string& volume) {
    std::optional<Identity> identity;
    const std::function<void()> work = [&] { identity = volumes_.find(volume); };
    co_await patiently(work);
    co_return identity;
}

asio::awaitable<void> ZfsStorage::mount_volume(const std::string& volume) {
    const std::function<void()> work = [&] { volumes_.mount(volume); };
    co_await patiently(work);
}

asio::awaitable<bool> ZfsStorage::snapshot_exists(const SnapshotRef& snapshot) {
    bool exists = false;
    const std::function<void()> work = [&] { exists = volumes_.snapshot_exists(snapshot); };
    co_await patiently(work);
    co_return exists;
}

asio::awaitable<void> ZfsStorage::create_volume(const std::string& volume,
                                                const Identity& identity) {
    const std::function<void()> work = [&] { volumes_.create(volume, identity); };
    co_await patiently(work);
}

asio::awaitable<void> ZfsStorage::snapshot(const SnapshotRef& snapshot) {
    const std::function<void()> work = [&] { volumes_.snapshot(snapshot); };
    co_await patiently(work);
}

asio::awaitable<void> ZfsStorage::clone(const SnapshotRef& snapshot, const std::string& volume,
                                        const Identity& identity) {
    const std::function<void()> work = [&] { volumes_.clone(snapshot, volume, identity); };
    co_await patiently(work);
}

asio::awaitable<std::filesystem::path> ZfsStorage::begin_copy(const std::string&,
                                                              const std::string&, const Identity&,
                                                              const CopyPlan&) {
    throw copy_unsupported();
    co_return std::filesystem::path();
}

asio::awaitable<void> ZfsStorage::finish_copy(const std::string&, const Identity&) {
    throw copy_unsupported();
    co_return;
}

asio::awaitable<void> ZfsStorage::destroy_volume(const std::string& volume,
                                                 const std::string& owner_id) {
    const std::function<void()> work = [&] { volumes_.destroy(volume, owner_id); };
    co_await patiently(work);
}

asio::awaitable<void> ZfsStorage::destroy_snapshot(const SnapshotRef& snapshot) {
    const std::function<void()> work = [&] { volumes_.destroy_snapshot(snapshot); };
    co_await patiently(work);
}

asio::awaitable<void> ZfsStorage::set_ref(const std::string& volume, const std::string& owner_id,
                                          const std::string& ref) {
    const std::function<void()> work = [&] { volumes_.set_ref(volume, owner_id, ref); };
    co_await patiently(work);
}

asio::awaitable<Usage> ZfsStorage::usage(const std::string& volume) {
    Usage result;
    const std::function<void()> work = [&] { result = volumes_.usage(volume); };
    co_await patiently(work);
    co_return result;
}

asio::awaitable<Space> ZfsStorage::space() {
    Space result;
    const std::function<void()> work = [&] { result = volumes_.space(); };
    co_await patiently(work);
    co_return result;
}

asio::awaitable<std::uint64_t> ZfsStorage::free_bytes(std::uint64_t /*enough*/) {
    std::uint64_t result = 0;
    const std::function<void()> work = [&] { result = volumes_.free_bytes(); };
    co_await patiently(work);
    co_return result;
}

asio::awaitable<std::vector<Found>> ZfsStorage::list() {
    std::vector<Found> found;
    const std::function<void()> work = [&] { found = volumes_.list(); };
    co_await patiently(work);
    co_return found;
}

}  // namespace bpg::storage
