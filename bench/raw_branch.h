// A branch by hand, as fast as a competent person would script it in one program: a checkpoint or
// backup mode over a connection that is open already, snapshot, clone, start, postmaster.pid
// watched for "ready", one SELECT. No journal, no password of its own, no check of anything.
#pragma once

#include <memory>
#include <pqxx/pqxx>
#include <string>
#include <string_view>

#include "bench/raw_runtime.h"
#include "bench/raw_storage.h"
#include "bench/sample.h"
#include "tests/harness/host.h"

namespace bpg::bench {

class RawBranch {
  public:
    /// Branches of `parent`; they are started as `model` was, a branch of bpgd that runs now.
    RawBranch(const test::TestHost& host, const std::string& parent, const std::string& model);
    ~RawBranch();
    RawBranch(const RawBranch&) = delete;
    RawBranch& operator=(const RawBranch&) = delete;

    /// CHECKPOINT, snapshot, and crash recovery of the clone. Atomic storage only.
    Sample with_checkpoint();
    /// pg_backup_start, snapshot, pg_backup_stop. Storage that is not atomic gets the label, and
    /// the WAL written meanwhile; on any other the clone does not need them.
    Sample in_backup_mode();
    /// The same with pg_backup_stop beside the rest, waited for at the end. Atomic storage only.
    Sample in_backup_mode_beside();
    /// What bpgd makes, by hand: the above, on a timeline and with a password of its own. Atomic
    /// storage only.
    Sample with_the_same_result();

    /// Stops and removes what the last call made.
    void remove();

  private:
    void ask(const std::string& sql);
    std::string stop_backup();
    void clone(Laps& laps);
    void clean_up() const;
    void finish_copy(const std::string& label) const;
    Sample beside_the_stop(bool same_result);
    void start(Laps& laps);
    void connect(Laps& laps, const std::string& url) const;
    void wait_until_ready() const;

    const test::TestHost& host_;
    std::filesystem::path parent_volume_;
    std::unique_ptr<RawStorage> storage_;
    std::unique_ptr<RawRuntime> runtime_;
    RawPlace place_;
    FileOwner owner_;
    std::string conf_;  ///< postgresql.conf of the model
    std::filesystem::path model_volume_;
    std::string url_;      ///< with the parent's password
    std::string own_url_;  ///< with another
    std::unique_ptr<pqxx::connection> parent_;
    int count_ = 0;
    std::string name_;
};

}  // namespace bpg::bench
