#include "jobs/store.h"

#include <fmt/format.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <rocksdb/utilities/table_properties_collectors.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/async_result.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <deque>
#include <thread>

#include "metrics/instruments.h"
#include "orchestrator/base/files.h"
#include "orchestrator/base/handoff.h"
#include "orchestrator/base/log.h"
#include "orchestrator/base/loop_inbox.h"
#include "orchestrator/base/thread_priority.h"

namespace bpg::jobs {
namespace {

constexpr std::string_view kSchemaKey = "meschema";
constexpr int kSchema = 1;
constexpr std::size_t kGroupMax = 1024;  // commits taken into one synced write
constexpr std::chrono::milliseconds kLookForRoom{500};
constexpr const char* kFreeTheDisk =
    "free space on the disk of paths.state, or enlarge it; nothing that was accepted is lost";

rocksdb::Options store_options() {
    rocksdb::Options options;
    options.OptimizeForSmallDb();
    options.write_buffer_size = 8 << 20;
    options.max_total_wal_size = 64 << 20;
    options.max_background_jobs = 2;
    options.max_open_files = 256;
    options.keep_log_file_num = 5;
    options.max_log_file_size = 4 << 20;
    options.paranoid_checks = true;
    options.memtable_protection_bytes_per_key = 8;
    // The default would silently cut the log at a damaged record in its middle, and with it
    // acknowledged jobs; this mode forgives only a torn tail, which is all that kill -9 leaves.
    options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
    options.table_properties_collector_factories.push_back(
        rocksdb::NewCompactOnDeletionCollectorFactory(1000, 100, 0.3));
    return options;
}

/// What RocksDB says of a LOCK that this process, or another one, holds.
bool is_held(const std::string& text) {
    return text.find("lock hold by current process") != std::string::npos ||
           text.find("LOCK: Resource temporarily unavailable") != std::string::npos;
}

Error open_error(const std::filesystem::path& directory, const rocksdb::Status& status) {
    const std::string what = "cannot open the store " + directory.string();
    if (status.IsIOError() && is_held(status.ToString())) {
        return {ErrorKind::kConflict, "store_in_use", what, "another bpgd has it open",
                "stop the other bpgd, or give this one a paths.state of its own"};
    }
    if (status.IsCorruption()) {
        return {ErrorKind::kCorrupt, "store_corrupt", what, status.ToString(),
                "nothing was changed; keep a copy of the directory before you try to repair it"};
    }
    if (status.IsNoSpace()) {
        return {ErrorKind::kExhausted, "state_disk_full", what, status.ToString(), kFreeTheDisk};
    }
    return {ErrorKind::kInternal, "store_failed", what, status.ToString(),
            "check that the directory is writable and its disk healthy"};
}

/// Opening for writing changes files, and a store of another version must stay as it is: its schema
/// is read first, without so much as a log.
void check_schema(const std::filesystem::path& directory) {
    class Silent final : public rocksdb::Logger {
        using rocksdb::Logger::Logv;
        void Logv(const char*, va_list) override {}
    };
    rocksdb::Options options = store_options();
    options.info_log = std::make_shared<Silent>();
    rocksdb::DB* raw = nullptr;
    rocksdb::Status status = rocksdb::DB::OpenForReadOnly(options, directory.string(), &raw);
    if (!status.ok()) throw open_error(directory, status);
    const std::unique_ptr<rocksdb::DB> db(raw);
    std::string schema = "none";
    status = db->Get({}, rocksdb::Slice(kSchemaKey.data(), kSchemaKey.size()), &schema);
    if (!status.ok() && !status.IsNotFound()) throw open_error(directory, status);
    if (schema == std::to_string(kSchema)) return;
    throw Error(ErrorKind::kInvalid, "store_newer",
                "the store in " + directory.string() + " is of another version",
                "it has schema " + schema + ", this bpgd knows " + std::to_string(kSchema),
                "run the version of bpgd that wrote it, or a later one");
}

/// Opening writes what the log holds as tables, and begins a new log and manifest.
void require_room_to_open(const std::filesystem::path& directory) {
    std::uint64_t needed = kRoomToWrite;
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
        if (entry.path().extension() == ".log") needed += entry.file_size();
    }
    const std::uint64_t free = free_bytes(directory);
    if (free >= needed) return;
    throw Error(ErrorKind::kExhausted, "state_disk_full",
                "cannot open the store " + directory.string(),
                fmt::format("{} MiB are free on its disk, opening it needs {} MiB", free >> 20U,
                            needed >> 20U),
                kFreeTheDisk);
}

}  // namespace

std::string big_endian(std::uint64_t value) {
    std::string bytes(8, '\0');
    for (int i = 7; i >= 0; --i) {
        bytes[static_cast<std::size_t>(i)] = static_cast<char>(value & 0xffU);
        value >>= 8;
    }
    return bytes;
}

std::uint64_t from_big_endian(std::string_view bytes) {
    std::uint64_t value = 0;
    for (const char byte : bytes.substr(0, 8)) {
        value = (value << 8) | static_cast<unsigned char>(byte);
    }
    return value;
}

struct Store::Impl {
    struct Pending {
        Batch batch;
        std::shared_ptr<LoopInbox> inbox;
        Task resume;
    };

    Impl(asio::any_io_executor loop_executor, metrics::Instruments& instruments)
        : loop(std::move(loop_executor)), metrics(instruments) {}

    void write_forever();
    bool has_room() const;
    bool wait_for_room();
    void write(const std::deque<Pending>& group);

    asio::any_io_executor loop;
    metrics::Instruments& metrics;
    std::unique_ptr<rocksdb::DB> db;
    Handoff<Pending> given;
    Semaphore wake;  ///< one for every commit, and one at the end
    std::atomic<bool> closing{false};
    Semaphore closed;  ///< once, at the end, for a writer that waits for room
    std::atomic<bool> waits_for_room{false};
    std::thread writer;
};

bool Store::Impl::has_room() const {
    try {
        return free_bytes(db->GetName()) >= kRoomToWrite;
    } catch (const Error& error) {
        log::warning("whether the disk of the store has room is not known",
                     {{"why", error.what()}});
        return true;
    }
}

/// False when the store is closed first: what waits is lost as in a crash, and nobody was told that
/// it is on disk.
bool Store::Impl::wait_for_room() {
    while (!has_room()) {
        if (!waits_for_room.exchange(true)) {
            log::error("the disk of the state directory is full: jobs wait until there is room",
                       {{"store", db->GetName()}, {"fix", kFreeTheDisk}});
        }
        if (closed.wait_for(kLookForRoom)) return false;
    }
    if (waits_for_room.exchange(false)) log::info("there is room again: jobs go on");
    return true;
}

void Store::Impl::write(const std::deque<Pending>& group) {
    rocksdb::WriteBatch write(0, 0, 8, 0);
    for (const Pending& pending : group) {
        for (const auto& [key, value] : pending.batch.entries_) {
            const rocksdb::Status status = value ? write.Put(key, *value) : write.Delete(key);
            if (!status.ok()) throw open_error(db->GetName(), status);
        }
    }
    rocksdb::WriteOptions options;
    options.sync = true;
    const auto began = std::chrono::steady_clock::now();
    const rocksdb::Status status = db->Write(options, &write);
    metrics.store_commit(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
    if (status.ok()) return;
    const ErrorInfo why = open_error(db->GetName(), status).info();
    log::error("the store cannot be written; bpgd ends so that the next start reads the truth",
               {{"why", why.detail}, {"fix", why.hint}, {"code", why.code}});
    // Not exit(): no destructor may run on a state that the disk does not confirm.
    ::_exit(1);
}

void Store::Impl::write_forever() {
    let_this_thread_go_first();  // every step of every job waits for it
    std::deque<Pending> waiting;
    while (true) {
        wake.wait();
        const bool is_last = closing;
        given.take_all(waiting);
        if (waiting.empty() && is_last) return;
        while (!waiting.empty()) {
            if (!wait_for_room()) return;
            std::deque<Pending> group;
            while (!waiting.empty() && group.size() < kGroupMax) {
                group.push_back(std::move(waiting.front()));
                waiting.pop_front();
            }
            write(group);
            for (Pending& pending : group)
                pending.inbox->deliver(std::move(pending.resume));
        }
    }
}

void Store::create(const std::filesystem::path& directory) {
    rocksdb::Options options = store_options();
    options.create_if_missing = true;
    options.error_if_exists = true;
    if (std::filesystem::exists(directory / "CURRENT")) {
        throw Error(ErrorKind::kConflict, "store_exists",
                    "there is a store already in " + directory.string(), "", "");
    }
    rocksdb::DB* raw = nullptr;
    const rocksdb::Status status = rocksdb::DB::Open(options, directory.string(), &raw);
    if (!status.ok()) throw open_error(directory, status);
    const std::unique_ptr<rocksdb::DB> db(raw);
    rocksdb::WriteOptions write;
    write.sync = true;
    const rocksdb::Status put = db->Put(write, rocksdb::Slice(kSchemaKey.data(), kSchemaKey.size()),
                                        std::to_string(kSchema));
    if (!put.ok()) throw open_error(directory, put);
}

Store::Store(const std::filesystem::path& directory, asio::any_io_executor loop,
             metrics::Instruments& metrics)
    : impl_(std::make_unique<Impl>(std::move(loop), metrics)) {
    if (!std::filesystem::exists(directory / "CURRENT")) {
        throw Error(ErrorKind::kNotFound, "store_missing",
                    "there is no store in " + directory.string(),
                    "bpgd never makes an empty one by itself", "run: bpg init");
    }
    check_schema(directory);
    require_room_to_open(directory);
    rocksdb::DB* raw = nullptr;
    const rocksdb::Status status = rocksdb::DB::Open(store_options(), directory.string(), &raw);
    if (!status.ok()) throw open_error(directory, status);
    impl_->db.reset(raw);
    impl_->writer = std::thread([impl = impl_.get()] { impl->write_forever(); });
}

Store::~Store() {
    close();
}

void Store::close() {
    if (!impl_->writer.joinable()) return;
    impl_->closing = true;
    impl_->closed.post();
    impl_->wake.post();
    impl_->writer.join();
}

asio::awaitable<void> Store::commit(Batch batch) {
    if (batch.empty()) co_return;
    auto initiate = [this, &batch](auto handler) {
        Task resume([loop = impl_->loop, handler = std::move(handler)]() mutable {
            asio::post(loop, std::move(handler));
        });
        impl_->given.give({std::move(batch), LoopInbox::expect(impl_->loop), std::move(resume)});
        impl_->wake.post();
    };
    co_await asio::async_initiate<const asio::use_awaitable_t<>&, void()>(std::move(initiate),
                                                                          asio::use_awaitable);
}

void Store::commit_unawaited(Batch batch) {
    impl_->given.give({std::move(batch), LoopInbox::expect(impl_->loop), Task([] {})});
    impl_->wake.post();
}

bool Store::waits_for_room() const {
    return impl_->waits_for_room;
}

std::optional<ErrorInfo> Store::shortage(std::uint64_t reserve) const {
    const std::string& directory = impl_->db->GetName();
    const std::uint64_t free = free_bytes(directory);
    if (free >= reserve) return std::nullopt;
    return ErrorInfo{ErrorKind::kExhausted, "state_disk_full",
                     "the disk of the state directory is nearly full",
                     fmt::format("{} MiB are free around {}; below {} MiB no job is taken, so that "
                                 "those that are open can end",
                                 free >> 20U, directory, reserve >> 20U),
                     kFreeTheDisk};
}

std::optional<std::string> Store::get(const std::string& key) const {
    std::string value;
    const rocksdb::Status status = impl_->db->Get({}, key, &value);
    if (status.ok()) return value;
    if (status.IsNotFound()) return std::nullopt;
    throw open_error(impl_->db->GetName(), status);
}

void Store::scan(std::string_view prefix,
                 const std::function<bool(std::string_view, std::string_view)>& visit, bool reverse,
                 std::string_view from) const {
    // The upper bound keeps the iterator off the tombstones and keys of the next kind.
    std::string upper(prefix);
    while (!upper.empty() && static_cast<unsigned char>(upper.back()) == 0xffU)
        upper.pop_back();
    if (!upper.empty()) upper.back() = static_cast<char>(upper.back() + 1);
    const rocksdb::Slice bound(upper);
    const std::string lower(from.empty() ? prefix : from);
    const rocksdb::Slice lower_bound(lower);
    rocksdb::ReadOptions options;
    options.iterate_upper_bound = &bound;
    options.iterate_lower_bound = &lower_bound;
    const std::unique_ptr<rocksdb::Iterator> it(impl_->db->NewIterator(options));
    reverse ? it->SeekToLast() : it->Seek(lower_bound);
    while (it->Valid()) {
        const auto key = it->key().ToStringView();
        const auto value = it->value().ToStringView();
        if (!visit(key, value)) return;
        reverse ? it->Prev() : it->Next();
    }
    if (!it->status().ok()) throw open_error(impl_->db->GetName(), it->status());
}

}  // namespace bpg::jobs
