#include "engine/threads.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

#if !defined(_WIN32)
#include <pthread.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif

#include "engine/float_mode.hpp"

namespace fastmap {
namespace {

struct Task {
  void (*work)(const void*, std::size_t);
  const void* context;
  std::size_t parts;
  std::atomic<std::size_t> next{0};

  void take_parts() {
    FloatMode mode;
    for (std::size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < parts;) work(context, i);
  }
};

class Pool {
 public:
  void run(Task& task, std::size_t helpers) {
    bool published = false;
    {
      std::lock_guard lock(mutex_);
      if (!task_) {
        start_threads(helpers);
        task_ = &task;
        open_seats_ = std::min(helpers, started_);
        published = true;
      }
    }
    if (published) wake_.notify_all();
    task.take_parts();
    if (!published) return;
    std::unique_lock lock(mutex_);
    open_seats_ = 0;
    idle_.wait(lock, [&] { return at_work_ == 0; });
    task_ = nullptr;
  }

 private:
  void start_threads(std::size_t wanted) {
    for (; started_ < wanted; ++started_) {
      try {
        std::thread([this] { serve(); }).detach();
      } catch (const std::system_error&) {
        return;  // no more threads here: those that exist do the work
      }
    }
  }

  [[noreturn]] void serve() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return open_seats_ > 0; });
      --open_seats_;
      ++at_work_;
      Task& task = *task_;
      lock.unlock();
      task.take_parts();
      lock.lock();
      if (--at_work_ == 0) idle_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  Task* task_ = nullptr;
  std::size_t started_ = 0, open_seats_ = 0, at_work_ = 0;
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
  Task task{work, context, parts};
  threads = std::min(threads, parts);
  if (threads <= 1) return task.take_parts();
  current_pool().run(task, threads - 1);
}

}  // namespace fastmap
