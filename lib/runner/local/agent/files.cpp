#include "runner/local/agent/files.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

namespace cwsandbox::runner::local::agent {

namespace {

constexpr int kMaxLinks = 40;  // as the kernel's own
constexpr std::size_t kMaxWrites = 256;
constexpr std::size_t kMaxPseudo = 16u << 20;
constexpr unsigned kMaxDepth = 32;  // of removal: a descriptor for each
// What local_watch.cpp understands. Not of entries that have no name any more, which nobody could tell apart.
constexpr std::uint32_t kWatched = IN_CREATE | IN_MODIFY | IN_CLOSE_WRITE | IN_ATTRIB | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO |
                                   IN_DELETE_SELF | IN_MOVE_SELF | IN_EXCL_UNLINK;

int open_at(int base, const char* path, int flags, std::uint32_t mode = 0) {
  open_how how{};
  how.flags = static_cast<unsigned>(flags | O_CLOEXEC);
  how.mode = mode;
  how.resolve = RESOLVE_NO_MAGICLINKS;
  return static_cast<int>(syscall(SYS_openat2, base, path, &how, sizeof how));
}

// Where a path begins: nowhere in particular for an absolute one, else at the working directory.
struct Base {
  UniqueFd held;
  int fd = AT_FDCWD;
  [[nodiscard]] int set(const char* cwd, const char* path) {
    if (path[0] == '/') return 0;
    held.reset(open_at(AT_FDCWD, cwd, O_PATH | O_DIRECTORY));
    fd = held.get();
    return held ? 0 : errno;
  }
};

// A name in a directory that is held open, so that what happens to the directory's path does not matter.
struct Place {
  UniqueFd directory;
  char name[NAME_MAX + 2];  // with one slash behind it when the path had any: the kernel then asks for a directory
  std::size_t length = 0;   // without it
  [[nodiscard]] bool ends_in_slash() const { return name[length] != '\0'; }
  [[nodiscard]] bool is_dots() const {
    return (length == 1 && name[0] == '.') || (length == 2 && name[0] == '.' && name[1] == '.');
  }
};

int locate(int base, const char* path, Place& place) {
  const std::size_t whole = strlen(path);
  if (whole == 0) return ENOENT;
  if (whole >= PATH_MAX) return ENAMETOOLONG;
  std::size_t end = whole;
  while (end > 0 && path[end - 1] == '/') --end;
  std::size_t begin = end;
  while (begin > 0 && path[begin - 1] != '/') --begin;
  place.length = end - begin;
  if (place.length > NAME_MAX) return ENAMETOOLONG;
  memcpy(place.name, path + begin, place.length);
  if (place.length == 0) place.name[place.length++] = '.';  // the root
  place.name[place.length] = '\0';
  if (end > 0 && end < whole) {
    place.name[place.length] = '/';
    place.name[place.length + 1] = '\0';
  }
  char directory[PATH_MAX] = ".";
  if (begin > 0) {
    memcpy(directory, path, begin);
    directory[begin] = '\0';
  } else if (end == 0) {
    directory[0] = '/';
  }
  place.directory.reset(open_at(base, directory, O_PATH | O_DIRECTORY));
  return place.directory ? 0 : errno;
}

int locate(const FileRequest& request, const char* path, Place& place) {
  Base base;
  const int error = base.set(request.cwd, path);
  return error != 0 ? error : locate(base.fd, path, place);
}

int give(int fd, UniqueFd& out) {
  if (fd < 0) return errno;
  out.reset(fd);
  return 0;
}

// Where the kernel shows what `fd` is.
void name_of(int fd, char (&path)[32]) {
  strcpy(path, "/proc/self/fd/");
  char digits[12];
  std::size_t n = 0;
  for (unsigned left = static_cast<unsigned>(fd); n == 0 || left > 0; left /= 10) digits[n++] = static_cast<char>('0' + left % 10);
  char* to = path + strlen(path);
  while (n > 0) *to++ = digits[--n];
  *to = '\0';
}

int reopen(int fd, int flags) {
  char path[32];
  name_of(fd, path);
  return open(path, flags | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
}

// What /proc says of this process, which may look into itself where nobody else in the sandbox may.
int check_not_own(int fd) {
  char path[32];
  name_of(fd, path);
  char target[64];
  const ssize_t n = readlink(path, target, sizeof target);
  if (n < 0) return errno;
  static constexpr char kProc[] = "/proc/";  // what is cut off lies behind the number
  if (static_cast<std::size_t>(n) < sizeof kProc - 1 || memcmp(target, kProc, sizeof kProc - 1) != 0) return 0;
  pid_t number = 0;
  ssize_t at = sizeof kProc - 1;
  for (; at < n && at < 16 && target[at] >= '0' && target[at] <= '9'; ++at) number = number * 10 + (target[at] - '0');
  if (number == 0 || (at < n && target[at] != '/')) return 0;
  // Each of its threads has a place of its own there.
  return syscall(SYS_tgkill, getpid(), number, 0) == 0 ? EACCES : 0;
}

[[nodiscard]] bool is_proc(int fd) {
  struct statfs system{};
  return fstatfs(fd, &system) != 0 || system.f_type == PROC_SUPER_MAGIC;
}

// Whether the content is made while it is read, by the kernel or a program behind FUSE or 9p: then the size says nothing of it. An
// empty file that may be one costs a worker.
[[nodiscard]] bool is_made_while_read(const struct statfs& system, const struct stat& status) {
  switch (static_cast<std::uint64_t>(system.f_type)) {
    case PROC_SUPER_MAGIC:
    case SYSFS_MAGIC:
    case CGROUP_SUPER_MAGIC:
    case CGROUP2_SUPER_MAGIC:
    case DEBUGFS_MAGIC:
    case TRACEFS_MAGIC:
    case SECURITYFS_MAGIC:
      return true;
    case BTRFS_SUPER_MAGIC:
    case EXT4_SUPER_MAGIC:
    case F2FS_SUPER_MAGIC:
    case NFS_SUPER_MAGIC:
    case OVERLAYFS_SUPER_MAGIC:
    case RAMFS_MAGIC:
    case SQUASHFS_MAGIC:
    case TMPFS_MAGIC:
    case XFS_SUPER_MAGIC:
      return false;
    default:
      return status.st_size == 0;
  }
}

[[nodiscard]] bool same_file(const struct stat& one, const struct stat& other) {
  return one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

// Every directory on the way, component by component: a path of thousands of them is walked once and not once for each.
int make_path(int base, const char* path, std::size_t length) {
  UniqueFd at(base == AT_FDCWD ? open_at(AT_FDCWD, "/", O_PATH | O_DIRECTORY) : open_at(base, ".", O_PATH | O_DIRECTORY));
  if (!at) return errno;
  for (std::size_t i = 0; i < length;) {
    if (path[i] == '/') {
      ++i;
      continue;
    }
    std::size_t end = i;
    while (end < length && path[end] != '/') ++end;
    if (end - i > NAME_MAX) return ENAMETOOLONG;
    char name[NAME_MAX + 1];
    memcpy(name, path + i, end - i);
    name[end - i] = '\0';
    i = end;
    UniqueFd next(open_at(at.get(), name, O_PATH | O_DIRECTORY));
    if (!next && errno == ENOENT) {
      if (mkdirat(at.get(), name, 0755) != 0 && errno != EEXIST) return errno;
      next.reset(open_at(at.get(), name, O_PATH | O_DIRECTORY));
    }
    if (!next) return errno;
    at = std::move(next);
  }
  return 0;
}

int make_parents(const FileRequest& request) {
  std::size_t length = strlen(request.path);
  if (length >= PATH_MAX) return ENAMETOOLONG;
  while (length > 0 && request.path[length - 1] == '/') --length;
  while (length > 0 && request.path[length - 1] != '/') --length;
  if (length == 0) return 0;
  Base base;
  const int error = base.set(request.cwd, request.path);
  return error != 0 ? error : make_path(base.fd, request.path, length);
}

// ---- Files being written ----

struct Write {
  Write* next = nullptr;
  std::uint64_t seq = 0;
  UniqueFd directory, file;
  std::uint32_t mode = 0;
  bool set_time = false;
  bool in_memory = false;
  bool append = false;  // to what others may write to, too: it has its name, and nothing is done to it at the end
  std::int64_t modified = 0;
  off_t reserved = 0;
  char name[NAME_MAX + 1];
  char temporary[NAME_MAX + 1];  // empty: it has no name, so nobody else can open it
};

Write* writes = nullptr;
std::size_t write_count = 0;

// There is no C++ runtime for new and delete.
Write* new_write() {
  void* memory = malloc(sizeof(Write));
  return memory == nullptr ? nullptr : new (memory) Write;
}

void free_write(Write* write) {
  write->~Write();
  free(write);
}

void keep_write(Write* write) {
  write->next = writes;
  writes = write;
  ++write_count;
}

Write* find_write(std::uint64_t seq) {
  Write* at = writes;
  while (at != nullptr && at->seq != seq) at = at->next;
  return at;
}

Write* take_write(std::uint64_t seq) {
  for (Write** at = &writes; *at != nullptr; at = &(*at)->next) {
    if ((*at)->seq != seq) continue;
    Write* found = *at;
    *at = found->next;
    --write_count;
    return found;
  }
  return nullptr;
}

// Under its temporary name there is still the file that was made: others in the sandbox may have done what they like.
int check_temporary(const Write& write) {
  struct stat made{};
  struct stat named{};
  if (fstat(write.file.get(), &made) != 0) return errno;
  if (fstatat(write.directory.get(), write.temporary, &named, AT_SYMLINK_NOFOLLOW) != 0) return errno;
  return same_file(made, named) ? 0 : ESTALE;
}

// What everything else has been done for: last, so that nothing changes it again.
int set_time(const Write& write) {
  constexpr std::int64_t kSecond = 1'000'000'000;
  timespec times[2] = {};
  times[0].tv_nsec = UTIME_OMIT;
  times[1].tv_sec = static_cast<time_t>(write.modified / kSecond);
  times[1].tv_nsec = static_cast<long>(write.modified % kSecond);
  if (times[1].tv_nsec < 0) {  // before 1970
    times[1].tv_nsec += kSecond;
    --times[1].tv_sec;
  }
  return futimens(write.file.get(), times) == 0 ? 0 : errno;
}

void drop_temporary(const Write& write) {
  if (write.temporary[0] != '\0' && check_temporary(write) == 0) unlinkat(write.directory.get(), write.temporary, 0);
}

// Whether a rename over it would be refused for a sticky directory: known before all the bytes have been sent.
bool may_replace(int directory, const struct stat& old) {
  struct stat status{};
  const uid_t self = geteuid();
  if (self == 0 || old.st_uid == self || fstat(directory, &status) != 0) return true;
  return (status.st_mode & S_ISVTX) == 0 || status.st_uid == self;
}

// The place of the file that `request.path` names, symlinks in the last place followed by hand, so that the temporary file is made
// beside what they lead to. `mode` is the old file's, where there is one.
int find_target(const FileRequest& request, Place& place, std::uint32_t& mode) {
  char path[PATH_MAX];
  if (strlen(request.path) >= sizeof path) return ENAMETOOLONG;
  strcpy(path, request.path);
  int error = locate(request, path, place);
  for (int links = 0; error == 0 && links < kMaxLinks; ++links) {
    if (place.is_dots()) return EISDIR;
    struct stat old{};
    const int directory = place.directory.get();
    // A slash behind it makes a directory of it: then it is one, or there is none of that name.
    if (place.ends_in_slash()) return fstatat(directory, place.name, &old, 0) == 0 ? EISDIR : errno == ENOENT ? ENOTDIR : errno;
    if (fstatat(directory, place.name, &old, AT_SYMLINK_NOFOLLOW) != 0) return errno == ENOENT ? 0 : errno;
    if (S_ISDIR(old.st_mode)) return EISDIR;
    if (S_ISREG(old.st_mode)) {
      if (!may_replace(directory, old)) return EPERM;
      if ((request.flags & kKeepMode) != 0) mode = old.st_mode & 0777;
      return 0;
    }
    if (!S_ISLNK(old.st_mode)) return EINVAL;
    const ssize_t n = readlinkat(directory, place.name, path, sizeof path);
    if (n < 0) return errno;
    if (n == 0) return ENOENT;
    if (static_cast<std::size_t>(n) >= sizeof path) return ENAMETOOLONG;
    path[n] = '\0';
    const UniqueFd from(place.directory.release());
    error = locate(path[0] == '/' ? AT_FDCWD : from.get(), path, place);
  }
  return error != 0 ? error : ELOOP;
}

void name_temporary(const char* name, char (&to)[NAME_MAX + 1]) {
  static constexpr char kMark[] = ".cwsandbox-";
  constexpr std::size_t kRandom = 8;
  constexpr std::size_t kRoom = NAME_MAX - 1 - (sizeof kMark - 1) - kRandom;
  const std::size_t kept = strnlen(name, kRoom);
  char* at = to;
  *at++ = '.';
  memcpy(at, name, kept);
  at += kept;
  memcpy(at, kMark, sizeof kMark - 1);
  at += sizeof kMark - 1;
  unsigned char random[kRandom] = {};
  if (getrandom(random, sizeof random, GRND_NONBLOCK) < 0) {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    memcpy(random, &now.tv_nsec, sizeof random);
  }
  for (const unsigned char byte : random) *at++ = "abcdefghijklmnopqrstuvwxyz234567"[byte & 31];
  *at = '\0';
}

constexpr int kNames = 100;  // that are tried, for a temporary one that nobody has

// One without a name where there can be such, so that nobody in the sandbox can have it open while it is written: whoever can may
// hold its lock for as long as they like. Else under a temporary name.
int make_new(Write& write) {
  const int directory = write.directory.get();
  write.temporary[0] = '\0';
  write.file.reset(openat(directory, ".", O_WRONLY | O_TMPFILE | O_CLOEXEC, 0600));
  // EISDIR, ENOENT: from kernels and file systems that do not know the flag.
  if (write.file || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT && errno != EINVAL)) return write.file ? 0 : errno;
  for (int attempt = 0; attempt < kNames; ++attempt) {
    name_temporary(write.name, write.temporary);
    write.file.reset(openat(directory, write.temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC, 0600));
    if (write.file) return 0;
    if (errno != EEXIST) break;
  }
  return errno;
}

int reserve(Write& write, std::int32_t bytes) {
  if (!write.in_memory) return 0;
  if (write.append) {
    // Behind what is there now. What others write meanwhile takes of it: then as much of theirs is reserved, and not of this.
    struct stat status{};
    if (fstat(write.file.get(), &status) != 0) return errno;
    return fallocate(write.file.get(), FALLOC_FL_KEEP_SIZE, status.st_size, bytes) == 0 ? 0 : errno;
  }
  if (fallocate(write.file.get(), FALLOC_FL_KEEP_SIZE, write.reserved, bytes) != 0) return errno;
  write.reserved += bytes;
  return 0;
}

// Gives it its name, or a temporary one beside what bears that, to be put in its place.
int link_new(Write& write, bool& named) {
  char path[32];
  name_of(write.file.get(), path);
  const int directory = write.directory.get();
  named = linkat(AT_FDCWD, path, directory, write.name, AT_SYMLINK_FOLLOW) == 0;
  if (named) return 0;
  for (int attempt = 0; errno == EEXIST && attempt < kNames; ++attempt) {
    name_temporary(write.name, write.temporary);
    if (linkat(AT_FDCWD, path, directory, write.temporary, AT_SYMLINK_FOLLOW) == 0) return 0;
  }
  write.temporary[0] = '\0';
  return errno;
}

// ---- Removing trees ----

unsigned long moved = 0;

int empty_directory(int directory, int top, unsigned depth);

// 0 also for what is not there, or is something else by now: who goes through the directory looks again.
int remove_entry(int directory, const char* name, int top, unsigned depth) {
  if (unlinkat(directory, name, 0) == 0 || errno == ENOENT) return 0;
  if (errno != EISDIR && errno != EPERM) return errno;
  if (unlinkat(directory, name, AT_REMOVEDIR) == 0 || errno == ENOENT || errno == ENOTDIR) return 0;
  if (errno != ENOTEMPTY && errno != EEXIST) return errno;
  if (depth >= kMaxDepth) {
    // However deep it goes, only so many descriptors are open: what lies deeper is moved up to be done from there.
    for (;;) {
      char up[40] = ".cwsandbox-remove-";
      char* at = up + strlen(up);
      for (unsigned long left = ++moved; left > 0; left /= 10) *at++ = static_cast<char>('0' + left % 10);
      *at = '\0';
      if (renameat2(directory, name, top, up, RENAME_NOREPLACE) == 0 || errno == ENOENT) return 0;
      if (errno != EEXIST) return errno;
    }
  }
  const UniqueFd inner(openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!inner) return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? 0 : errno;
  const int error = empty_directory(inner.get(), top, depth + 1);
  if (error != 0) return error;
  if (unlinkat(directory, name, AT_REMOVEDIR) == 0) return 0;
  return errno == ENOENT || errno == ENOTEMPTY || errno == ENOTDIR ? 0 : errno;
}

struct Entry {  // as the kernel's linux_dirent64
  std::uint64_t inode;
  std::int64_t offset;
  unsigned short length;
  unsigned char type;
  char name[1];
};

int empty_directory(int directory, int top, unsigned depth) {
  for (;;) {
    if (lseek(directory, 0, SEEK_SET) < 0) return errno;
    bool any = false;
    for (;;) {
      alignas(Entry) char entries[4096];
      const long n = syscall(SYS_getdents64, directory, entries, sizeof entries);
      if (n < 0 && errno == ENOENT) return 0;  // it was removed meanwhile
      if (n < 0) return errno;
      if (n == 0) break;
      for (long at = 0; at < n;) {
        const auto* entry = reinterpret_cast<const Entry*>(entries + at);
        at += entry->length;
        if (strcmp(entry->name, ".") == 0 || strcmp(entry->name, "..") == 0) continue;
        any = true;
        const int error = remove_entry(directory, entry->name, top, depth);
        if (error != 0) return error;
      }
    }
    if (!any) return 0;
  }
}

}  // namespace

int open_file(const FileRequest& request, UniqueFd& out, bool& pseudo) {
  Base base;
  if (const int error = base.set(request.cwd, request.path); error != 0) return error;
  const UniqueFd found(open_at(base.fd, request.path, O_PATH));
  struct stat status{};
  struct statfs system{};
  if (!found || fstat(found.get(), &status) != 0 || fstatfs(found.get(), &system) != 0) return errno;
  if (S_ISDIR(status.st_mode)) return EISDIR;
  if (!S_ISREG(status.st_mode)) return EINVAL;
  pseudo = is_made_while_read(system, status);
  if (const int error = pseudo ? check_not_own(found.get()) : 0; error != 0) return error;
  return give(reopen(found.get(), O_RDONLY), out);
}

int stat_file(const FileRequest& request, UniqueFd& out) {
  Base base;
  if (const int error = base.set(request.cwd, request.path); error != 0) return error;
  return give(open_at(base.fd, request.path, O_PATH | ((request.flags & kFollow) != 0 ? 0 : O_NOFOLLOW)), out);
}

int list_directory(const FileRequest& request, UniqueFd& out) {
  Base base;
  if (const int error = base.set(request.cwd, request.path); error != 0) return error;
  UniqueFd found(open_at(base.fd, request.path, O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_NOCTTY));
  if (!found) return errno;
  if (const int error = is_proc(found.get()) ? check_not_own(found.get()) : 0; error != 0) return error;
  out = std::move(found);
  return 0;
}

int watch_file(const FileRequest& request, UniqueFd& out) {
  Base base;
  if (const int error = base.set(request.cwd, request.path); error != 0) return error;
  const UniqueFd found(open_at(base.fd, request.path, O_PATH));
  if (!found) return errno;
  if (const int error = is_proc(found.get()) ? check_not_own(found.get()) : 0; error != 0) return error;
  UniqueFd events(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  if (!events) return errno;
  // That very file, whatever bears its name by now.
  char path[32];
  name_of(found.get(), path);
  if (inotify_add_watch(events.get(), path, kWatched) < 0) return errno;
  out = std::move(events);
  return 0;
}

int make_directory(const FileRequest& request) {
  const bool parents = (request.flags & kParents) != 0;
  if (const int error = parents ? make_parents(request) : 0; error != 0) return error;
  Place place;
  if (const int error = locate(request, request.path, place); error != 0) return error;
  umask(0);  // the mode is the one that was asked for
  const int error = mkdirat(place.directory.get(), place.name, request.mode) == 0 ? 0 : errno;
  umask(022);
  if (error != EEXIST || !parents) return error;
  const UniqueFd there(open_at(place.directory.get(), place.name, O_PATH | O_DIRECTORY));
  return there ? 0 : EEXIST;
}

int rename_file(const FileRequest& request) {
  Place from, to;
  if (const int error = locate(request, request.path, from); error != 0) return error;
  if (const int error = locate(request, request.second, to); error != 0) return error;
  return renameat(from.directory.get(), from.name, to.directory.get(), to.name) == 0 ? 0 : errno;
}

namespace {

// What may be written to the end of: only files on a disk or in memory, since a write to others may do anything, and is the
// gateway's then.
int check_appendable(int fd) {
  struct stat status{};
  struct statfs system{};
  if (fstat(fd, &status) != 0 || fstatfs(fd, &system) != 0) return errno;
  if (S_ISDIR(status.st_mode)) return EISDIR;
  status.st_size = 1;  // an empty one is as good as any
  return S_ISREG(status.st_mode) && !is_made_while_read(system, status) ? 0 : EINVAL;
}

int open_to_append(const FileRequest& request, UniqueFd& out) {
  Base base;
  if (const int error = base.set(request.cwd, request.path); error != 0) return error;
  // Looked at first: to open a device may be to do something to it.
  const UniqueFd found(open_at(base.fd, request.path, O_PATH));
  if (!found && errno != ENOENT) return errno;
  UniqueFd file;
  if (found) {
    if (const int error = check_appendable(found.get()); error != 0) return error;
    file.reset(reopen(found.get(), O_WRONLY | O_APPEND));
  } else {
    umask(0);  // the mode is the one that was asked for
    file.reset(open_at(base.fd, request.path, O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_NOCTTY, request.mode));
    const int error = errno;
    umask(022);
    errno = error;
  }
  if (!file) return errno;
  if (const int error = check_appendable(file.get()); error != 0) return error;
  Write* write = new_write();
  if (write == nullptr) return ENOMEM;
  struct statfs system{};
  write->in_memory = fstatfs(file.get(), &system) == 0 && system.f_type == TMPFS_MAGIC;
  if (const int error = give(fcntl(file.get(), F_DUPFD_CLOEXEC, 3), out); error != 0) {
    free_write(write);
    return error;
  }
  write->seq = request.seq;
  write->append = true;
  write->temporary[0] = '\0';
  write->file = std::move(file);
  keep_write(write);
  return 0;
}

}  // namespace

int create_file(const FileRequest& request, UniqueFd& out) {
  if (write_count >= kMaxWrites) return EMFILE;
  if ((request.flags & kParents) != 0) {
    if (const int error = make_parents(request); error != 0) return error;
  }
  if ((request.flags & kAppend) != 0) return open_to_append(request, out);
  Place place;
  std::uint32_t mode = request.mode;
  if (const int error = find_target(request, place, mode); error != 0) return error;
  Write* write = new_write();
  if (write == nullptr) return ENOMEM;
  write->seq = request.seq;
  write->mode = mode;
  write->set_time = (request.flags & kSetTime) != 0;
  write->modified = request.modified;
  memcpy(write->name, place.name, place.length + 1);
  write->directory.reset(place.directory.release());
  int error = make_new(*write);
  struct statfs system{};
  if (error == 0) {
    write->in_memory = fstatfs(write->file.get(), &system) == 0 && system.f_type == TMPFS_MAGIC;
    error = reserve(*write, kFirstReserved);
    if (error != 0) drop_temporary(*write);
  }
  if (error == 0) {
    error = give(fcntl(write->file.get(), F_DUPFD_CLOEXEC, 3), out);
    if (error != 0) drop_temporary(*write);
  }
  if (error != 0) {
    free_write(write);
    return error;
  }
  keep_write(write);
  return 0;
}

int reserve_file(std::uint64_t seq, std::int32_t bytes) {
  Write* write = find_write(seq);
  if (write == nullptr) return EBADF;
  return bytes > 0 ? reserve(*write, bytes) : EINVAL;
}

int commit_file(std::uint64_t seq) {
  Write* write = take_write(seq);
  if (write == nullptr) return EBADF;
  if (write->append) {
    free_write(write);
    return 0;
  }
  const int directory = write->directory.get();
  const int file = write->file.get();
  struct stat status{};
  bool named = false;
  int error = write->temporary[0] == '\0' ? 0 : check_temporary(*write);
  // What was reserved beyond the end is given back.
  if (error == 0 && write->reserved > 0 && (fstat(file, &status) != 0 || ftruncate(file, status.st_size) != 0)) error = errno;
  if (error == 0 && fchmod(file, write->mode) != 0) error = errno;
  if (error == 0 && write->set_time) error = set_time(*write);
  if (error == 0 && write->temporary[0] == '\0') error = link_new(*write, named);
  if (error == 0 && !named && renameat(directory, write->temporary, directory, write->name) != 0) error = errno;
  if (error != 0) drop_temporary(*write);
  free_write(write);
  return error;
}

void abort_file(std::uint64_t seq) {
  Write* write = take_write(seq);
  if (write == nullptr) return;
  drop_temporary(*write);
  free_write(write);
}

int remove_file(const FileRequest& request) {
  Place place;
  if (const int error = locate(request, request.path, place); error != 0) return error;
  if (place.is_dots()) return EINVAL;
  const int directory = place.directory.get();
  if (unlinkat(directory, place.name, 0) == 0) return 0;
  // ENOTDIR: with a slash behind it, which a directory may have.
  if (errno != EISDIR && errno != EPERM && (errno != ENOTDIR || !place.ends_in_slash())) return errno;
  if (unlinkat(directory, place.name, AT_REMOVEDIR) == 0) return 0;
  return errno == EEXIST ? ENOTEMPTY : errno;
}

int remove_tree(const FileRequest& request) {
  Place place;
  if (const int error = locate(request, request.path, place); error != 0) return error;
  if (place.is_dots()) return EINVAL;
  place.name[place.length] = '\0';
  const int directory = place.directory.get();
  const UniqueFd top(openat(directory, place.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!top) return errno;
  for (;;) {
    if (const int error = empty_directory(top.get(), top.get(), 0); error != 0) return error;
    if (unlinkat(directory, place.name, AT_REMOVEDIR) == 0) return 0;
    if (errno != ENOTEMPTY && errno != EEXIST) return errno;
    struct stat opened{};
    struct stat named{};
    // Something else bears the name now: it is not what was to be removed.
    if (fstat(top.get(), &opened) != 0 || fstatat(directory, place.name, &named, AT_SYMLINK_NOFOLLOW) != 0) return errno;
    if (!same_file(opened, named)) return ENOTEMPTY;
  }
}

int copy_pseudo(int from, int to) {
  static char part[64 * 1024];
  std::size_t seen = 0;
  for (;;) {
    const ssize_t n = read(from, part, sizeof part);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0) return 0;
    seen += static_cast<std::size_t>(n);
    if (seen > kMaxPseudo) return EFBIG;
    for (ssize_t done = 0; done < n;) {
      const ssize_t written = write(to, part + done, static_cast<std::size_t>(n - done));
      if (written < 0 && errno != EINTR) return errno;
      if (written > 0) done += written;
    }
  }
}

}  // namespace cwsandbox::runner::local::agent
