#include "jobs/store.h"

#include <fmt/format.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <rocksdb/utilities/checkpoint.h>
#include <rocksdb/utilities/table_properties_collectors.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/async_result.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <charconv>
#include <deque>
#include <thread>

#include "metrics/instruments.h"
#include "orchestrator/base/clock.h"
#include "orchestrator/base/files.h"
#include "orchestrator/base/handoff.h"
#include "orchestrator/base/log.h"
#include "orchestrator/base/loop_inbox.h"
#include "orchestrator/base/thread_priority.h"

namespace bpg::jobs {
namespace {

constexpr std::string_view kSchemaKey = "meschema";
/// 2: locks of a job belong to rows, and its record says which it holds.
constexpr int kSchema = 2;
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

/// Without a log of its own.
rocksdb::Options silent_options() {
    class Silent final : public rocksdb::Logger {
        using rocksdb::Logger::Logv;
        void Logv(const char*, va_list) override {}
    };
    rocksdb::Options options = store_options();
    options.info_log = std::make_shared<Silent>();
    return options;
}

/// Opening for writing changes files, and a store of a later version must stay as it is: its schema
/// is read first, without so much as a log. kCorrupt is thrown as it is.
int read_schema(const std::filesystem::path& directory) {
    rocksdb::DB* raw = nullptr;
    rocksdb::Status status =
        rocksdb::DB::OpenForReadOnly(silent_options(), directory.string(), &raw);
    if (!status.ok()) throw open_error(directory, status);
    const std::unique_ptr<rocksdb::DB> db(raw);
    std::string schema = "none";
    status = db->Get({}, rocksdb::Slice(kSchemaKey.data(), kSchemaKey.size()), &schema);
    if (!status.ok() && !status.IsNotFound()) throw open_error(directory, status);
    int number = 0;
    const auto parsed = std::from_chars(schema.data(), schema.data() + schema.size(), number);
    if (parsed.ec == std::errc() && number >= 1 && number <= kSchema) return number;
    throw Error(ErrorKind::kInvalid, "store_newer",
                "the store in " + directory.string() + " is of another version",
                "it has schema " + schema + ", this bpgd knows " + std::to_string(kSchema),
                "run the version of bpgd that wrote it, or a later one");
}

std::filesystem::path new_backup(const std::filesystem::path& directory, std::string_view why) {
    const std::filesystem::path backups = directory.parent_path() / "backups";
    ensure_directory(backups, 0700);
    std::string time = format_time(SystemClock().now());
    std::erase_if(time, [](char byte) { return byte == ':' || byte == '-'; });
    return backups / fmt::format("{}-{}-{}", directory.filename().string(), why, time);
}

/// Says that the store was cut, and where it is kept as it was, until somebody has made sure that
/// nothing is missing.
std::filesystem::path cut_note(const std::filesystem::path& directory) {
    return directory.parent_path() / "backups" / "cut";
}

/// Tables never change, so they are linked; logs do, so they are copied.
void copy_store(const std::filesystem::path& from, const std::filesystem::path& to) {
    std::filesystem::create_directory(to);
    for (const auto& entry : std::filesystem::directory_iterator(from)) {
        const auto name = entry.path().filename();
        if (!entry.is_regular_file() || name == "LOCK") continue;
        if (name.extension() == ".sst") {
            std::filesystem::create_hard_link(entry.path(), to / name);
        } else {
            std::filesystem::copy_file(entry.path(), to / name);
        }
    }
    fsync_directory(to);
    fsync_directory(to.parent_path());
}

std::filesystem::path newest_log(const std::filesystem::path& directory) {
    std::filesystem::path newest;
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
        const bool is_log = entry.path().extension() == ".log";
        if (is_log && entry.path().filename() > newest.filename()) newest = entry.path();
    }
    return newest;
}

/// Whether the store is whole but for its newest log, which is what a power cut can tear. Looks at
/// a copy.
bool only_newest_log_is_damaged(const std::filesystem::path& copy) {
    const std::filesystem::path trial = copy.string() + ".trial";
    remove_tree(trial);
    copy_store(copy, trial);
    std::filesystem::resize_file(newest_log(trial), 0);
    rocksdb::DB* raw = nullptr;
    const rocksdb::Status status =
        rocksdb::DB::OpenForReadOnly(silent_options(), trial.string(), &raw);
    const std::unique_ptr<rocksdb::DB> db(raw);
    const bool whole = status.ok();
    remove_tree(trial);
    return whole;
}

/// Opens a store whose newest log is damaged up to the damage, after it was kept as it is.
void cut_at_damage(const std::filesystem::path& directory, const Error& damage) {
    std::filesystem::path kept = new_backup(directory, "damaged");
    copy_store(directory, kept);
    if (newest_log(kept).empty() || !only_newest_log_is_damaged(kept)) {
        remove_tree(kept);
        throw damage;
    }
    // First of all, so that the question is asked even if we die before it is answered.
    write_file_durably(cut_note(directory), kept.string(), 0600);
    rocksdb::Options options = store_options();
    options.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
    rocksdb::DB* raw = nullptr;
    const rocksdb::Status status = rocksdb::DB::Open(options, directory.string(), &raw);
    if (!status.ok()) throw open_error(directory, status);
    delete raw;  // closed, its log is whole again
    log::warning(
        "the newest log of the store was damaged; it is opened up to the damage",
        {{"store", directory.string()}, {"kept", kept.string()}, {"why", damage.info().detail}});
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

void write_schema(rocksdb::DB& db, const std::filesystem::path& directory) {
    rocksdb::WriteOptions write;
    write.sync = true;
    const rocksdb::Status put = db.Put(write, rocksdb::Slice(kSchemaKey.data(), kSchemaKey.size()),
                                       std::to_string(kSchema));
    if (!put.ok()) throw open_error(directory, put);
}

/// Records of earlier schemas are read as they are; what this version writes, an earlier one would
/// misread, so from here on it refuses the store.
void bring_up_to_date(rocksdb::DB& db, const std::filesystem::path& directory, int from) {
    const std::filesystem::path kept = new_backup(directory, fmt::format("schema-{}", from));
    rocksdb::Checkpoint* raw = nullptr;
    rocksdb::Status status = rocksdb::Checkpoint::Create(&db, &raw);
    const std::unique_ptr<rocksdb::Checkpoint> checkpoint(raw);
    // Zero: the log is written out as tables first, so that none has to be linked while it grows.
    if (status.ok()) status = checkpoint->CreateCheckpoint(kept.string(), 0);
    if (!status.ok()) throw open_error(directory, status);
    write_schema(db, directory);
    log::info(
        "the store was brought up to date",
        {{"from", std::to_string(from)}, {"to", std::to_string(kSchema)}, {"kept", kept.string()}});
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
    std::optional<std::filesystem::path> cut;
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

const std::optional<std::filesystem::path>& Store::cut() const {
    return impl_->cut;
}

void Store::note_cut_is_harmless() {
    remove_tree(cut_note(impl_->db->GetName()));
    impl_->cut.reset();
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
    write_schema(*db, directory);
}

Store::Store(const std::filesystem::path& directory, asio::any_io_executor loop,
             metrics::Instruments& metrics)
    : impl_(std::make_unique<Impl>(std::move(loop), metrics)) {
    if (!std::filesystem::exists(directory / "CURRENT")) {
        throw Error(ErrorKind::kNotFound, "store_missing",
                    "there is no store in " + directory.string(),
                    "bpgd never makes an empty one by itself", "run: bpg init");
    }
    require_room_to_open(directory);
    int schema = 0;
    try {
        schema = read_schema(directory);
    } catch (const Error& error) {
        if (error.kind() != ErrorKind::kCorrupt) throw;
        cut_at_damage(directory, error);
        schema = read_schema(directory);
    }
    rocksdb::DB* raw = nullptr;
    const rocksdb::Status status = rocksdb::DB::Open(store_options(), directory.string(), &raw);
    if (!status.ok()) throw open_error(directory, status);
    impl_->db.reset(raw);
    impl_->cut = read_file(cut_note(directory));
    if (schema < kSchema) bring_up_to_date(*raw, directory, schema);
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
