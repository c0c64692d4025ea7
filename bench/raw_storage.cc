#include "bench/raw_storage.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <stdexcept>
#include <utility>

#include "orchestrator/base/files.h"
#include "orchestrator/base/subprocess.h"
#include "orchestrator/storage/btrfs_ioctl.h"

namespace bpg::bench {
namespace {

namespace fs = std::filesystem;

/// Below the volume root, hidden from bpgd, and gone with the last of what is in it.
class Aside {
  public:
    explicit Aside(const fs::path& root) : path_(root / ".raw") { ensure_directory(path_, 0711); }
    ~Aside() {
        std::error_code ignored;  // not empty after a failure: the host's end says so
        fs::remove(path_, ignored);
    }
    Aside(const Aside&) = delete;
    Aside& operator=(const Aside&) = delete;

    const fs::path& path() const { return path_; }

  private:
    fs::path path_;
};

class RawBtrfs final : public RawStorage {
  public:
    RawBtrfs(const fs::path& root, const std::string& parent)
        : aside_(root), parent_(open_directory(root / parent)), place_(open_directory(aside())) {}

    void snapshot(const std::string& name) override {
        storage::snapshot_subvolume(parent_.get(), place_.get(), name + ".snapshot", true);
    }

    fs::path clone(const std::string& name) override {
        const UniqueFd source = open_directory(aside() / (name + ".snapshot"));
        storage::snapshot_subvolume(source.get(), place_.get(), name, false);
        return aside() / name;
    }

    void remove(const std::string& name) override {
        storage::destroy_subvolume(place_.get(), name);
        storage::destroy_subvolume(place_.get(), name + ".snapshot");
    }

  private:
    const fs::path& aside() const { return aside_.path(); }

    Aside aside_;
    UniqueFd parent_;
    UniqueFd place_;
};

class RawZfs final : public RawStorage {
  public:
    RawZfs(fs::path root, std::string base, const std::string& parent)
        : root_(std::move(root)), base_(std::move(base)), parent_(base_ + "/" + parent) {}

    void snapshot(const std::string& name) override {
        run_or_throw({"zfs", "snapshot", parent_ + "@" + name});
    }

    /// Hangs below the same dataset as the parent, and so inherits the same properties.
    fs::path clone(const std::string& name) override {
        run_or_throw({"zfs", "clone", parent_ + "@" + name, base_ + "/" + name});
        return root_ / name;
    }

    void remove(const std::string& name) override {
        for (const std::string& dataset : {base_ + "/" + name, parent_ + "@" + name}) {
            Command look;
            look.argv = {"zfs", "list", "-H", "-t", "all", dataset};
            if (run_command(look).ok()) test::run_zfs({"zfs", "destroy", dataset});
        }
        std::error_code ignored;  // the mount point of what is gone
        fs::remove(root_ / name, ignored);
    }

  private:
    fs::path root_;
    std::string base_;
    std::string parent_;
};

class RawCopy final : public RawStorage {
  public:
    RawCopy(const fs::path& root, const std::string& parent)
        : aside_(root), parent_(root / parent) {}

    void snapshot(const std::string& /*name*/) override {}

    fs::path clone(const std::string& name) override {
        fs::path place = aside_.path() / name;
        copy(parent_, place);
        return place;
    }

    void remove(const std::string& name) override { remove_tree(aside_.path() / name); }

  private:
    /// A file that the running parent removes while it is copied is none of the backup.
    static void copy(const fs::path& from, const fs::path& to) {
        Command command;
        command.argv = {"cp", "-a", "--reflink=never", from.native(), to.native()};
        command.deadline = std::chrono::minutes(10);
        const CommandResult result = run_command(command);
        const bool only_gone = result.exit_code == 1 && !result.timed_out &&
                               result.err.ends_with("No such file or directory\n");
        if (!result.ok() && !only_gone) throw std::runtime_error("cp: " + result.explain(command));
    }

    Aside aside_;
    fs::path parent_;
};

}  // namespace

std::unique_ptr<RawStorage> RawStorage::make(const test::TestHost& host,
                                             const std::string& parent) {
    const std::string& storage = host.options().drivers.storage;
    if (storage == "btrfs") return std::make_unique<RawBtrfs>(host.volumes(), parent);
    if (storage == "zfs") {
        return std::make_unique<RawZfs>(host.volumes(), host.dataset_base(), parent);
    }
    if (storage == "copy") return std::make_unique<RawCopy>(host.volumes(), parent);
    throw std::runtime_error("there are no raw commands for storage " + storage);
}

void run_or_throw(std::vector<std::string> argv) {
    Command command;
    command.argv = std::move(argv);
    command.deadline = std::chrono::minutes(10);
    const CommandResult result = run_command(command);
    if (result.ok()) return;
    throw std::runtime_error(
        fmt::format("{}: {}", fmt::join(command.argv, " "), result.explain(command)));
}

}  // namespace bpg::bench
