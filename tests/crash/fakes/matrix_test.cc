// The crash matrix against fakes: every operation, with every step failing or none, with the daemon
// vanishing at every point it passes, and again at points of the resumed run; and cancelled at
// every point, with the daemon vanishing behind it; and with each change of the outside world in
// turn taking effect unanswered, as when a command times out. The points come from the step tables
// by running them. After the last run the outside world must equal the catalog.
#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <cstdlib>
#include <fstream>
#include <random>

#include "jobs/engine.h"
#include "jobs/history.h"
#include "jobs/runner.h"
#include "metrics/instruments.h"
#include "orchestrator/base/files.h"
#include "orchestrator/base/id.h"
#include "orchestrator/base/log.h"
#include "orchestrator/operations/operations.h"
#include "orchestrator/operations/requests.h"
#include "orchestrator/operations/shared_snapshots.h"
#include "scheduler/schedules.h"
#include "tests/fakes/world.h"

namespace bpg {
namespace {

/// Not a std::exception, so that nothing in the daemon may catch it.
struct SimulatedCrash {};

constexpr std::chrono::milliseconds kNotKept{0};

/// What an operation is asked for with.
struct Desk {
    operations::Requests& requests;
    const catalog::Catalog& catalog;
    jobs::Queue& queue;
};
using Submit = std::function<asio::awaitable<jobs::Job>(Desk)>;

/// One life of the daemon over a store on disk and a world that outlives it.
class Life {
  public:
    Life(const std::filesystem::path& directory, fakes::World& world,
         std::chrono::milliseconds keep)
        : secrets_(directory / "secrets"),
          pool_(std::make_unique<BlockingPool>(1)),
          storage_(fakes::make_storage(world)),
          runtime_(fakes::make_runtime(world)),
          postgres_(fakes::make_postgres(world)),
          data_directories_(fakes::make_data_directories(world)),
          archives_(fakes::make_archives(world)),
          services_{catalog_,   shared_snapshots_,
                    *storage_,  *runtime_,
                    *postgres_, *data_directories_,
                    *archives_, secrets_,
                    schedules_, *pool_,
                    clock_,     settings(directory, keep)},
          loop_(std::make_unique<asio::io_context>(1)),
          store_(directory / "store", loop_->get_executor(), metrics_),
          logs_(directory / "job-logs", 1U << 20U),
          history_(store_, logs_, {kNotKept, kNotKept, kNotKept}),
          queue_(store_, registry_, clock_, {}),
          admission_(queue_, slots_, pauses_),
          engine_(queue_, admission_, slots_, registry_, clock_, timeline_, metrics_, crash_,
                  limits()),
          runner_(loop_->get_executor(), queue_, engine_, admission_, slots_, clock_,
                  [this](std::exception_ptr) {
                      crashed_ = true;
                      loop_->stop();
                  }),
          requests_(services_, queue_, {7000, 7100, [](int) { return true; }}, {"15", ""}) {
        operations::register_operations(registry_, services_);
        registry_.add<jobs::HistoryPrune>([this](jobs::JobContext&) {
            return std::make_unique<jobs::HistoryPrune>(history_, *pool_, clock_);
        });
        catalog_.load(store_);
        queue_.load();
        jobs::Batch nobody_commits_it;
        schedules_.put(nightly(), nobody_commits_it);
    }
    ~Life() {
        pool_.reset();
        store_.close();
        loop_.reset();
    }

    /// What a prune goes by.
    static scheduler::Schedule nightly() {
        scheduler::Schedule schedule;
        schedule.name = "nightly";
        schedule.cron = "@yearly";
        schedule.op = "snapshot";
        schedule.target = "prod/main";
        schedule.retention.last = 1;
        schedule.days = 0;
        return schedule;
    }

    /// Vanishes at the n-th point passed (1 is the first); 0 never does.
    void crash_at(int n) { crash_at_ = n; }
    /// Asks for the oldest open job to be cancelled at the n-th point passed.
    void cancel_at(int n) { cancel_at_ = n; }
    void fail_at(const std::string& step) { crash_.arm_failure(step); }
    /// Something else is asked for at the n-th point passed.
    void ask_at(int n, Submit submit) {
        ask_at_ = n;
        asked_ = std::move(submit);
    }
    /// At once, until its job is handed in.
    asio::awaitable<void> ask(Submit submit) {
        ++asking_;
        try {
            co_await submit({requests_, catalog_, queue_});
        } catch (const Error& error) {
            submit_failure_ = error.info();
        }
        --asking_;
        queue_.changed().notify();
    }

    /// Submits, if given, and runs until no job is open or the daemon vanished.
    void run(Submit submit) {
        crash_.on_reach([this](const std::string& point) { pass(point); });
        asio::co_spawn(*loop_, runner_.run(), [](std::exception_ptr) {});
        asio::co_spawn(*loop_, until_idle(std::move(submit)), [this](std::exception_ptr failure) {
            if (failure) submit_failure_ = describe(failure);
            loop_->stop();
        });
        loop_->run();
    }
    bool crashed() const { return crashed_; }
    int passed() const { return passed_; }
    const std::string& last_point() const { return last_point_; }
    const catalog::Catalog& catalog() const { return catalog_; }
    const jobs::Queue& queue() const { return queue_; }
    const jobs::Store& store() const { return store_; }
    const std::filesystem::path& job_logs() const { return logs_.directory(); }
    const std::optional<ErrorInfo>& submit_failure() const { return submit_failure_; }
    const SecretStore& secrets() const { return secrets_; }

  private:
    void pass(const std::string& point) {
        last_point_ = point;
        ++passed_;
        if (passed_ == cancel_at_ && !queue_.open_jobs().empty()) {
            const std::string oldest = queue_.open_jobs().begin()->second->id;
            // Whether it can be refused is another test's business.
            asio::co_spawn(*loop_, queue_.request_cancel(oldest, {}),
                           [](std::exception_ptr, const jobs::Job&) {});
        }
        if (passed_ == ask_at_) {
            asio::co_spawn(*loop_, ask(asked_), [](std::exception_ptr) {});
        }
        if (passed_ == crash_at_) throw SimulatedCrash{};
    }
    static operations::Settings settings(const std::filesystem::path& directory,
                                         std::chrono::milliseconds keep) {
        operations::Settings settings;
        settings.trash_keep = keep;
        settings.socket_root = directory / "i";
        settings.log_root = directory / "logs";
        return settings;
    }
    static jobs::EngineLimits limits() {
        jobs::EngineLimits limits;
        limits.backoff = [](int) { return std::chrono::milliseconds(0); };
        return limits;
    }
    asio::awaitable<void> until_idle(Submit submit) {
        if (submit) {
            const jobs::Job job = co_await submit({requests_, catalog_, queue_});
            std::filesystem::create_directories(logs_.directory());
            // There is none where all that was to be deleted is gone.
            if (!job.id.empty()) std::ofstream(logs_.path(job.id)) << "it was asked for\n";
        }
        while (!queue_.open_jobs().empty() || asking_ > 0) {
            const auto& open = queue_.open_jobs();
            if (!open.empty() && open.begin()->second->state == jobs::JobState::kStuck) co_return;
            co_await queue_.changed().wait_until(std::chrono::steady_clock::time_point::max());
        }
    }

    SystemClock clock_;
    metrics::Instruments metrics_;
    SecretStore secrets_;
    std::unique_ptr<BlockingPool> pool_;
    std::unique_ptr<storage::Storage> storage_;
    std::unique_ptr<runtime::Runtime> runtime_;
    std::unique_ptr<postgres::Postgres> postgres_;
    std::unique_ptr<postgres::DataDirectories> data_directories_;
    std::unique_ptr<wal::Archives> archives_;
    catalog::Catalog catalog_;
    operations::SharedSnapshots shared_snapshots_{catalog_};
    scheduler::Schedules schedules_;
    operations::Services services_;
    jobs::OperationRegistry registry_;
    jobs::CrashPoints crash_;
    std::unique_ptr<asio::io_context> loop_;
    jobs::Store store_;
    jobs::JobLogs logs_;
    jobs::History history_;
    jobs::Queue queue_;
    jobs::Slots slots_{4};
    jobs::Pauses pauses_{store_};
    jobs::Admission admission_;
    jobs::Timeline timeline_;
    jobs::Engine engine_;
    jobs::Runner runner_;
    operations::Requests requests_;
    bool crashed_ = false;
    int passed_ = 0;
    int crash_at_ = 0;
    int cancel_at_ = 0;
    int ask_at_ = 0;
    Submit asked_;
    int asking_ = 0;
    std::string last_point_;
    std::optional<ErrorInfo> submit_failure_;
};

operations::BranchCreateRequest create_request(const std::string& ref, const std::string& from,
                                               bool fast = false) {
    operations::BranchCreateRequest request;
    request.ref = ref;
    request.from = from;
    request.fast = fast;
    return request;
}

operations::BranchDeleteRequest delete_request(const std::string& ref) {
    operations::BranchDeleteRequest request;
    request.ref = ref;
    return request;
}

asio::awaitable<jobs::Job> create_database(Desk desk) {
    return desk.requests.db_create({"prod", "", ""}, {});
}
asio::awaitable<jobs::Job> create_branch(Desk desk) {
    return desk.requests.branch_create(create_request("prod/dev", "prod/main"), {});
}
asio::awaitable<jobs::Job> create_fast_branch(Desk desk) {
    return desk.requests.branch_create(create_request("prod/dev", "prod/main", true), {});
}
asio::awaitable<jobs::Job> stop_main(Desk desk) {
    return desk.requests.control("stop", "prod/main", false, {});
}
asio::awaitable<jobs::Job> delete_branch(Desk desk) {
    return desk.requests.branch_delete(delete_request("prod/dev"), {});
}
asio::awaitable<jobs::Job> delete_database(Desk desk) {
    return desk.requests.db_delete("prod", true, {});
}

/// One that goes ahead and two that arrive while its snapshot is taken: these share one.
asio::awaitable<jobs::Job> create_three(operations::Requests& requests, bool fast) {
    jobs::Job job;
    for (const char* ref : {"prod/dev", "prod/second", "prod/third"}) {
        const auto request = create_request(ref, "prod/main", fast);
        job = co_await requests.branch_create(request, {});
    }
    co_return job;
}
asio::awaitable<jobs::Job> create_three_branches(Desk desk) {
    return create_three(desk.requests, false);
}
asio::awaitable<jobs::Job> create_three_fast_branches(Desk desk) {
    return create_three(desk.requests, true);
}
/// Every branch but main, at once.
asio::awaitable<jobs::Job> delete_three_branches(Desk desk) {
    jobs::Job job;
    for (const char* ref : {"prod/dev", "prod/second", "prod/third"}) {
        try {
            const auto request = delete_request(ref);
            job = co_await desk.requests.branch_delete(request, {});
        } catch (const Error& error) {
            if (error.code() != "branch_not_found") throw;  // gone in the first round
        }
    }
    co_return job;
}

asio::awaitable<jobs::Job> create_child(Desk desk) {
    return desk.requests.branch_create(create_request("prod/child", "prod/dev"), {});
}
asio::awaitable<jobs::Job> stop_dev(Desk desk) {
    return desk.requests.control("stop", "prod/dev", false, {});
}
asio::awaitable<jobs::Job> sync_dev(Desk desk) {
    return desk.requests.branch_sync("prod/dev", false, {});
}
asio::awaitable<jobs::Job> promote_dev(Desk desk) {
    return desk.requests.branch_promote("prod/dev", "old", {});
}
asio::awaitable<jobs::Job> delete_old_main(Desk desk) {
    operations::BranchDeleteRequest request = delete_request("prod/old");
    request.force = true;
    return desk.requests.branch_delete(request, {});
}
asio::awaitable<jobs::Job> delete_family(Desk desk) {
    operations::BranchDeleteRequest request = delete_request("prod/dev");
    request.recursive = true;
    return desk.requests.branch_delete(request, {});
}
asio::awaitable<jobs::Job> bring_dev_back(Desk desk) {
    return desk.requests.undo_delete("prod/dev", "", {});
}
asio::awaitable<jobs::Job> bring_database_back(Desk desk) {
    return desk.requests.undo_delete("prod", "", {});
}
asio::awaitable<jobs::Job> bring_incarnation_back(Desk desk) {
    const auto trash = desk.catalog.trash();
    const std::string id = trash.empty() ? "none" : trash.front().trash.item;
    return desk.requests.undo_delete(id, "prod/before", {});
}
asio::awaitable<jobs::Job> delete_child(Desk desk) {
    return desk.requests.branch_delete(delete_request("prod/child"), {});
}
/// With all of it that went to the trash before it.
asio::awaitable<jobs::Job> purge_database(Desk desk) {
    return desk.requests.trash_purge("prod", {});
}
asio::awaitable<jobs::Job> purge_trash(Desk desk) {
    return desk.requests.trash_purge("", {});
}
asio::awaitable<jobs::Job> take_snapshot(Desk desk) {
    return desk.requests.snapshot("prod/main", "one", "user", {});
}
/// The one that was taken by hand.
std::string own_snapshot(const catalog::Catalog& catalog) {
    for (const auto& [id, snapshot] : catalog.snapshots()) {
        if (snapshot.created_by == "user") return id;
    }
    return "none";
}
asio::awaitable<jobs::Job> delete_snapshot(Desk desk) {
    return desk.requests.snapshot_delete(own_snapshot(desk.catalog), false, {});
}
asio::awaitable<jobs::Job> create_from_snapshot(Desk desk) {
    operations::BranchCreateRequest request = create_request("prod/dev", "prod/main");
    request.snapshot = own_snapshot(desk.catalog);
    return desk.requests.branch_create(request, {});
}
asio::awaitable<jobs::Job> rotate_password(Desk desk) {
    return desk.requests.password_rotate("prod/main", {});
}

asio::awaitable<jobs::Job> prune_history(Desk desk) {
    jobs::Submission submission;
    submission.operation = std::string(jobs::HistoryPrune::kName);
    submission.data = jobs::HistoryPrune::State{};
    return desk.queue.submit(std::move(submission), jobs::Batch{});
}

/// What holds however the operation ended.
using Check = std::function<void(const catalog::Catalog& catalog)>;

void expect_running(const catalog::Catalog& catalog, const std::string& ref) {
    const catalog::Branch* branch = catalog.find_branch(ref);
    ASSERT_NE(branch, nullptr) << ref << " is gone";
    EXPECT_TRUE(branch->should_run) << ref;
    EXPECT_GT(branch->port, 0) << ref;
}
void dev_is_old_or_new(const catalog::Catalog& catalog) {
    expect_running(catalog, "prod/dev");
    const auto trash = catalog.trash();
    const int number = catalog.branch("prod/dev").incarnation_number;
    EXPECT_EQ(number, 1 + static_cast<int>(trash.size()));
    for (const catalog::TrashItem& item : trash)
        EXPECT_EQ(item.trash.kind, "incarnation");
}
void stopped_dev_is_old_or_new(const catalog::Catalog& catalog) {
    const catalog::Branch* branch = catalog.find_branch("prod/dev");
    ASSERT_NE(branch, nullptr);
    EXPECT_EQ(branch->state, catalog::BranchState::kStopped);
    EXPECT_EQ(branch->incarnation_number, 1 + static_cast<int>(catalog.trash().size()));
}
void names_are_old_or_new(const catalog::Catalog& catalog) {
    expect_running(catalog, "prod/main");
    const bool is_switched = catalog.find_branch("prod/old") != nullptr;
    EXPECT_NE(catalog.find_branch("prod/dev") != nullptr, is_switched);
    expect_running(catalog, is_switched ? "prod/old" : "prod/dev");
    const catalog::Branch& main = catalog.branch("prod/main");
    EXPECT_TRUE(main.parent_id.empty());
    const catalog::Branch& other = catalog.branch(is_switched ? "prod/old" : "prod/dev");
    EXPECT_EQ(other.parent_id, main.id);
    EXPECT_EQ(other.is_protected, is_switched);
    EXPECT_NE(main.port, other.port);
    EXPECT_NE(main.password(), other.password());
}
void incarnation_is_there_or_in_the_trash(const catalog::Catalog& catalog) {
    expect_running(catalog, "prod/dev");
    EXPECT_NE(catalog.find_branch("prod/before") != nullptr, catalog.trash().size() == 1);
}
void dev_is_there_or_in_the_trash(const catalog::Catalog& catalog) {
    const bool is_there = catalog.find_branch("prod/dev") != nullptr;
    EXPECT_EQ(catalog.trash().size(), is_there ? 0U : 1U);
    if (is_there) expect_running(catalog, "prod/dev");
}
void database_is_there_or_in_the_trash(const catalog::Catalog& catalog) {
    const bool is_there = catalog.find_database("prod") != nullptr;
    EXPECT_EQ(catalog.trash().size(), is_there ? 0U : 1U);
    if (!is_there) return;
    expect_running(catalog, "prod/main");
    expect_running(catalog, "prod/dev");
}
void nothing_is_left(const catalog::Catalog& catalog) {
    EXPECT_TRUE(catalog.all_branches().empty());
    EXPECT_TRUE(catalog.snapshots().empty());
    EXPECT_TRUE(catalog.trash().empty());
}
void main_is_as_it_was(const catalog::Catalog& catalog) {
    expect_running(catalog, "prod/main");
    EXPECT_EQ(catalog.branch("prod/main").incarnation_number, 1);
}

asio::awaitable<jobs::Job> create_at_a_time(Desk desk) {
    operations::BranchCreateRequest request = create_request("prod/dev", "prod/main");
    request.target.kind = "time";
    request.target.time = desk.requests.now();
    return desk.requests.branch_create(std::move(request), {});
}
asio::awaitable<jobs::Job> take_scheduled_snapshot(Desk desk) {
    return desk.requests.snapshot("prod/main", "", "schedule:nightly", {});
}
asio::awaitable<jobs::Job> prune(Desk desk) {
    return desk.requests.prune({"prod/main", "nightly", false, ""}, {});
}
/// The newest of its own, and whatever others made.
void one_or_all_of_the_scheduled_are_left(const catalog::Catalog& catalog) {
    main_is_as_it_was(catalog);
    std::size_t scheduled = 0;
    std::size_t others = 0;
    for (const auto& [id, snapshot] : catalog.snapshots())
        ++(snapshot.created_by == "schedule:nightly" ? scheduled : others);
    EXPECT_TRUE(scheduled == 1 || scheduled == 3) << scheduled;
    EXPECT_GE(others, 1U);
}
asio::awaitable<jobs::Job> clean_wal(Desk desk) {
    return desk.requests.wal_cleanup("prod/main", 0, {});
}

struct Case {
    std::string name;
    std::string operation;
    bool atomic;
    std::vector<Submit> before;
    Submit submit;
    bool undone_on_failure;  ///< creates are undone; deletes go forward and are repeated
    bool several = false;    ///< also with a step that fails in one of the jobs only
    bool snapshots_hold = true;
    std::chrono::milliseconds keep{0};  ///< trash.keep
    unsigned one_in = 4;                ///< the short form takes one in so many runs
    Check check = {};
};

/// With a trash that keeps things.
std::vector<Case> lifecycle_cases() {
    std::vector<Case> all;
    for (const bool atomic : {true, false}) {
        const auto add = [&](const std::string& name, const std::string& operation,
                             std::vector<Submit> before, Submit submit, bool undone, Check check) {
            Case made{name + (atomic ? "Atomic" : "Copied"),
                      operation,
                      atomic,
                      std::move(before),
                      std::move(submit),
                      undone};
            made.keep = std::chrono::hours(24);
            made.one_in = 6;
            made.check = std::move(check);
            all.push_back(std::move(made));
        };
        const std::vector<Submit> dev{create_database, create_branch};
        add("BranchDeleteKept", "branch-delete", dev, delete_branch, false,
            dev_is_there_or_in_the_trash);
        add("DbDeleteKept", "db-delete", dev, delete_database, false,
            database_is_there_or_in_the_trash);
        add("BranchSync", "branch-sync", dev, sync_dev, true, dev_is_old_or_new);
        add("BranchSyncOfStopped", "branch-sync", {create_database, create_branch, stop_dev},
            sync_dev, true, stopped_dev_is_old_or_new);
        add("BranchSyncWithChild", "branch-sync", {create_database, create_branch, create_child},
            sync_dev, true, dev_is_old_or_new);
        add("BranchPromote", "branch-promote", dev, promote_dev, true, names_are_old_or_new);
        add("UndoDelete", "undo-delete", {create_database, create_branch, delete_branch},
            bring_dev_back, true, dev_is_there_or_in_the_trash);
        add("UndoDeleteOfDatabase", "undo-delete",
            {create_database, create_branch, delete_database}, bring_database_back, true,
            database_is_there_or_in_the_trash);
        add("UndoDeleteOfIncarnation", "undo-delete", {create_database, create_branch, sync_dev},
            bring_incarnation_back, true, incarnation_is_there_or_in_the_trash);
        add("TrashPurgeOfDatabase", "trash-purge",
            {create_database, create_branch, create_child, delete_child, sync_dev, delete_database},
            purge_database, false, nothing_is_left);
        add("TrashPurge", "trash-purge",
            {create_database, create_branch, create_child, delete_family}, purge_trash, false,
            main_is_as_it_was);
        add("TrashPurgeOfOldMain", "trash-purge",
            {create_database, create_branch, promote_dev, delete_old_main}, purge_trash, false,
            main_is_as_it_was);
        add("TrashPurgeOfHeir", "trash-purge",
            {create_database, create_branch, promote_dev, delete_old_main, purge_trash,
             delete_database},
            purge_trash, false, nothing_is_left);
        add("HistoryPrune", "history-prune", dev, prune_history, true, main_is_as_it_was);
        add("PasswordRotate", "password-rotate", {create_database}, rotate_password, true,
            main_is_as_it_was);
        if (!atomic) continue;
        add("SnapshotTake", "snapshot", {create_database}, take_snapshot, true, main_is_as_it_was);
        add("SnapshotDelete", "snapshot-delete", {create_database, take_snapshot}, delete_snapshot,
            false, main_is_as_it_was);
        add("BranchCreateFromSnapshot", "branch-create", {create_database, take_snapshot},
            create_from_snapshot, true, main_is_as_it_was);
        add("BranchCreateAtATime", "branch-create", {create_database, take_snapshot},
            create_at_a_time, true, main_is_as_it_was);
        add("BranchCreateAtATimeOfStopped", "branch-create", {create_database, stop_main},
            create_at_a_time, true, {});
        add("Prune", "prune",
            {create_database, take_snapshot, take_scheduled_snapshot, take_scheduled_snapshot,
             take_scheduled_snapshot},
            prune, false, one_or_all_of_the_scheduled_are_left);
        add("WalCleanup", "wal-cleanup", {create_database, take_snapshot}, clean_wal, false,
            main_is_as_it_was);
    }
    return all;
}

std::vector<Case> cases() {
    std::vector<Case> all;
    for (const bool atomic : {true, false}) {
        const std::string suffix = atomic ? "Atomic" : "Copied";
        all.push_back({"DbCreate" + suffix, "db-create", atomic, {}, create_database, true});
        all.push_back({"BranchCreate" + suffix,
                       "branch-create",
                       atomic,
                       {create_database},
                       create_branch,
                       true});
        all.push_back({"BranchCreateOfStopped" + suffix,
                       "branch-create",
                       atomic,
                       {create_database, stop_main},
                       create_branch,
                       true});
        all.push_back({"BranchDelete" + suffix,
                       "branch-delete",
                       atomic,
                       {create_database, create_branch},
                       delete_branch,
                       false});
        all.push_back({"DbDelete" + suffix,
                       "db-delete",
                       atomic,
                       {create_database, create_branch},
                       delete_database,
                       false});
    }
    all.push_back({"BranchCreateFastAtomic",
                   "branch-create",
                   true,
                   {create_database},
                   create_fast_branch,
                   true});
    for (const bool snapshots_hold : {true, false}) {
        const std::string suffix = snapshots_hold ? "LikeZfs" : "LikeBtrfs";
        const auto add = [&](const std::string& name, const std::string& operation,
                             std::vector<Submit> before, Submit submit, bool undone) {
            all.push_back({name + suffix, operation, true, std::move(before), std::move(submit),
                           undone, true, snapshots_hold});
        };
        add("BranchCreateShared", "branch-create", {create_database}, create_three_branches, true);
        add("BranchCreateSharedFast", "branch-create", {create_database},
            create_three_fast_branches, true);
        add("BranchCreateSharedOfStopped", "branch-create", {create_database, stop_main},
            create_three_branches, true);
        add("BranchDeleteShared", "branch-delete", {create_database, create_three_branches},
            delete_three_branches, false);
    }
    return all;
}

/// One in so many runs of a matrix, by a seed that is told; in the long form more, or all of them.
class Sample {
  public:
    explicit Sample(unsigned one_in, unsigned one_in_when_long = 1)
        : one_in_(std::getenv("BPG_LONG") != nullptr ? one_in_when_long : one_in) {
        const char* given = std::getenv("BPG_SEED");
        if (given != nullptr) seed_ = static_cast<unsigned>(std::atoi(given));
        random_.seed(seed_);
    }
    std::string seed() const { return "BPG_SEED=" + std::to_string(seed_); }
    bool takes_next() { return random_() % one_in_ == 0; }

  private:
    unsigned one_in_;
    unsigned seed_ = std::random_device{}();
    std::mt19937 random_;
};

class CrashMatrix : public ::testing::TestWithParam<Case> {
  protected:
    void SetUp() override {
        // Memory-backed where there is one: the matrix is about order, not about this disk.
        const std::filesystem::path base = std::filesystem::exists("/dev/shm")
                                               ? "/dev/shm"
                                               : std::filesystem::temp_directory_path();
        directory_ = base / ("bpg-matrix-" + new_id());
        std::filesystem::create_directories(directory_);
        log::set_level(log::Level::kError);
        // What stands before the operation is made once and copied for every run.
        begin_ = directory_ / "begin";
        std::filesystem::create_directories(begin_ / "logs");
        jobs::Store::create(begin_ / "store");
        begin_world_.atomic = GetParam().atomic;
        begin_world_.snapshots_hold = GetParam().snapshots_hold;
        for (const Submit& submit : GetParam().before) {
            Life life(begin_, begin_world_, GetParam().keep);
            life.run(submit);
            ASSERT_FALSE(life.submit_failure()) << life.submit_failure()->message;
        }
    }
    void TearDown() override { remove_tree(directory_); }

    /// What happens to the operation; 0 and empty: it does not.
    struct Trouble {
        std::string failing = {};  ///< this step fails
        int first = 0;             ///< the daemon vanishes at this point,
        int second = 0;            ///< and the next one at this point of its own
        int cancel = 0;            ///< at this point it is asked to be cancelled
        int unanswered = 0;        ///< this change takes effect, and the daemon is told it did not
    };

    /// Returns the points passed by the first life, or of the second where the first crashed.
    int play(const Trouble& trouble, std::string& story) {
        const auto& [failing, first, second, cancel, unanswered] = trouble;
        const std::filesystem::path place = directory_ / "run";
        remove_tree(place);
        std::filesystem::copy(begin_, place, std::filesystem::copy_options::recursive);
        fakes::World world = begin_world_;
        world.changes = 0;
        world.unanswered_change = unanswered;
        int passed = 0;
        bool crashed = true;
        for (int life_number = 0; crashed; ++life_number) {
            Life life(place, world, GetParam().keep);
            const int at = life_number == 0 ? first : life_number == 1 ? second : 0;
            life.crash_at(at);
            if (life_number == 0) life.cancel_at(cancel);
            if (!failing.empty()) life.fail_at(failing);
            life.run(life_number == 0 ? GetParam().submit : Submit{});
            crashed = life.crashed();
            if (life_number < 2) passed = life.passed();
            story += crashed ? " †" + life.last_point() : " end";
            world.backups.clear();  // sessions end with the process
        }
        if (cancel != 0) story += " cancelled at " + std::to_string(cancel);
        if (unanswered != 0) story += " unanswered " + std::to_string(unanswered);
        changes_ = world.changes;
        if (!failing.empty() && !GetParam().undone_on_failure) {
            expect_that_snapshots_are_there(place, world, story);
            story += " again";
            if (!run_again(place, world, GetParam().submit)) run_again(place, world, purge_trash);
        }
        expect_settled(place, world, failing, cancel != 0, story);
        return passed;
    }

    /// What a failed operation has destroyed is on record no more: branches would be made of it.
    void expect_that_snapshots_are_there(const std::filesystem::path& place, fakes::World& world,
                                         const std::string& story) {
        const bool is_about_snapshots =
            GetParam().operation == "snapshot-delete" || GetParam().operation == "prune";
        if (!is_about_snapshots) return;
        Life life(place, world, GetParam().keep);
        for (const auto& [id, snapshot] : life.catalog().snapshots())
            EXPECT_TRUE(world.snapshots.contains({snapshot.volume, id})) << id << story;
    }

    /// False when something is in the trash that nobody wants to keep: the housekeeper's to remove.
    static bool run_again(const std::filesystem::path& place, fakes::World& world,
                          const Submit& submit) {
        Life life(place, world, GetParam().keep);
        life.run(submit);
        return GetParam().keep.count() > 0 || life.catalog().trash().empty();
    }

    void expect_settled(const std::filesystem::path& place, fakes::World& world,
                        const std::string& failing, bool was_cancelled, const std::string& story) {
        Life life(place, world, GetParam().keep);
        for (const std::string& violation : world.violations)
            ADD_FAILURE() << violation << story;
        EXPECT_TRUE(life.queue().open_jobs().empty()) << "an open job is left:" << story;
        EXPECT_TRUE(world.building.empty()) << "a build place is left:" << story;
        const catalog::Catalog& catalog = life.catalog();
        std::set<std::string> volumes;
        std::set<std::string> running;
        std::set<std::string> secrets;
        std::set<std::string> may_run;  // a failed one that is to run is the supervisor's
        for (const auto& [id, branch] : catalog.all_branches()) {
            volumes.insert(branch.volume);
            secrets.insert(branch.password());
            if (branch.state == catalog::BranchState::kRunning) running.insert(id);
            const bool failed = branch.state == catalog::BranchState::kFailed && branch.should_run;
            if (failed) may_run.insert(id);
            EXPECT_NE(branch.state, catalog::BranchState::kCreating) << story;
            EXPECT_NE(branch.state, catalog::BranchState::kDeleting) << story;
            EXPECT_TRUE(branch.replaces.empty()) << "half a sync is left:" << story;
            if (branch.trash) EXPECT_EQ(branch.port, 0) << story;
        }
        std::set<std::string> real_volumes;
        for (const auto& [name, volume] : world.volumes)
            real_volumes.insert(name);
        EXPECT_EQ(volumes, real_volumes) << story;
        for (const auto& [volume, incarnation] : world.archives)
            EXPECT_TRUE(volumes.contains(volume)) << "an archive is left: " << volume << story;
        std::set<std::string> real_running;
        for (const auto& [id, on] : world.running) {
            const catalog::Branch* branch = catalog.branch_by_id(id);
            EXPECT_TRUE(branch != nullptr && branch->volume == on)
                << id << " runs on " << on << story;
            if (!may_run.contains(id)) real_running.insert(id);
        }
        EXPECT_EQ(running, real_running) << story;
        if (GetParam().check) GetParam().check(catalog);
        std::set<std::pair<std::string, std::string>> snapshots;
        for (const auto& [id, snapshot] : catalog.snapshots())
            snapshots.emplace(snapshot.volume, id);
        std::set<std::pair<std::string, std::string>> real_snapshots;
        for (const auto& [key, snapshot] : world.snapshots)
            real_snapshots.insert(key);
        EXPECT_EQ(snapshots, real_snapshots) << story;
        std::set<std::string> real_secrets;
        std::error_code none;
        for (const auto& file : std::filesystem::directory_iterator(place / "secrets", none)) {
            real_secrets.insert(file.path().filename().string());
        }
        EXPECT_EQ(secrets, real_secrets) << story;
        expect_whole_history(life, failing, was_cancelled, story);
        if (was_cancelled) {
            expect_outcome(life, story);
            return;
        }
        if (failing.find(':') != std::string::npos) return;  // which of them failed is open
        const bool made = failing.empty() == GetParam().undone_on_failure;
        const bool has_dev = catalog.databases().size() == 1 && catalog.find_branch("prod/dev");
        if (GetParam().operation == "branch-create") EXPECT_EQ(has_dev, made) << story;
        if (GetParam().operation == "branch-delete") EXPECT_FALSE(has_dev) << story;
        if (GetParam().operation == "db-create")
            EXPECT_EQ(!catalog.databases().empty(), made) << story;
        if (GetParam().operation == "db-delete") EXPECT_TRUE(catalog.databases().empty()) << story;
    }

    /// Whatever is kept of a job, the job is listed; a prune removes all that had ended, or none.
    static void expect_whole_history(const Life& life, const std::string& failing,
                                     bool was_cancelled, const std::string& story) {
        std::set<std::string> ids;
        std::set<std::string> numbers;
        life.store().scan(jobs::kinds::kJob, [&](std::string_view key, std::string_view value) {
            ids.insert(nlohmann::json::parse(value).at("id"));
            numbers.emplace(key.substr(jobs::kinds::kJob.size()));
            return true;
        });
        const auto expect_listed = [&](std::string_view kind, const std::set<std::string>& listed) {
            life.store().scan(kind, [&](std::string_view key, std::string_view) {
                const std::string_view owner = key.substr(kind.size());
                const std::size_t length = kind == jobs::kinds::kEvent ? 8 : owner.size();
                EXPECT_TRUE(listed.contains(std::string(owner.substr(0, length))))
                    << kind << " of a job that is gone" << story;
                return true;
            });
        };
        expect_listed(jobs::kinds::kJobId, ids);
        expect_listed(jobs::kinds::kEvent, numbers);
        for (const auto& log : std::filesystem::directory_iterator(life.job_logs()))
            EXPECT_TRUE(ids.contains(log.path().stem())) << "a log of a job that is gone" << story;
        if (GetParam().operation != jobs::HistoryPrune::kName || was_cancelled) return;
        EXPECT_EQ(ids.size(), failing.empty() ? 1 : GetParam().before.size() + 1) << story;
    }

    /// What was cancelled is not there, or still there; whatever was not is as usual.
    static void expect_outcome(const Life& life, const std::string& story) {
        jobs::JobFilter all;
        const std::vector<jobs::Job> listed =
            life.queue().finish_list(life.queue().begin_list(all));
        for (const jobs::Job& job : listed) {
            const bool makes_or_ends = job.operation.ends_with("-create") ||
                                       job.operation == "branch-delete" ||
                                       job.operation == "db-delete";
            if (job.operation != GetParam().operation || !makes_or_ends) continue;
            const bool cancelled = job.state == jobs::JobState::kCancelled;
            EXPECT_TRUE(cancelled || job.state == jobs::JobState::kSucceeded)
                << to_string(job.state) << story;
            const bool is_there = job.target.find('/') == std::string::npos
                                      ? life.catalog().find_database(job.target) != nullptr
                                      : life.catalog().find_branch(job.target) != nullptr;
            EXPECT_EQ(is_there, cancelled != GetParam().undone_on_failure)
                << job.target << " " << to_string(job.state) << story;
        }
    }

    std::vector<std::string> failures() const {
        jobs::OperationRegistry registry;
        operations::describe_operations(registry);
        registry.add<jobs::HistoryPrune>(
            [](jobs::JobContext&) -> std::unique_ptr<jobs::HistoryPrune> { return nullptr; });
        std::vector<std::string> all{""};
        for (const jobs::StepName& step : registry.find(GetParam().operation)->steps) {
            const std::string point = GetParam().operation + "." + std::string(step.name);
            all.push_back(point);
            for (const char* nth : {":1", ":2", ":3"}) {
                if (GetParam().several) all.push_back(point + nth);
            }
        }
        return all;
    }

    std::filesystem::path directory_;
    std::filesystem::path begin_;
    fakes::World begin_world_;
    int changes_ = 0;  ///< that the last play made to the world
};

TEST_P(CrashMatrix, EndsCompleteOrLeavesNoTraceWhereverTheDaemonVanishes) {
    int runs = 0;
    Sample sample(GetParam().several ? 12 : GetParam().one_in);
    SCOPED_TRACE(sample.seed());
    for (const std::string& failing : failures()) {
        std::string story = " [" + failing + "]";
        const int points = play({.failing = failing}, story);
        ASSERT_GT(points, 0);
        for (int first = 1; first <= points; ++first) {
            if (!sample.takes_next()) continue;
            ++runs;
            story = " [" + failing + "]";
            play({.failing = failing, .first = first}, story);
            if (HasFailure()) FAIL() << "after" << story;
        }
    }
    RecordProperty("runs", runs);
}

TEST_P(CrashMatrix, EndsCompleteOrLeavesNoTraceWhenTheResumedRunVanishesToo) {
    // Of three jobs at once the pairs are too many for one evening: a sample in the long form too.
    Sample firsts(GetParam().several ? 48 : GetParam().one_in);
    Sample seconds(16, GetParam().several ? 24 : 1);
    SCOPED_TRACE(seconds.seed());
    SCOPED_TRACE(firsts.seed());
    for (const std::string& failing : failures()) {
        std::string story;
        const int points = play({.failing = failing}, story);
        for (int first = 1; first <= points; ++first) {
            if (!firsts.takes_next()) continue;
            story = " [" + failing + "]";
            const int resumed = play({.failing = failing, .first = first}, story);
            for (int second = 1; second <= resumed; ++second) {
                if (!seconds.takes_next()) continue;
                story = " [" + failing + "]";
                play({.failing = failing, .first = first, .second = second}, story);
                if (HasFailure()) FAIL() << "after" << story;
            }
        }
    }
}

TEST_P(CrashMatrix, EndsCompleteOrLeavesNoTraceWhereverItIsCancelled) {
    Sample cancels(GetParam().several ? 6 : GetParam().one_in);
    Sample crashes(8, GetParam().several ? 12 : 1);
    SCOPED_TRACE(cancels.seed());
    SCOPED_TRACE(crashes.seed());
    std::string story;
    const int points = play({}, story);
    for (int cancel = 1; cancel <= points; ++cancel) {
        if (!cancels.takes_next()) continue;
        story.clear();
        const int passed = play({.cancel = cancel}, story);
        for (int crash = cancel; crash <= passed; ++crash) {
            if (!crashes.takes_next()) continue;
            story.clear();
            play({.first = crash, .cancel = cancel}, story);
            if (HasFailure()) FAIL() << "after" << story;
        }
        if (HasFailure()) FAIL() << "after" << story;
    }
}

TEST_P(CrashMatrix, EndsCompleteWhicheverChangeOfTheWorldIsUnanswered) {
    Sample sample(2);
    Sample crashes(GetParam().several ? 48 : 16, GetParam().several ? 8 : 1);
    SCOPED_TRACE(crashes.seed());
    SCOPED_TRACE(sample.seed());
    std::string story;
    play({}, story);
    const int changes = changes_;
    for (int change = 1; change <= changes; ++change) {
        if (!sample.takes_next()) continue;
        story.clear();
        const int passed = play({.unanswered = change}, story);
        for (int crash = 1; crash <= passed; ++crash) {
            if (!crashes.takes_next()) continue;
            story.clear();
            play({.first = crash, .unanswered = change}, story);
            if (HasFailure()) FAIL() << "after" << story;
        }
        if (HasFailure()) FAIL() << "after" << story;
    }
}

/// A create that fails at its end, and a branch at a time that may begin with its snapshot.
class BesideAFailingCreate : public CrashMatrix {
  protected:
    /// `asked_at`: the point of the create at which that branch is asked for; 0: while its snapshot
    /// is destroyed. Returns the points passed.
    int play_beside(int asked_at) {
        const std::filesystem::path place = directory_ / "run";
        remove_tree(place);
        std::filesystem::copy(begin_, place, std::filesystem::copy_options::recursive);
        fakes::World world = begin_world_;
        const std::string failing = "branch-create.await_ready:1";
        const std::string story = fmt::format(" [{}, asked at {}]", failing, asked_at);
        int passed = 0;
        {
            Life life(place, world, GetParam().keep);
            life.fail_at(failing);
            life.ask_at(asked_at, create_then);
            bool is_asked = asked_at != 0;
            world.while_a_snapshot_goes = [&life, &is_asked]() -> asio::awaitable<void> {
                if (!std::exchange(is_asked, true)) co_await life.ask(create_then);
            };
            life.run(GetParam().submit);
            passed = life.passed();
            EXPECT_TRUE(is_asked) << story;
            EXPECT_FALSE(life.submit_failure()) << life.submit_failure()->message << story;
            expect_that_one_failed(life, story);
        }
        world.backups.clear();
        expect_settled(place, world, failing, false, story);
        return passed;
    }

  private:
    static asio::awaitable<jobs::Job> create_then(Desk desk) {
        operations::BranchCreateRequest request = create_request("prod/then", "prod/main");
        request.target.kind = "time";
        request.target.time = desk.requests.now();
        return desk.requests.branch_create(std::move(request), {});
    }
    static void expect_that_one_failed(const Life& life, const std::string& story) {
        const jobs::JobFilter all;
        int failed = 0;
        for (const jobs::Job& job : life.queue().finish_list(life.queue().begin_list(all))) {
            if (job.state == jobs::JobState::kSucceeded) continue;
            ++failed;
            EXPECT_EQ(job.error ? job.error->code : "none", "failure_injected")
                << job.target << ": " << (job.error ? job.error->message : "") << story;
        }
        EXPECT_EQ(failed, 1) << story;
    }
};

TEST_P(BesideAFailingCreate, ABranchAtATimeBeginsWithASnapshotThatStays) {
    const int points = play_beside(0);
    ASSERT_GT(points, 0);
    for (int point = 1; point <= points && !HasFailure(); ++point)
        play_beside(point);
}

INSTANTIATE_TEST_SUITE_P(
    Operations, BesideAFailingCreate,
    ::testing::Values(Case{
        "BranchCreate", "branch-create", true, {create_database}, create_branch, true}),
    [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(Lifecycle, CrashMatrix, ::testing::ValuesIn(lifecycle_cases()),
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(Operations, CrashMatrix, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace bpg
