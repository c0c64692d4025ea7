// ZFS for tests: uses the one that works on this machine, else starts zfs-fuse in the background.
// Test programs that run at the same time share it; the last to end stops it, and only if a test
// program started it. A test fails loudly where ZFS cannot be had: nothing is skipped.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace bpg::test {

/// Makes `zfs` and `zpool` work for the rest of this test program; throws with the reason when they
/// cannot. Called by TestPool; by others before they use ZFS in their own way.
void require_zfs();

/// Ends the use of ZFS at the end of a program that runs no tests.
void release_zfs();

/// A private pool on a sparse file, "bpgtest<pid>" or with a number more, in no cache file, without
/// a mountpoint of its own. Destroyed with everything in it at the end.
class TestPool {
  public:
    explicit TestPool(std::uint64_t size = 1ULL << 30U);
    ~TestPool();
    TestPool(const TestPool&) = delete;
    TestPool& operator=(const TestPool&) = delete;

    const std::string& name() const { return name_; }
    /// A directory of its own for pool file and mountpoints.
    const std::filesystem::path& directory() const { return directory_; }
    std::filesystem::path file() const { return directory_ / "pool.zfs"; }
    /// Free for the volume root: exists not, or is where the caller mounted something.
    std::filesystem::path mountpoint() const { return directory_ / "volumes"; }

    void export_pool() const;
    void import_pool() const;
    /// Destroys the pool; returns what is left of it (pool, mounts, files), empty is the only good
    /// answer. The destructor does the same and says nothing.
    std::vector<std::string> finish();

  private:
    std::string name_;
    std::filesystem::path directory_;
};

/// Runs a program to its end and returns what it wrote on stdout; throws with its words when it
/// fails. What is busy is tried again for 10 s: zfs-fuse unmounts behind our back.
std::string run_zfs(const std::vector<std::string>& argv);

}  // namespace bpg::test
