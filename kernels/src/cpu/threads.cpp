#include "threads.h"

#include <fenv.h>
#include <pthread.h>
#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace farm {
namespace {

/* A caller may have changed rounding or set FTZ and DAZ (torch.set_flush_denormal does): the bits must not follow. */
class DefaultArithmetic {
 public:
  DefaultArithmetic() {
    fegetenv(&saved_);
    fesetenv(FE_DFL_ENV);
  }
  ~DefaultArithmetic() { fesetenv(&saved_); }
  DefaultArithmetic(const DefaultArithmetic&) = delete;
  DefaultArithmetic& operator=(const DefaultArithmetic&) = delete;

 private:
  fenv_t saved_;
};

struct Call {
  const std::function<void(int)>& body;
  std::mutex mutex;
  std::condition_variable done;
  int running;
  std::exception_ptr error;

  void run(int thread) {
    std::exception_ptr thrown;
    try {
      const DefaultArithmetic arithmetic;
      body(thread);
    } catch (...) {
      thrown = std::current_exception();
    }
    const std::lock_guard<std::mutex> lock(mutex);
    if (thrown && !error) error = thrown;
    if (--running == 0) done.notify_one();
  }
};

class Helper {
 public:
  Helper() : thread_([this] { loop(); }) { thread_.detach(); }

  void start(Call* call, int number) {
    const std::lock_guard<std::mutex> lock(mutex_);
    call_ = call;
    number_ = number;
    wake_.notify_one();
  }

 private:
  void loop();

  std::mutex mutex_;
  std::condition_variable wake_;
  Call* call_ = nullptr;
  int number_ = 0;
  std::thread thread_;
};

struct Pool {
  std::mutex mutex;
  std::vector<Helper*> idle;
};

/* Never destroyed: helpers may still sleep in it while the process runs its exit handlers. */
Pool* pool = nullptr;

/* A forked child has none of its parent's threads, and perhaps a mutex locked by one of them. */
void forget_after_fork() { pool = new Pool; }

Pool& the_pool() {
  static std::once_flag once;
  std::call_once(once, [] {
    pool = new Pool;
    pthread_atfork(nullptr, nullptr, forget_after_fork);
  });
  return *pool;
}

void Helper::loop() {
  for (;;) {
    Call* call;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [this] { return call_ != nullptr; });
      call = std::exchange(call_, nullptr);
    }
    call->run(number_);
    /* The call may be gone from here on. */
    Pool& home = the_pool();
    const std::lock_guard<std::mutex> lock(home.mutex);
    home.idle.push_back(this);
  }
}

std::vector<Helper*> borrow(int count) {
  Pool& home = the_pool();
  std::vector<Helper*> borrowed;
  const std::lock_guard<std::mutex> lock(home.mutex);
  home.idle.reserve(home.idle.size() + size_t(count));
  try {
    while (int(borrowed.size()) < count) {
      if (home.idle.empty()) {
        borrowed.push_back(new Helper);
      } else {
        borrowed.push_back(home.idle.back());
        home.idle.pop_back();
      }
    }
  } catch (...) {
    home.idle.insert(home.idle.end(), borrowed.begin(), borrowed.end());
    throw;
  }
  return borrowed;
}

}  // namespace

int allowed_cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, int(std::thread::hardware_concurrency()));
}

void run_on_threads(int threads, const std::function<void(int)>& body) {
  const std::vector<Helper*> helpers = borrow(threads - 1);
  Call call{body, {}, {}, threads, nullptr};
  for (int i = 0; i < threads - 1; ++i) helpers[size_t(i)]->start(&call, i + 1);
  call.run(0);
  std::unique_lock<std::mutex> lock(call.mutex);
  call.done.wait(lock, [&call] { return call.running == 0; });
  if (call.error) std::rethrow_exception(call.error);
}

}  // namespace farm
