/* Threads that outlive a call, borrowed by each call and given back: no call waits for another one's threads, and
 * several callers may be inside the library at once. */
#ifndef FARM_CPU_THREADS_H
#define FARM_CPU_THREADS_H

#include <functional>

namespace farm {

/* Cores that this process may run on. */
int allowed_cores();

/* Runs body(thread) for thread = 0..threads-1, on the caller and threads-1 borrowed threads, all in the default
 * floating-point environment (nearest even, no flushing of subnormals), and returns when all are done. The first
 * exception of a body is thrown again here; std::system_error where a thread can't be started. */
void run_on_threads(int threads, const std::function<void(int)>& body);

}  // namespace farm
#endif
