// What becomes of a request while another job is open on the same branch: the table that the README
// prints, pair by pair.
#include "tests/unit/http/handlers_fixture.h"

namespace bpg::http::test {
namespace {

struct Asked {
    const char* name;
    const char* method;
    std::string target;
    json body;
};

std::vector<Asked> operations_on_dev() {
    const std::string dev = "/v1/branches/prod/dev";
    return {{"start", "POST", dev + "/start", nullptr},
            {"stop", "POST", dev + "/stop", nullptr},
            {"restart", "POST", dev + "/restart", nullptr},
            {"branch-sync", "POST", dev + "/sync", nullptr},
            {"branch-promote", "POST", dev + "/promote", nullptr},
            {"password-rotate", "POST", dev + "/rotate-password", nullptr},
            {"branch-delete", "DELETE", dev, nullptr}};
}

class Pairs : public HandlersTest {
  protected:
    void SetUp() override { add_prod(); }
};

class PairOfOperations : public Pairs,
                         public testing::WithParamInterface<std::tuple<std::size_t, std::size_t>> {
};

TEST_P(PairOfOperations, TheSameIsTheOpenJobAndAnyOtherIsRefused) {
    const auto [first, second] = GetParam();
    const std::vector<Asked> all = operations_on_dev();
    const Response open = call(all[first].method, all[first].target, all[first].body);
    ASSERT_EQ(open.status, 202) << open.body;
    const json job = object(open);
    EXPECT_EQ(job["operation"], all[first].name);
    const Response answer = call(all[second].method, all[second].target, all[second].body);
    if (first == second) {
        EXPECT_EQ(object(answer)["id"], job["id"]) << answer.body;
        return;
    }
    EXPECT_EQ(answer.status, 409) << answer.body;
    EXPECT_EQ(object(answer)["code"], "busy") << answer.body;
    EXPECT_NE(answer.body.find(job["id"].get<std::string>()), std::string::npos)
        << "who holds it up is not named: " << answer.body;
    EXPECT_EQ(open_jobs(), 1U);
}

INSTANTIATE_TEST_SUITE_P(All, PairOfOperations,
                         testing::Combine(testing::Range<std::size_t>(0, 7),
                                          testing::Range<std::size_t>(0, 7)));

TEST_F(Pairs, OtherParametersAreAnotherRequest) {
    call("DELETE", "/v1/branches/prod/dev");
    expect_refused(call("DELETE", "/v1/branches/prod/dev?force=1"), 409, "busy");
}

TEST_F(Pairs, ACreateFromABusyBranchWaitsForIt) {
    const std::string stop = object(call("POST", "/v1/branches/prod/dev/stop"))["id"];
    const Response created =
        call("POST", "/v1/branches", {{"ref", "prod/new"}, {"from", "prod/dev"}});
    EXPECT_EQ(created.status, 202) << created.body;
    call("DELETE", "/v1/branches/prod/a-first");
    expect_refused(call("POST", "/v1/branches", {{"ref", "prod/x"}, {"from", "prod/a-first"}}), 409,
                   "busy");
}

TEST_F(Pairs, PromoteNeedsMainToo) {
    call("POST", "/v1/branches/prod/main/stop");
    expect_refused(call("POST", "/v1/branches/prod/dev/promote"), 409, "busy");
}

TEST_F(Pairs, WhatIsBeingDestroyedDoesNotComeBack) {
    jobs::Batch batch;
    catalog::Branch dev = *catalog_.branch_by_id(dev_);
    dev.trash = catalog::Trashed{dev.id, "branch", "prod/dev", clock_.now(), clock_.now(), true, 5};
    catalog_.put(dev, batch);
    run(store_.commit(std::move(batch)));
    const json purge = object(call("DELETE", "/v1/trash/" + dev_));
    ASSERT_TRUE(purge.contains("operation")) << purge;
    const Response refused = call("POST", "/v1/trash/prod%2Fdev");
    expect_refused(refused, 409, "trash_item_going");
    EXPECT_NE(refused.body.find(purge["id"].get<std::string>()), std::string::npos);
    EXPECT_EQ(open_jobs(), 1U);
}

TEST_F(Pairs, ADatabaseIsNotDeletedUnderTheJobsOfItsBranches) {
    call("POST", "/v1/branches/prod/dev/stop");
    expect_refused(call("DELETE", "/v1/databases/prod?force=1"), 409, "busy");
    expect_refused(call("PATCH", "/v1/databases/prod", {{"name", "shop"}}), 409, "busy");
    expect_refused(call("POST", "/v1/branches/prod/dev/rename", {{"name", "qa"}}), 409, "busy");
}

}  // namespace
}  // namespace bpg::http::test
