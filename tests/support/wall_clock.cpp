// Preloaded into a program: its wall clock is off by as many seconds as the file that CWSANDBOX_TEST_CLOCK names says at that
// moment. The steady clock is the kernel's.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>

namespace {

const volatile long* map_offset() {
  static const long none = 0;
  const char* path = getenv("CWSANDBOX_TEST_CLOCK");
  const int fd = path != nullptr ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  void* at = fd < 0 ? MAP_FAILED : mmap(nullptr, sizeof(long), PROT_READ, MAP_SHARED, fd, 0);
  if (fd >= 0) close(fd);
  return at == MAP_FAILED ? &none : static_cast<const volatile long*>(at);
}

long offset() {
  static const volatile long* const at = map_offset();
  return *at;
}

}  // namespace

extern "C" int clock_gettime(clockid_t clock, timespec* now) noexcept {
  const long result = syscall(SYS_clock_gettime, clock, now);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += offset();
  return static_cast<int>(result);
}

extern "C" int gettimeofday(timeval* now, void*) noexcept {
  timespec precise{};
  const int result = clock_gettime(CLOCK_REALTIME, &precise);
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  return result;
}

extern "C" time_t time(time_t* now) noexcept {
  timespec precise{};
  static_cast<void>(clock_gettime(CLOCK_REALTIME, &precise));
  if (now != nullptr) *now = precise.tv_sec;
  return precise.tv_sec;
}
