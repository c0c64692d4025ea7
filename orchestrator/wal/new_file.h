// A file that appears in a directory whole or not at all, whatever ends the process that writes it:
// made without a name where the file system can (O_TMPFILE), else under a temporary name that
// begins with a dot. Temporary names are locked for as long as their writer lives, in whatever
// container, so that those of dead writers can be told and are removed by the next one.
#pragma once

#include <string>
#include <string_view>

#include "orchestrator/base/files.h"

namespace bpg::wal {

class NewFile {
  public:
    /// `directory_fd` outlives this object; `shown` stands for the directory in errors. The file is
    /// 0600 and belongs to whom the directory belongs to.
    NewFile(int directory_fd, std::string shown, std::string name);
    /// What was not published is gone.
    ~NewFile();
    NewFile(const NewFile&) = delete;
    NewFile& operator=(const NewFile&) = delete;

    int fd() const { return file_.get(); }
    /// At `offset`; all of it, or an Error.
    void write_at(std::uint64_t offset, std::string_view bytes) const;
    /// False when there is a file of that name already: it stays as it is.
    bool publish_new();
    /// Takes the place of whatever file has that name.
    void publish_over();

  private:
    bool make_nameless();
    void make_named();
    void link_as(const std::string& name, bool& exists) const;
    std::string unused_name() const;

    const int directory_fd_;
    const std::string shown_;
    const std::string name_;
    UniqueFd file_;
    std::string temporary_;  ///< its name now; empty while it has none
};

/// Whether a NewFile calls itself that for a while.
bool is_temporary_name(std::string_view name);

}  // namespace bpg::wal
