// A small pool of threads in which the caller takes part.
#pragma once

#include <cstddef>

namespace fastmap {

// set_num_threads, else FASTMAP_NUM_THREADS, else OMP_NUM_THREADS, else the processors this process may
// use. Throws std::invalid_argument if FASTMAP_NUM_THREADS is not a positive integer.
int num_threads();
void set_num_threads(int n);

// Calls work(context, i) once for each i in [0, parts), on up to `threads` threads including the caller;
// returns when all are done. Whoever is free takes parts, so a late or busy thread delays nobody. A call that finds the
// pool in use runs on the caller alone. Where torch is in the process, its threads are taken. Safe after fork.
void run_parts(std::size_t parts, std::size_t threads, void (*work)(const void* context, std::size_t i),
               const void* context);

template <class Work> void for_each_part(std::size_t parts, std::size_t threads, const Work& work) {
  run_parts(parts, threads, [](const void* w, std::size_t i) { (*static_cast<const Work*>(w))(i); }, &work);
}

}  // namespace fastmap
