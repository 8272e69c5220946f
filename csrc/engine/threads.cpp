#include "engine/threads.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

#if !defined(_WIN32)
#include <pthread.h>
#endif
#if defined(__linux__)
#include <dlfcn.h>
#include <sched.h>
#include <unistd.h>
#endif

#include "engine/float_mode.hpp"

namespace fastmap {
namespace {

// Each member of a team has a range of the parts, the same in every call of one size: what the last call left in its
// cache it finds there, also after an operation of torch, which cuts tensors like that. Who is through takes parts of the
// others.
class Task {
 public:
  const std::size_t threads;

  Task(void (*work)(const void*, std::size_t), const void* context, std::size_t parts, std::size_t threads)
      : threads(threads),
        work_(work),
        context_(context),
        parts_(parts),
        ranges_(std::min(threads, kMostRanges)) {
    for (std::size_t r = 0; r < ranges_; ++r) next_[r].part = begin(r);
  }
  // Member 0 is the caller; beyond `threads` there is nothing to do.
  void join(std::size_t member) {
    if (member >= threads) return;
    FloatMode mode;
    for (std::size_t k = 0; k < ranges_; ++k) {
      const std::size_t r = (member + k) % ranges_, end = begin(r + 1);
      for (std::size_t i; (i = next_[r].part.fetch_add(1, std::memory_order_relaxed)) < end;)
        work_(context_, i);
    }
  }

 private:
  static constexpr std::size_t kMostRanges = 64;
  std::size_t begin(std::size_t range) const { return range * parts_ / ranges_; }

  void (*work_)(const void*, std::size_t);
  const void* context_;
  std::size_t parts_, ranges_;
  struct alignas(64) Next {  // lines of their own
    std::atomic<std::size_t> part;
  } next_[kMostRanges];
};

// The OpenMP threads of torch, where it is in the process. They spin for milliseconds after each of its parallel
// regions, and threads of our own would wait for the cores that they spin on; as theirs, our parts start at once. Only
// from the main thread: OpenMP makes new threads for every thread that asks.
class TorchTeam {
 public:
  bool run(Task& task) {
    if (!usable() || std::size_t(max_threads_()) < task.threads) return false;
    Job job{&task, thread_number_};
    parallel_([](void* j) { static_cast<Job*>(j)->join(); }, &job, 0, 0);
    return true;
  }

 private:
#if defined(__linux__)
  bool usable() {
    if (getpid() != gettid()) return false;
    if (searched_in_ != getpid()) search();
    return parallel_ && max_threads_ && thread_number_;
  }
  void search() {
    parallel_ = nullptr;
    void* torch = dlopen("libtorch_cpu.so", RTLD_NOW | RTLD_NOLOAD);
    if (!torch) return;  // not yet
    searched_in_ = getpid();
    if (is_forked()) return;  // the threads of OpenMP stayed with the parent, but it would wait for them
    // Of the library that torch is linked with: GCC's, or that of LLVM or Intel, which have GCC's interface, too.
    parallel_ = reinterpret_cast<Parallel>(dlsym(torch, "GOMP_parallel"));
    max_threads_ = reinterpret_cast<Number>(dlsym(torch, "omp_get_max_threads"));
    thread_number_ = reinterpret_cast<Number>(dlsym(torch, "omp_get_thread_num"));
  }
  // Whether this process was forked and has not called exec.
  static bool is_forked() {
    constexpr unsigned long kForkedWithoutExec = 0x40;  // PF_FORKNOEXEC of the kernel
    char line[512] = "";
    if (std::FILE* file = std::fopen("/proc/self/stat", "r")) {
      line[std::fread(line, 1, sizeof line - 1, file)] = 0;
      std::fclose(file);
    }
    unsigned long flags;  // the seventh field after the name, which may hold anything
    const char* name_end = std::strrchr(line, ')');
    return !name_end || std::sscanf(name_end, ") %*c %*d %*d %*d %*d %*d %lu", &flags) != 1 ||
           (flags & kForkedWithoutExec);
  }

  pid_t searched_in_ = 0;
#else
  bool usable() { return false; }
#endif

  using Parallel = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);
  using Number = int (*)();
  struct Job {
    Task* task;
    Number thread_number;
    void join() const { task->join(std::size_t(thread_number())); }
  };
  Parallel parallel_ = nullptr;
  Number max_threads_ = nullptr, thread_number_ = nullptr;
} torch_team;

class Pool {
 public:
  void run(Task& task, std::size_t helpers) {
    bool published = false;
    {
      std::lock_guard lock(mutex_);
      if (!task_) {
        start_threads(helpers);
        task_ = &task;
        helpers_ = std::min(helpers, started_);
        ++number_;
        published = true;
      }
    }
    if (published) wake_.notify_all();
    task.join(0);
    if (!published) return;
    std::unique_lock lock(mutex_);
    helpers_ = 0;
    idle_.wait(lock, [&] { return at_work_ == 0; });
    task_ = nullptr;
  }

 private:
  void start_threads(std::size_t wanted) {
    for (; started_ < wanted; ++started_) {
      try {
        std::thread([this, member = started_ + 1] { serve(member); }).detach();
      } catch (const std::system_error&) {
        return;  // no more threads here: those that exist do the work
      }
    }
  }

  [[noreturn]] void serve(std::size_t member) {
    std::unique_lock lock(mutex_);
    for (std::size_t served = 0;;) {
      wake_.wait(lock, [&] { return member <= helpers_ && served != number_; });
      served = number_;
      ++at_work_;
      Task& task = *task_;
      lock.unlock();
      task.join(member);
      lock.lock();
      if (--at_work_ == 0) idle_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  Task* task_ = nullptr;
  std::size_t started_ = 0, at_work_ = 0, helpers_ = 0, number_ = 0;  // the last two: of the task
};

// Never destroyed: its threads may outlive static destructors. A forked child has none of the threads
// and perhaps a locked mutex, so it starts with a new pool.
std::atomic<Pool*> pool{nullptr};

Pool& current_pool() {
  static const int once = [] {
    pool = new Pool;
#if defined(_WIN32)
    return 0;  // there is no fork
#else
    return pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
#endif
  }();
  (void)once;
  return *pool;
}

int allowed_processors() {
  int n = int(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) n = CPU_COUNT(&set);
  if (std::FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {  // "max 100000" if unlimited
    double quota, period;
    if (std::fscanf(file, "%lf %lf", &quota, &period) == 2)
      n = std::min(n, int((quota + period - 1) / period));
    std::fclose(file);
  }
#endif
  return std::max(n, 1);
}

int default_threads() {
  if (const char* text = std::getenv("FASTMAP_NUM_THREADS"); text && *text) {
    char* end = nullptr;
    const long n = std::strtol(text, &end, 10);
    if (*end || n < 1 || n > 4096)
      throw std::invalid_argument("FASTMAP_NUM_THREADS: expected a positive integer, got " +
                                  std::string(text));
    return int(n);
  }
  // OpenMP allows a list, one number per nesting level: the first counts.
  if (const char* text = std::getenv("OMP_NUM_THREADS"))
    if (const int n = std::atoi(text); n > 0) return n;
  return allowed_processors();
}

std::atomic<int> configured_threads{0};

}  // namespace

int num_threads() {
  const int n = configured_threads.load(std::memory_order_relaxed);
  if (n > 0) return n;
  static const int fallback = default_threads();
  return fallback;
}

void set_num_threads(int n) {
  if (n < 1) throw std::invalid_argument("n must be at least 1, got " + std::to_string(n));
  configured_threads = n;
}

void run_parts(std::size_t parts, std::size_t threads, void (*work)(const void*, std::size_t),
               const void* context) {
  threads = std::min(threads, parts);
  Task task(work, context, parts, std::max<std::size_t>(threads, 1));
  if (threads <= 1) return task.join(0);
  if (!torch_team.run(task)) current_pool().run(task, threads - 1);
}

}  // namespace fastmap
