#include "orchestrator/catalog/catalog.h"

#include <fmt/format.h>

#include <algorithm>

#include "orchestrator/base/id.h"

namespace bpg::catalog {
namespace {

using jobs::kinds::kBranch;
using jobs::kinds::kDatabase;
using jobs::kinds::kSnapshot;

template <class Record>
std::map<std::string, Record> read_all(const jobs::Store& store, std::string_view kind) {
    std::map<std::string, Record> records;
    const nlohmann::json known = Record{};
    store.scan(kind, [&](std::string_view key, std::string_view value) {
        const auto stored = nlohmann::json::parse(value);
        auto record = stored.template get<Record>();
        record.unknown = unknown_members(stored, known);
        records.emplace(key.substr(kind.size()), std::move(record));
        return true;
    });
    return records;
}

template <class Record>
void write(std::map<std::string, Record>& records, std::string_view kind, const Record& record,
           jobs::Batch& batch) {
    nlohmann::json stored = record;
    add_unknown(stored, record.unknown);
    batch.put(std::string(kind) + record.id, json_text(stored));
    records.insert_or_assign(record.id, record);
}

template <class Record>
const Record* find(const std::map<std::string, Record>& records, const std::string& id) {
    const auto found = records.find(id);
    return found == records.end() ? nullptr : &found->second;
}

std::string list_of(const Catalog& catalog, const std::vector<const Branch*>& branches) {
    std::string text;
    for (const Branch* branch : branches) {
        text += (text.empty() ? "" : ", ") + catalog.ref_of(*branch);
    }
    return text;
}

}  // namespace

std::string_view to_string(BranchState state) {
    switch (state) {
        case BranchState::kCreating:
            return "creating";
        case BranchState::kRunning:
            return "running";
        case BranchState::kStopped:
            return "stopped";
        case BranchState::kFailed:
            return "failed";
        case BranchState::kDeleting:
            return "deleting";
    }
    return "failed";
}

std::pair<std::string, std::string> split_ref(const std::string& ref) {
    const auto slash = ref.find('/');
    if (slash == std::string::npos) {
        check_name("database", ref);
        throw Error(ErrorKind::kInvalid, "ref_invalid", "\"" + ref + "\" does not name a branch",
                    "a branch is written <database>/<branch>",
                    fmt::format("did you mean {}/{}?", ref, kMain));
    }
    std::pair<std::string, std::string> parts{ref.substr(0, slash), ref.substr(slash + 1)};
    check_name("database", parts.first);
    check_name("branch", parts.second);
    return parts;
}

void Catalog::load(const jobs::Store& store) {
    databases_ = read_all<Database>(store, kDatabase);
    branches_ = read_all<Branch>(store, kBranch);
    snapshots_ = read_all<Snapshot>(store, kSnapshot);
}

const Database* Catalog::find_database(const std::string& name) const {
    for (const auto& [id, database] : databases_) {
        if (database.name == name && !database.trash) return &database;
    }
    return nullptr;
}

const Database* Catalog::database_by_id(const std::string& id) const {
    return find(databases_, id);
}

const Branch* Catalog::find_branch(const std::string& ref) const {
    const auto [database_name, branch_name] = split_ref(ref);
    const Database* database = find_database(database_name);
    return database == nullptr ? nullptr : branch_named(database->id, branch_name);
}

const Branch* Catalog::branch_named(const std::string& database_id, const std::string& name) const {
    for (const auto& [id, branch] : branches_) {
        if (branch.database_id == database_id && branch.name == name && branch.is_visible()) {
            return &branch;
        }
    }
    return nullptr;
}

const Branch* Catalog::branch_by_id(const std::string& id) const {
    return find(branches_, id);
}

const Branch* Catalog::branch_of_incarnation(const std::string& incarnation_id) const {
    for (const auto& [id, branch] : branches_) {
        if (branch.incarnation_id == incarnation_id) return &branch;
    }
    return nullptr;
}

const Snapshot* Catalog::snapshot_by_id(const std::string& id) const {
    return find(snapshots_, id);
}

const Database& Catalog::database(const std::string& name) const {
    check_name("database", name);
    if (const Database* found = find_database(name)) return *found;
    throw Error(ErrorKind::kNotFound, "database_not_found", "there is no database \"" + name + "\"",
                "it was never created here, or it was deleted",
                "bpg db list shows the databases there are");
}

const Branch& Catalog::branch(const std::string& ref) const {
    const auto parts = split_ref(ref);
    const Database& parent = database(parts.first);
    if (const Branch* found = find_branch(ref)) return *found;
    throw Error(ErrorKind::kNotFound, "branch_not_found", "there is no branch \"" + ref + "\"",
                "it was never created, or it was deleted",
                "bpg branch list " + parent.name + " shows the branches there are");
}

std::vector<const Database*> Catalog::databases() const {
    std::vector<const Database*> list;
    for (const auto& [id, database] : databases_) {
        if (!database.trash) list.push_back(&database);
    }
    std::sort(list.begin(), list.end(),
              [](const Database* one, const Database* other) { return one->name < other->name; });
    return list;
}

std::vector<const Branch*> Catalog::branches(const std::string& database_id) const {
    std::vector<const Branch*> list;
    for (const auto& [id, branch] : branches_) {
        const bool wanted = database_id.empty() || branch.database_id == database_id;
        if (wanted && branch.is_visible()) list.push_back(&branch);
    }
    std::sort(list.begin(), list.end(), [this](const Branch* one, const Branch* other) {
        const auto key = [this](const Branch& branch) {
            const Database* owner = database_by_id(branch.database_id);
            return std::tuple(owner == nullptr ? branch.database_id : owner->name,
                              branch.name != kMain, branch.name);
        };
        return key(*one) < key(*other);
    });
    return list;
}

std::vector<const Branch*> Catalog::children(const std::string& branch_id) const {
    std::vector<const Branch*> list;
    for (const Branch* branch : branches()) {
        if (branch->parent_id == branch_id) list.push_back(branch);
    }
    return list;
}

std::vector<const Branch*> Catalog::all_children(const std::string& branch_id) const {
    std::vector<const Branch*> list;
    for (const auto& [id, branch] : branches_) {
        if (branch.parent_id == branch_id) list.push_back(&branch);
    }
    return list;
}

std::vector<const Branch*> Catalog::family(const Branch& branch) const {
    std::vector<const Branch*> members;
    for (const Branch* child : children(branch.id)) {
        const auto below = family(*child);
        members.insert(members.end(), below.begin(), below.end());
    }
    members.push_back(&branch);
    return members;
}

std::vector<TrashItem> Catalog::trash() const {
    std::map<std::string, TrashItem> items;
    for (const auto& [id, database] : databases_) {
        if (database.trash) items[id] = {*database.trash, id, {}};
    }
    for (const auto& [id, branch] : branches_) {
        if (!branch.trash) continue;
        TrashItem& item = items[branch.trash->item];
        if (item.database_id.empty()) item.trash = *branch.trash;
        item.branch_ids.push_back(id);
    }
    std::vector<TrashItem> list;
    for (auto& [id, item] : items)
        list.push_back(std::move(item));
    std::sort(list.begin(), list.end(), [](const TrashItem& one, const TrashItem& other) {
        return one.trash.deleted_at < other.trash.deleted_at;
    });
    return list;
}

TrashItem Catalog::trash_item(const std::string& text) const {
    std::vector<TrashItem> matches;
    const std::vector<TrashItem> items = trash();
    for (const TrashItem& item : items) {
        if (item.trash.item == text) return item;
        if (!text.empty() && item.trash.item.starts_with(text)) matches.push_back(item);
    }
    // What a sync replaced is asked for by its id: its name stands for what replaced it.
    for (auto item = items.rbegin(); item != items.rend() && matches.empty(); ++item) {
        if (item->trash.ref == text && item->trash.kind != "incarnation") return *item;
    }
    if (matches.size() == 1) return matches.front();
    if (matches.size() > 1) {
        throw Error(ErrorKind::kConflict, "id_ambiguous",
                    "more than one trash item begins with " + text,
                    matches[0].trash.item + " and " + matches[1].trash.item, "give more of the id");
    }
    throw Error(ErrorKind::kNotFound, "trash_item_not_found",
                "there is no \"" + text + "\" in the trash",
                "it was never deleted, or it is gone for good",
                "bpg trash list shows what can be brought back");
}

const Snapshot& Catalog::snapshot(const std::string& id_or_prefix) const {
    if (const Snapshot* exact = snapshot_by_id(id_or_prefix)) return *exact;
    std::vector<const Snapshot*> matches;
    for (const auto& [id, snapshot] : snapshots_) {
        if (!id_or_prefix.empty() && id.starts_with(id_or_prefix)) matches.push_back(&snapshot);
    }
    if (matches.size() == 1) return *matches.front();
    if (matches.size() > 1) {
        throw Error(ErrorKind::kConflict, "id_ambiguous",
                    "more than one snapshot begins with " + id_or_prefix,
                    matches[0]->id + " and " + matches[1]->id, "give more of the id");
    }
    throw Error(
        ErrorKind::kNotFound, "snapshot_not_found", "there is no snapshot \"" + id_or_prefix + "\"",
        "it was never taken, or it was deleted", "bpg snapshot list shows the snapshots there are");
}

std::vector<const Snapshot*> Catalog::snapshots_of(const std::string& branch_id) const {
    std::vector<const Snapshot*> list;
    for (const auto& [id, snapshot] : snapshots_) {
        if (snapshot.branch_id == branch_id) list.push_back(&snapshot);
    }
    return list;
}

std::vector<const Branch*> Catalog::branches_from(const std::string& snapshot_id) const {
    std::vector<const Branch*> list;
    for (const auto& [id, branch] : branches_) {
        if (branch.created_from.snapshot == snapshot_id) list.push_back(&branch);
    }
    return list;
}

std::string Catalog::ref_of(const Branch& branch) const {
    if (branch.trash) return branch.trash->ref;
    const Database* owner = database_by_id(branch.database_id);
    return (owner == nullptr ? branch.database_id : owner->name) + "/" + branch.name;
}

std::string Catalog::choose_volume(const std::string& database, const std::string& branch) const {
    const std::string base = database + "-" + branch;
    const auto taken = [this](const std::string& name) {
        return std::any_of(branches_.begin(), branches_.end(),
                           [&name](const auto& entry) { return entry.second.volume == name; }) ||
               std::any_of(snapshots_.begin(), snapshots_.end(),
                           [&name](const auto& entry) { return entry.second.volume == name; });
    };
    std::string name = base;
    for (int n = 2; taken(name); ++n)
        name = fmt::format("{}.{}", base, n);
    return name;
}

bool Catalog::port_is_held(int port) const {
    return std::any_of(branches_.begin(), branches_.end(),
                       [port](const auto& entry) { return entry.second.port == port; });
}

std::optional<ErrorInfo> Catalog::can_create_database(const std::string& name) const {
    if (find_database(name) == nullptr) return std::nullopt;
    return ErrorInfo{ErrorKind::kConflict, "database_exists",
                     "database \"" + name + "\" already exists", "a name stands for one database",
                     "choose another name, or pass --if-not-exists to use it"};
}

std::optional<ErrorInfo> Catalog::can_create_branch(const std::string& ref,
                                                    const Branch& parent) const {
    if (const Branch* existing = find_branch(ref)) {
        const Branch* from = branch_by_id(existing->parent_id);
        return ErrorInfo{ErrorKind::kConflict, "branch_exists",
                         "branch \"" + ref + "\" already exists",
                         fmt::format("it was created {} from {}", format_time(existing->created_at),
                                     from == nullptr ? "nothing" : ref_of(*from)),
                         "choose another name, or pass --if-not-exists to use it"};
    }
    if (parent.state == BranchState::kDeleting) {
        return ErrorInfo{ErrorKind::kConflict, "busy",
                         "branch \"" + ref_of(parent) + "\" is being deleted",
                         "nothing can be cut from it any more", "branch from another one"};
    }
    return std::nullopt;
}

std::optional<ErrorInfo> Catalog::can_delete_branch(const Branch& branch, bool force,
                                                    bool recursive) const {
    const std::string ref = ref_of(branch);
    if (branch.name == kMain) {
        return ErrorInfo{ErrorKind::kConflict, "branch_is_main",
                         "branch \"" + ref + "\" goes only with its database",
                         "it is the first branch of the database",
                         "bpg db delete deletes the database"};
    }
    const auto below = children(branch.id);
    if (!below.empty() && !recursive) {
        return ErrorInfo{ErrorKind::kConflict, "branch_has_children",
                         "branch \"" + ref + "\" has children",
                         "cut from it: " + list_of(*this, below),
                         "delete those first, or pass --recursive to delete them too"};
    }
    for (const Branch* member : family(branch)) {
        if (!member->is_protected || force) continue;
        return ErrorInfo{ErrorKind::kConflict, "branch_protected",
                         "branch \"" + ref_of(*member) + "\" is protected",
                         "somebody asked that it be kept", "pass --force to delete it"};
    }
    return std::nullopt;
}

std::optional<ErrorInfo> Catalog::can_sync(const Branch& branch) const {
    const std::string ref = ref_of(branch);
    const Branch* parent = branch_by_id(branch.parent_id);
    if (branch.parent_id.empty()) {
        return ErrorInfo{ErrorKind::kConflict, "branch_has_no_parent",
                         "branch \"" + ref + "\" has no parent to sync from",
                         "it is the first branch of its database",
                         "bpg branch promote makes another branch's data " + ref};
    }
    if (parent == nullptr || !parent->is_visible()) {
        return ErrorInfo{
            ErrorKind::kConflict, "parent_gone", "the parent of branch \"" + ref + "\" is gone",
            parent == nullptr ? "it was deleted" : ref_of(*parent) + " is in the trash",
            "bring it back (bpg trash list), or create the branch from another one"};
    }
    if (branch.is_protected) {
        return ErrorInfo{ErrorKind::kConflict, "branch_protected",
                         "branch \"" + ref + "\" is protected",
                         "a sync replaces its data, and somebody asked that it be kept",
                         "bpg branch unprotect " + ref + " lets it go on"};
    }
    return std::nullopt;
}

std::optional<ErrorInfo> Catalog::can_promote(const Branch& branch) const {
    const std::string ref = ref_of(branch);
    if (branch.name == kMain) {
        return ErrorInfo{
            ErrorKind::kConflict, "branch_is_main", "branch \"" + ref + "\" is main already",
            "promote makes another branch's data main", "name the branch that is to become main"};
    }
    return std::nullopt;
}

std::optional<ErrorInfo> Catalog::can_rename(const Branch& branch, const std::string& name) const {
    const std::string ref = ref_of(branch);
    if (branch.name == kMain) {
        return ErrorInfo{ErrorKind::kConflict, "branch_is_main",
                         "branch \"" + ref + "\" keeps its name",
                         "the first branch of every database is called main",
                         "bpg branch promote gives the name to another branch"};
    }
    const std::string wanted = ref.substr(0, ref.find('/') + 1) + name;
    if (find_branch(wanted) != nullptr) {
        return ErrorInfo{ErrorKind::kConflict, "branch_exists",
                         "branch \"" + wanted + "\" already exists", "a name stands for one branch",
                         "choose another name"};
    }
    return std::nullopt;
}

std::optional<ErrorInfo> Catalog::can_delete_database(const Database& database, bool force) const {
    std::vector<const Branch*> others;
    for (const Branch* branch : branches(database.id)) {
        if (branch->name != kMain) others.push_back(branch);
    }
    if (others.empty() || force) return std::nullopt;
    return ErrorInfo{ErrorKind::kConflict, "database_has_branches",
                     "database \"" + database.name + "\" has branches besides main",
                     list_of(*this, others), "delete those first, or pass --force to delete all"};
}

void Catalog::put(const Database& database, jobs::Batch& batch) {
    write(databases_, kDatabase, database, batch);
}
void Catalog::put(const Branch& branch, jobs::Batch& batch) {
    write(branches_, kBranch, branch, batch);
}
void Catalog::put(const Snapshot& snapshot, jobs::Batch& batch) {
    write(snapshots_, kSnapshot, snapshot, batch);
}

void Catalog::remove_database(const std::string& id, jobs::Batch& batch) {
    batch.remove(std::string(kDatabase) + id);
    databases_.erase(id);
}
void Catalog::remove_branch(const std::string& id, jobs::Batch& batch) {
    batch.remove(std::string(kBranch) + id);
    branches_.erase(id);
    wal_.erase(id);
    usages_.erase(id);
}
void Catalog::remove_snapshot(const std::string& id, jobs::Batch& batch) {
    batch.remove(std::string(kSnapshot) + id);
    snapshots_.erase(id);
}

void Catalog::set_wal(const std::string& branch_id, const ArchiveFacts& facts) {
    if (branches_.contains(branch_id)) wal_.insert_or_assign(branch_id, facts);
}

std::optional<ArchiveFacts> Catalog::wal(const std::string& branch_id) const {
    const auto found = wal_.find(branch_id);
    if (found == wal_.end()) return std::nullopt;
    return found->second;
}

void Catalog::set_usage(const std::string& branch_id, const Usage& usage) {
    if (branches_.contains(branch_id)) usages_.insert_or_assign(branch_id, usage);
}

std::optional<Usage> Catalog::usage(const std::string& branch_id) const {
    const auto found = usages_.find(branch_id);
    if (found == usages_.end()) return std::nullopt;
    return found->second;
}

}  // namespace bpg::catalog
