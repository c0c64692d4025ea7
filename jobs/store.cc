#include "jobs/store.h"

#include <rocksdb/db.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <rocksdb/utilities/table_properties_collectors.h>
#include <unistd.h>

#include <boost/asio/async_result.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "metrics/instruments.h"
#include "orchestrator/base/error.h"
#include "orchestrator/base/log.h"

namespace bpg::jobs {
namespace {

constexpr std::string_view kSchemaKey = "meschema";
constexpr int kSchema = 1;
constexpr std::size_t kGroupMax = 1024;  // commits taken into one synced write

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

Error open_error(const std::filesystem::path& directory, const rocksdb::Status& status) {
    const std::string what = "cannot open the store " + directory.string();
    if (status.IsIOError() && status.ToString().find("lock") != std::string::npos) {
        return {ErrorKind::kConflict, "store_in_use", what, "another bpgd has it open",
                "stop the other bpgd, or give this one a paths.state of its own"};
    }
    if (status.IsCorruption()) {
        return {ErrorKind::kCorrupt, "store_corrupt", what, status.ToString(),
                "nothing was changed; keep a copy of the directory before you try to repair it"};
    }
    if (status.IsNoSpace()) {
        return {ErrorKind::kExhausted, "no_space", what, status.ToString(), "free some space"};
    }
    return {ErrorKind::kInternal, "store_failed", what, status.ToString(),
            "check that the directory is writable and its disk healthy"};
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
    using Resume = std::function<void()>;
    struct Pending {
        Batch batch;
        Resume resume;
    };

    Impl(asio::any_io_executor loop_executor, metrics::Instruments& instruments)
        : loop(std::move(loop_executor)), metrics(instruments) {}

    void write_forever();
    void write(const std::deque<Pending>& group);

    asio::any_io_executor loop;
    metrics::Instruments& metrics;
    std::unique_ptr<rocksdb::DB> db;
    std::mutex mutex;
    std::condition_variable wake;
    std::deque<Pending> queue;
    bool closing = false;
    std::thread writer;
};

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
    log::error("the store cannot be written; bpgd ends so that the next start reads the truth",
               {{"why", status.ToString()}});
    // Not exit(): no destructor may run on a state that the disk does not confirm.
    ::_exit(1);
}

void Store::Impl::write_forever() {
    std::unique_lock lock(mutex);
    while (true) {
        wake.wait(lock, [this] { return closing || !queue.empty(); });
        if (queue.empty()) return;
        std::deque<Pending> group;
        while (!queue.empty() && group.size() < kGroupMax) {
            group.push_back(std::move(queue.front()));
            queue.pop_front();
        }
        lock.unlock();
        write(group);
        for (Pending& pending : group)
            pending.resume();
        group.clear();
        lock.lock();
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
    rocksdb::DB* raw = nullptr;
    const rocksdb::Status status = rocksdb::DB::Open(store_options(), directory.string(), &raw);
    if (!status.ok()) throw open_error(directory, status);
    impl_->db.reset(raw);
    const auto schema = get(std::string(kSchemaKey));
    if (!schema || *schema != std::to_string(kSchema)) {
        throw Error(ErrorKind::kInvalid, "store_newer",
                    "the store in " + directory.string() + " is of another version",
                    "it has schema " + schema.value_or("none") + ", this bpgd knows " +
                        std::to_string(kSchema),
                    "run the version of bpgd that wrote it, or a later one");
    }
    impl_->writer = std::thread([impl = impl_.get()] { impl->write_forever(); });
}

Store::~Store() {
    close();
}

void Store::close() {
    if (!impl_->writer.joinable()) return;
    {
        const std::lock_guard lock(impl_->mutex);
        impl_->closing = true;
    }
    impl_->wake.notify_one();
    impl_->writer.join();
    impl_->db.reset();
}

asio::awaitable<void> Store::commit(Batch batch) {
    if (batch.empty()) co_return;
    auto initiate = [this, &batch](auto handler) {
        // std::function wants copyable targets; the handler is move-only and used once.
        auto shared = std::make_shared<decltype(handler)>(std::move(handler));
        auto resume = [loop = impl_->loop, shared,
                       guard = asio::make_work_guard(impl_->loop)]() mutable {
            asio::post(loop, std::move(*shared));
        };
        {
            const std::lock_guard lock(impl_->mutex);
            impl_->queue.push_back({std::move(batch), std::move(resume)});
        }
        impl_->wake.notify_one();
    };
    co_await asio::async_initiate<const asio::use_awaitable_t<>&, void()>(std::move(initiate),
                                                                          asio::use_awaitable);
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
