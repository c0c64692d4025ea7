# Reading the sources for the house rules: a tree of texts, on disk or made up for a self-test, and
# C++ with its comments and strings blanked out, position by position.
import contextlib
import json
import os
import subprocess
import tempfile

SKIPPED_FOLDERS = {".git", ".cache", "build", "__pycache__"}


class Tree:
    """Texts by path. `commands`: the sources some target compiles, None where that is unknown."""

    def __init__(self, texts, folder=None, build=None, commands=None):
        self.texts, self.folder, self.build = texts, folder, build
        self.commands = commands

    @classmethod
    def of(cls, texts, commands=None):
        return cls(texts, commands=commands)

    @classmethod
    def from_disk(cls, root, build=None):
        texts = {}
        for path in ours(root):
            with contextlib.suppress(UnicodeDecodeError, FileNotFoundError):
                with open(os.path.join(root, path), encoding="utf-8") as file:
                    texts[path] = file.read()
        commands = None
        if build:
            with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as file:
                commands = dict.fromkeys(os.path.relpath(entry["file"], root)
                                         for entry in json.load(file))
        return cls(texts, root, build, commands)

    def select(self, prefixes, endings):
        for path in sorted(self.texts):
            if path.startswith(tuple(prefixes)) and path.endswith(tuple(endings)):
                yield path, self.texts[path]

    def has(self, path):
        return path in self.texts

    def text(self, path):
        return self.texts.get(path, "")

    @contextlib.contextmanager
    def on_disk(self):
        """A folder with these files in it."""
        if self.folder:
            yield self.folder
            return
        with tempfile.TemporaryDirectory() as folder:
            for path, text in self.texts.items():
                os.makedirs(os.path.dirname(os.path.join(folder, path)), exist_ok=True)
                with open(os.path.join(folder, path), "w", encoding="utf-8") as file:
                    file.write(text)
            yield folder


def ours(root):
    """Every file that is, or would be, in the repository; without git: all but built things."""
    git = subprocess.run(["git", "-C", root, "ls-files", "-co", "--exclude-standard"],
                         capture_output=True, text=True)
    if git.returncode == 0:
        return git.stdout.splitlines()
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        found += [os.path.relpath(os.path.join(folder, name), root) for name in files]
    return found


def line_of(text, position):
    return text.count("\n", 0, position) + 1


def blank(text, strings, comments=True):
    """C++ of the same length with spaces for comments and, if asked, for what strings contain."""
    out, at = [], 0
    while at < len(text):
        end, kind = token_at(text, at)
        token = text[at:end]
        hide = (kind == "comment" and comments) or (kind == "string" and strings)
        if not hide:
            out.append(token)
        elif kind == "string":
            out.append(token[0] + "".join(c if c == "\n" else " " for c in token[1:-1]) + token[-1])
        else:
            out.append("".join(c if c == "\n" else " " for c in token))
        at = end
    return "".join(out)


def token_at(text, at):
    """End and kind of the comment, string or single character that begins here."""
    if text.startswith("//", at):
        end = text.find("\n", at)
        return (len(text) if end < 0 else end), "comment"
    if text.startswith("/*", at):
        end = text.find("*/", at + 2)
        return (len(text) if end < 0 else end + 2), "comment"
    if text.startswith('R"', at) and not (at and (text[at - 1].isalnum() or text[at - 1] == "_")):
        mark = text[at + 2:text.index("(", at)]
        end = text.find(")" + mark + '"', at)
        return (len(text) if end < 0 else end + len(mark) + 2), "string"
    # A quote between digits separates thousands.
    if text[at] == '"' or (text[at] == "'" and not (at and text[at - 1].isalnum())):
        end = at + 1
        while end < len(text) and text[end] not in (text[at], "\n"):
            end += 2 if text[end] == "\\" else 1
        return min(end + 1, len(text)), "string"
    return at + 1, "code"


def matching_brace(code, at):
    """Where the brace that opens at `at` is closed, in blanked code; its end when it never is."""
    depth = 0
    for position in range(at, len(code)):
        if code[position] == "{":
            depth += 1
        elif code[position] == "}":
            depth -= 1
            if depth == 0:
                return position
    return len(code) - 1
