// The Docker runtime's verbs for images: which PostgreSQL is in one, fetching one, and finding out
// what a branch must know of it.
#include <fmt/format.h>

#include <charconv>
#include <nlohmann/json.hpp>
#include <utility>

#include "orchestrator/base/id.h"
#include "orchestrator/runtime/docker.h"

namespace bpg::runtime {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr int kOldestMajor = 13;
constexpr int kNewestMajor = 18;
constexpr milliseconds kProbeDeadline{60'000};
/// Without a word from dockerd; large layers are unpacked in silence.
constexpr milliseconds kPullSilence{600'000};
constexpr milliseconds kReportPause{100};
constexpr std::size_t kPasswdMax = 1 << 20;
constexpr int kLinksMax = 5;
/// Nobody: enough to ask a program for its version.
constexpr FileOwner kNobody{65534, 65534};

Error unsuitable(const std::string& image, std::string why) {
    return {ErrorKind::kInvalid, "image_unsuitable", "image " + image + " cannot run branches",
            std::move(why),
            "choose an image with initdb, postgres and a user postgres, such as postgres:16"};
}

Error image_not_here(const Engine& engine, std::string why) {
    return {ErrorKind::kNotFound, "image_not_found",
            "the image of this database is not here: " + engine.image, std::move(why),
            "pull or load it again; another one would change how the data is sorted"};
}

void check_major(const std::string& image, const std::string& version) {
    int major = 0;
    std::from_chars(version.data(), version.data() + version.size(), major);
    if (major >= kOldestMajor && major <= kNewestMajor) return;
    throw Error(ErrorKind::kInvalid, "postgres_unsupported",
                fmt::format("PostgreSQL {} is not supported", version), "it is in image " + image,
                fmt::format("use one from {} to {}", kOldestMajor, kNewestMajor));
}

}  // namespace

asio::awaitable<Engine> DockerRuntime::find_engine(EngineRequest request) {
    if (!request.version.empty()) {
        throw Error(ErrorKind::kInvalid, "version_unsupported",
                    "a PostgreSQL version cannot be chosen here",
                    "with the docker runtime the image decides the version",
                    "choose an image: --image postgres:" + request.version.substr(0, 16));
    }
    Engine engine;
    engine.image = request.image.empty() ? settings_.image : request.image;
    const ImageReference reference = parse_image_reference(engine.image);
    const auto facts = co_await inspect_image(engine.image);
    if (!facts) co_return engine;
    engine.image_id = facts->id;
    engine.digest = digest_of(*facts, reference);
    const auto known = probed_.find(facts->id);
    if (known != probed_.end()) {
        engine.version = known->second.version;
        engine.user = known->second.user;
    }
    co_return engine;
}

asio::awaitable<Engine> DockerRuntime::prepare_engine(Engine engine, FetchReport report) {
    const ImageReference reference = parse_image_reference(engine.image);
    const std::string& wanted = engine.image_id.empty() ? engine.image : engine.image_id;
    auto facts = co_await inspect_image(wanted);
    if (!facts) {
        const bool is_pinned = !engine.image_id.empty();
        if (is_pinned && engine.digest.empty()) {
            throw image_not_here(engine, "it was made on this machine and has been removed");
        }
        const std::string name = is_pinned ? engine.digest : engine.image;
        co_await pull(is_pinned ? parse_image_reference(name) : reference, name, std::move(report));
        facts = co_await inspect_image(name);
        if (!facts) throw image_not_here(engine, "it was fetched, and is not there");
        if (is_pinned && facts->id != engine.image_id) {
            throw image_not_here(engine, "the registry has another image under " + name);
        }
    }
    engine.image_id = facts->id;
    if (engine.digest.empty()) engine.digest = digest_of(*facts, reference);
    if (!engine.version.empty()) co_return engine;

    auto known = probed_.find(facts->id);
    if (known == probed_.end()) {
        Engine found = co_await probe(*facts);
        check_major(engine.image, found.version);
        known = probed_.insert_or_assign(facts->id, std::move(found)).first;
    }
    engine.version = known->second.version;
    engine.user = known->second.user;
    co_return engine;
}

asio::awaitable<std::optional<ImageFacts>> DockerRuntime::inspect_image(std::string name) {
    // A reference holds nothing that would have to be escaped, and its slashes must stay.
    const DockerAnswer answer = co_await send("GET", "/images/" + name + "/json");
    if (answer.status == 404) co_return std::nullopt;
    if (!answer.ok()) {
        throw Error(ErrorKind::kInternal, "docker_refused",
                    "the Docker daemon refused to describe image " + name, answer.message());
    }
    ImageFacts facts = read_image_facts(answer.body);
    images_.insert_or_assign(facts.id, facts);
    co_return facts;
}

/// The image a recorded engine runs, by its id only: a tag may mean another one by now.
asio::awaitable<ImageFacts> DockerRuntime::image_of(Engine engine) {
    if (engine.image_id.empty() || engine.user.uid == 0) {
        throw Error(ErrorKind::kInternal, "engine_unprepared",
                    "the image of this database was never looked at", engine.image);
    }
    const auto known = images_.find(engine.image_id);
    if (known != images_.end()) co_return known->second;
    if (!is_image_id(engine.image_id)) {
        throw image_not_here(engine, "its recorded id is none: " + engine.image_id);
    }
    const auto facts = co_await inspect_image(engine.image_id);
    if (!facts) throw image_not_here(engine, "there is no image " + engine.image_id);
    co_return *facts;
}

asio::awaitable<void> DockerRuntime::pull(ImageReference reference, std::string shown,
                                          FetchReport report) {
    PullProgress progress;
    auto reported = steady_clock::now() - kReportPause;
    DockerRequest request;
    request.method = "POST";
    request.target = "/images/create?" + reference.pull_query();
    request.deadline = kPullSilence;
    DockerSink sink;
    sink.received = [&](std::string_view piece) {
        progress.feed(piece);
        if (!report || progress.total() == 0) return;
        if (steady_clock::now() - reported < kReportPause) return;
        reported = steady_clock::now();
        report(progress.done(), progress.total());
    };
    const DockerAnswer answer = co_await wire_.stream(std::move(request), std::move(sink));
    if (!answer.ok()) throw pull_failed(shown, answer.message());
    if (!progress.error().empty()) throw pull_failed(shown, progress.error());
    if (report) report(progress.done(), progress.total());
}

/// Asks the image itself. The container that is asked for its files is the one that then says its
/// version; it sees nothing of this machine.
asio::awaitable<Engine> DockerRuntime::probe(ImageFacts facts) {
    ContainerPlan plan;
    plan.role = kProbeRole;
    plan.prefix = settings_.container_prefix;
    plan.image = facts;
    plan.program = "postgres";
    plan.arguments = {"--version"};
    plan.user = kNobody;
    plan.limits = settings_.limits;
    const std::string name = settings_.container_prefix + "probe-" + random_hex(8);
    const Probing announced(probes_, name);
    std::string body = container_body(plan).dump();
    const auto id = co_await create(name, std::move(body), facts.id);
    if (!id) throw Error(ErrorKind::kUnavailable, "runtime_unavailable", "cannot look at an image");

    Engine found;
    std::optional<Error> failure;
    try {
        found.user = co_await read_owner(*id);
    } catch (const Error& error) {
        failure = error;
    }
    if (failure) {
        if (failure->code() != "runtime_unavailable") co_await remove_container(*id);
        throw *failure;
    }
    const Exit exit = co_await run_to_end(*id, kProbeDeadline);
    const auto version = version_in(exit.log);
    if (exit.code != 0 || !version) {
        throw unsuitable(facts.id, "postgres --version says: " + exit.log.substr(0, 500));
    }
    found.version = *version;
    co_return found;
}

/// uid and gid of user postgres, from the image's own /etc/passwd.
asio::awaitable<FileOwner> DockerRuntime::read_owner(std::string container_id) {
    std::filesystem::path path = "/etc/passwd";
    for (int links = 0; links < kLinksMax; ++links) {
        DockerRequest request;
        request.target =
            fmt::format("/containers/{}/archive?path={}", container_id, url_escape(path.native()));
        request.deadline = settings_.deadline;
        request.body_max = kPasswdMax;
        const DockerAnswer answer = co_await wire_.call(std::move(request));
        const auto file = answer.ok() ? first_tar_member(answer.body) : std::nullopt;
        if (!file) throw unsuitable("", "it has no " + path.native());
        if (file->link_target.empty()) {
            const auto owner = owner_in_passwd(file->content, "postgres");
            if (!owner || owner->uid == 0) {
                throw unsuitable("", "it has no ordinary user postgres in /etc/passwd");
            }
            co_return *owner;
        }
        // dockerd stays inside of the container whatever this says.
        path = (path.parent_path() / file->link_target).lexically_normal();
    }
    throw unsuitable("", "its /etc/passwd is a link to a link to a link");
}

}  // namespace bpg::runtime
