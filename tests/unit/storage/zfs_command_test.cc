// What is read from `zfs` is understood exactly or refused; what goes into its arguments cannot be
// taken for an option or another dataset.
#include "orchestrator/storage/zfs_command.h"

#include <gtest/gtest.h>

#include "orchestrator/storage/zfs_pool.h"
#include "orchestrator/storage/zfs_volumes.h"
#include "tests/unit/storage/storage_fixture.h"

namespace bpg::storage {
namespace {

TEST(ZfsTables, RowsAreReadByDatasetAndProperty) {
    const ZfsTable table = parse_zfs_table(
        "tank/a\tused\t1024\t-\n"
        "tank/a\tbetterpg:id\tx y\tlocal\n"
        "tank/a@s\tbetterpg:id\tx y\tinherited from tank/a\n"
        "tank/a@s\tbetterpg:job\t\tlocal\n"
        "tank/b\tbetterpg:id\tz\treceived\n");
    ASSERT_EQ(table.size(), 3U);
    EXPECT_EQ(table.at("tank/a").number("used"), 1024U);
    EXPECT_EQ(table.at("tank/a").local("betterpg:id"), "x y");
    EXPECT_EQ(table.at("tank/a@s").value("betterpg:id"), "x y");
    EXPECT_EQ(table.at("tank/a@s").local("betterpg:id"), "");
    EXPECT_TRUE(table.at("tank/a@s").is_local("betterpg:job"));
    EXPECT_FALSE(table.at("tank/b").is_local("betterpg:id"));
    EXPECT_EQ(table.at("tank/b").value("nothing"), "");
    EXPECT_TRUE(parse_zfs_table("").empty());
}

TEST(ZfsTables, WhatIsNotExactlyATableIsRefused) {
    for (const char* out :
         {"x", "tank/a\tused\t1\t-", "tank/a\tused\t1\n", "tank/a\tused\t1\t-\textra\n", "\n",
          "\tused\t1\t-\n", "tank/a\tused\t1\t-\n\n", "tank/a\tused\t1\t-\ntank/a\tused\t2\t-\n",
          "tank/a used 1 -\n"}) {
        EXPECT_EQ(error_of([&] { parse_zfs_table(out); }).code, "zfs_answer_invalid") << out;
    }
    EXPECT_EQ(parse_zfs_list("a\tb\nc\t-\n", 2).size(), 2U);
    EXPECT_EQ(error_of([&] { parse_zfs_list("a\nb\n", 2); }).code, "zfs_answer_invalid");
}

TEST(ZfsTables, ANumberIsAPlainNumber) {
    for (const char* text : {"", "-", "1K", "1.5", " 1", "-1", "99999999999999999999"}) {
        ZfsRow row;
        row.set("used", {text, "-"});
        EXPECT_EQ(error_of([&] { row.number("used"); }).code, "zfs_answer_invalid") << text;
    }
    EXPECT_EQ(error_of([&] { ZfsRow().number("used"); }).code, "zfs_answer_invalid");
}

TEST(ZfsIdentity, CountsOnlyWhenAllOfItStandsOnTheDataset) {
    ZfsRow row;
    for (const char* property : {kZfsId, kZfsRef, kZfsIncarnation, kZfsJob})
        row.set(property, {"v", "local"});
    EXPECT_EQ(zfs_identity(row), (Identity{"v", "v", "v", "v"}));
    row.set(kZfsJob, {"", "local"});
    EXPECT_TRUE(zfs_identity(row));
    row.set(kZfsRef, {"v", "inherited from tank"});
    EXPECT_FALSE(zfs_identity(row));
    row.set(kZfsRef, {"v", "local"});
    row.set(kZfsId, {"", "local"});
    EXPECT_FALSE(zfs_identity(row));
    EXPECT_FALSE(zfs_identity(ZfsRow()));
}

TEST(ZfsErrors, AreRecognisedInTheWordsOfBothImplementations) {
    const std::vector<std::pair<const char*, ZfsTrouble>> known = {
        {"cannot open 'tank/x': dataset does not exist\n", ZfsTrouble::kAbsent},
        {"cannot open 'tank': no such pool\n", ZfsTrouble::kAbsent},
        {"could not find any snapshots to destroy; check snapshot names.\n", ZfsTrouble::kAbsent},
        {"cannot create 'tank/x': dataset already exists\n", ZfsTrouble::kExists},
        {"umount: /x: target is busy.\ncannot unmount '/x': umount failed\ncannot destroy "
         "'tank/x': dataset is busy\n",
         ZfsTrouble::kBusy},
        {"cannot unmount '/x': pool or dataset is busy\n", ZfsTrouble::kBusy},
        {"cannot mount 'tank/x': Device or resource busy\n", ZfsTrouble::kBusy},
        {"cannot destroy 'tank/x': filesystem has children\nuse '-r' to destroy the following "
         "datasets:\ntank/x@is busy\n",
         ZfsTrouble::kHasChildren},
        {"cannot destroy 'tank/x@s': snapshot has dependent clones\nuse '-R' to destroy the "
         "following datasets:\ntank/out-of-space\n",
         ZfsTrouble::kHasClones},
        {"cannot create 'tank/x': out of space\n", ZfsTrouble::kNoSpace},
        {"cannot create snapshot 'tank/x@s': out of space\n", ZfsTrouble::kNoSpace},
        {"cannot create 'tank/x': permission denied\n", ZfsTrouble::kNoPermission},
        {"connect: Connection refused\nPlease make sure that the zfs-fuse daemon is "
         "running.\ninternal error: failed to initialize ZFS library\n",
         ZfsTrouble::kUnavailable},
        {"internal error: Connection reset by peer\n", ZfsTrouble::kUnavailable},
        {"The ZFS modules are not loaded.\nTry running 'modprobe zfs' as root to load them.\n",
         ZfsTrouble::kUnavailable},
        {"cannot open 'tank': pool I/O is currently suspended\n", ZfsTrouble::kUnavailable},
        {"something new\n", ZfsTrouble::kOther},
        {"", ZfsTrouble::kOther}};
    for (const auto& [err, trouble] : known) {
        EXPECT_EQ(classify_zfs_error(err), trouble) << err;
    }
}

TEST(ZfsErrors, SomethingIsAbsentOnlyWhenThatIsAllThatWasSaid) {
    const std::vector<std::string> names = {"tank/a", "tank/b@s"};
    EXPECT_TRUE(says_only_absent("cannot open 'tank/a': dataset does not exist\n", names));
    EXPECT_TRUE(
        says_only_absent("cannot open 'tank/a': dataset does not exist\n"
                         "cannot open 'tank/b@s': dataset does not exist\n",
                         names));
    for (const char* err : {"", "cannot open 'tank/a': dataset does not exist",
                            "cannot open 'tank/c': dataset does "
                            "not exist\n",
                            "cannot open 'tank/a': dataset does not exist\ninternal error: x\n",
                            "warning\ncannot open 'tank/a': dataset does not exist\n",
                            "cannot open 'tank/a': I/O error\n"}) {
        EXPECT_FALSE(says_only_absent(err, names)) << err;
    }
}

TEST(ZfsErrors, HaveAKindThatSaysWhetherToTryAgain) {
    const auto error = [](ZfsTrouble trouble) {
        return zfs_error("do it", {trouble, "", "", "w"});
    };
    EXPECT_EQ(error(ZfsTrouble::kNoSpace).kind(), ErrorKind::kExhausted);
    EXPECT_EQ(error(ZfsTrouble::kBusy).kind(), ErrorKind::kUnavailable);
    EXPECT_EQ(error(ZfsTrouble::kUnavailable).kind(), ErrorKind::kUnavailable);
    EXPECT_EQ(error(ZfsTrouble::kAbsent).code(), "storage_unavailable");
    EXPECT_EQ(error(ZfsTrouble::kNoPermission).kind(), ErrorKind::kPermission);
    EXPECT_EQ(error(ZfsTrouble::kOther).kind(), ErrorKind::kInternal);
    EXPECT_EQ(error(ZfsTrouble::kOther).info().message, "cannot do it");
    EXPECT_EQ(error(ZfsTrouble::kOther).info().detail, "w");
}

TEST(ZfsNames, OfDatasetsCannotBeOptionsOrLeadElsewhere) {
    for (const char* name : {"tank", "tank/betterpg/databases", "Tank-2/a.b_c:d"})
        EXPECT_NO_THROW(check_dataset_name(name)) << name;
    for (const char* name :
         {"", "-f", "tank/", "/tank", "tank//a", "tank/-o", "tank/..", "tank/a@s", "tank/a#b",
          "tank/a b", "tank/a\n", "tank/%", "tank/a,b"}) {
        EXPECT_EQ(error_of([&] { check_dataset_name(name); }).code, "dataset_name_invalid") << name;
    }
    EXPECT_EQ(error_of([&] { check_dataset_name(std::string(300, 'a')); }).code,
              "dataset_name_invalid");
    EXPECT_EQ(error_of([] { ZfsVolumes({"tank", "../x", "/x", "", {}, {}}); }).code,
              "dataset_name_invalid");
}

TEST(ZfsNames, AllDatasetsOfAnInstanceAreSnapshotInOneCall) {
    EXPECT_EQ(snapshot_arguments({"tank/a", "tank/b"}, "id", {{"p:x", "1"}, {"p:y", ""}}),
              (std::vector<std::string>{"snapshot", "-o", "p:x=1", "-o", "p:y=", "tank/a@id",
                                        "tank/b@id"}));
}

TEST(ZfsLabels, AShortOrDamagedLabelNamesNoPool) {
    using namespace std::string_view_literals;
    const auto name = "....\0\0\0\4name\0\0\0\11\0\0\0\1\0\0\0\3zx1\0"sv;
    EXPECT_EQ(zfs_pool_in_label(name), "zx1");
    for (std::size_t length = 0; length + 1 < name.size(); ++length)
        EXPECT_EQ(zfs_pool_in_label(name.substr(0, length)), std::nullopt) << length;
    EXPECT_EQ(zfs_pool_in_label(""), std::nullopt);
    EXPECT_EQ(zfs_pool_in_label(std::string(4096, '\4')), std::nullopt);
}

}  // namespace
}  // namespace bpg::storage
