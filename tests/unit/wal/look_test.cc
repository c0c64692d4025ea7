// What is held of an incarnation's WAL, looked at while its server goes on.
#include "orchestrator/wal/look.h"

#include "tests/unit/wal/wal_fixture.h"

namespace bpg::wal::test {
namespace {

class Look : public WalTest {
  protected:
    WalServer server() const {
        return {data(), {}, kSmallSegment, std::to_string(kSystem), /*runs=*/true};
    }
};

TEST_F(Look, MissesNoSegmentThatPostgresArchivesAndRemovesMeanwhile) {
    const WalBuilder wal = write_segments(4);
    archive_it(wal.name(0));
    fs::remove(pg_wal() / wal.name(0));
    bool has_moved = false;
    // Asked when the names in the archive are read already.
    const auto move_the_next = [&](const std::string&) {
        if (!std::exchange(has_moved, true)) {
            archive_it(wal.name(1));
            fs::remove(pg_wal() / wal.name(1));
        }
        return false;
    };
    const Holding holding = look_at(archive(), server(), move_the_next);
    EXPECT_TRUE(has_moved);
    std::vector<std::string> held;
    for (const auto& [segment, facts] : holding.segments)
        held.push_back(segment_name(segment, kSmallSegment));
    EXPECT_EQ(held, (std::vector<std::string>{wal.name(0), wal.name(1), wal.name(2), wal.name(3)}));
}

}  // namespace
}  // namespace bpg::wal::test
