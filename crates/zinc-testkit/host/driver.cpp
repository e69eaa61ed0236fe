// NVIDIA's driver interface, as far as zinc calls it, on the host: one card, whose kernels are the ones compiled into
// this library. So the whole backend runs without a card: streams run beside the thread that fills them, and wait,
// copy and fail as a card does. Modules say how large the parameters of their kernels are, so they must be PTX: the
// card has no machine code of its own.
//
// ZINC_TEST_DRIVER says what is not as usual: "version=12040", "memory=1000000" (bytes of the card), "uuid=" and 32
// digits in hexadecimal (another card, with locks of its own), "fail=cuGraphLaunch:3:719" (what the third call returns,
// and every later one of those that can fail; but a card without memory, 2, goes on with the next call).
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <deque>
#include <dlfcn.h>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

extern "C" int zh_launch(const void *kernel, const char *name, const unsigned *grid, unsigned n_block_threads,
                         size_t n_dynamic, const unsigned char *params, size_t n_params_bytes, int schedule,
                         uint64_t seed, char *error, size_t n_error);
extern "C" void *zh_alloc(size_t n);
extern "C" void zh_free(void *at, size_t n);

namespace {
enum { FINE = 0, INVALID = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, LAUNCH_FAILED = 719 };

typedef std::function<int()> Work;

struct Graph {
    std::vector<Work> works;
};

// What is queued runs in order on a thread of its own.
struct Stream {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<Work> queue;
    bool is_busy = false, is_over = false;
    Graph *recorded = nullptr;
    std::thread thread{[this] { run(); }};

    void run();
    int push(Work work) {
        if (recorded != nullptr) {
            recorded->works.push_back(std::move(work));
            return FINE;
        }
        std::lock_guard<std::mutex> lock(mutex);
        queue.push_back(std::move(work));
        changed.notify_all();
        return FINE;
    }
    void drain() {
        std::unique_lock<std::mutex> lock(mutex);
        changed.wait(lock, [this] { return queue.empty() && !is_busy; });
    }
    void end() {
        {
            std::lock_guard<std::mutex> lock(mutex);
            is_over = true;
            changed.notify_all();
        }
        thread.join();
    }
};

struct Event {
    std::mutex mutex;
    std::condition_variable changed;
    uint64_t n_queued = 0, n_passed = 0;
    double seconds = 0;
};

struct Module {
    std::string text;
};

struct Function {
    std::string name;
    const void *kernel;
    size_t n_params_bytes;
};

struct Card {
    std::mutex mutex;
    int version = 13000;
    uint64_t memory = (uint64_t)1 << 32, used = 0;
    std::string uuid = std::string(32, '5');
    std::map<uint64_t, size_t> blocks;
    std::set<Stream *> streams;
    std::string failing;
    int fails_at = 0, failure = 0, n_calls = 0;
    // What every call returns once something failed.
    std::atomic<int> broken{FINE};

    Card() {
        const char *set = std::getenv("ZINC_TEST_DRIVER");
        std::string rest = set != nullptr ? set : "";
        while (!rest.empty()) {
            size_t comma = rest.find(',');
            std::string one = rest.substr(0, comma), value = one.substr(one.find('=') + 1);
            rest = comma == std::string::npos ? "" : rest.substr(comma + 1);
            if (one.rfind("version=", 0) == 0) version = std::atoi(value.c_str());
            if (one.rfind("memory=", 0) == 0) memory = std::strtoull(value.c_str(), nullptr, 10);
            if (one.rfind("uuid=", 0) == 0) uuid = value;
            if (one.rfind("fail=", 0) == 0) {
                failing = value.substr(0, value.find(':'));
                std::sscanf(value.c_str() + failing.size(), ":%d:%d", &fails_at, &failure);
            }
        }
    }
    int enter(const char *call) {
        std::lock_guard<std::mutex> lock(mutex);
        if (broken != FINE || failing != call || ++n_calls != fails_at) return broken;
        if (failure != OUT_OF_MEMORY) broken = failure;
        return failure;
    }
};

Card &card() {
    static Card *it = new Card;
    return *it;
}

double now() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

void Stream::run() {
    for (;;) {
        Work work;
        {
            std::unique_lock<std::mutex> lock(mutex);
            is_busy = false;
            changed.notify_all();
            changed.wait(lock, [this] { return is_over || !queue.empty(); });
            if (queue.empty()) return;
            work = std::move(queue.front());
            queue.pop_front();
            is_busy = true;
        }
        int code = work();
        if (code != FINE) card().broken = code;
    }
}

// Bytes of a kernel's parameter, as PTX says; 0 when there is no such kernel.
size_t params_bytes(const std::string &text, const std::string &name) {
    std::string mark = ".param .align 8 .b8 " + name + "_param_0[";
    size_t at = text.find(mark);
    return at == std::string::npos ? 0 : std::strtoull(text.c_str() + at + mark.size(), nullptr, 10);
}

// This library, for what it exports.
void *library() {
    Dl_info info;
    dladdr((void *)&params_bytes, &info);
    return dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
}

int launch_now(const Function &function, const unsigned *grid, unsigned n_threads, unsigned shared,
               const std::vector<unsigned char> &params) {
    char error[512] = "";
    int code = zh_launch(function.kernel, function.name.c_str(), grid, n_threads, shared, params.data(),
                         params.size(), 0, 0, error, sizeof error);
    if (code == 0) return FINE;
    std::fprintf(stderr, "test driver: %s\n", error);
    return LAUNCH_FAILED;
}
} // namespace

#define ENTER(call)                                                                                                    \
    if (int code = card().enter(call)) return code
#define API extern "C" int

API cuInit(unsigned) {
    ENTER("cuInit");
    return FINE;
}
API cuDriverGetVersion(int *version) {
    *version = card().version;
    return FINE;
}
API cuGetErrorName(int code, const char **text) {
    *text = code == OUT_OF_MEMORY   ? "CUDA_ERROR_OUT_OF_MEMORY"
            : code == LAUNCH_FAILED ? "CUDA_ERROR_LAUNCH_FAILED"
                                    : "CUDA_ERROR";
    return FINE;
}
API cuGetErrorString(int code, const char **text) {
    (void)code;
    *text = "a test driver's error";
    return FINE;
}
API cuDeviceGetCount(int *n) {
    *n = 1;
    return FINE;
}
API cuDeviceGet(int *device, int) {
    *device = 0;
    return FINE;
}
API cuDeviceGetName(char *name, int n, int) {
    std::snprintf(name, n, "kernels on the host");
    return FINE;
}
API cuDeviceGetUuid_v2(void *uuid, int) {
    const std::string &digits = card().uuid;
    for (size_t i = 0; i < 16; i++)
        ((unsigned char *)uuid)[i] = (unsigned char)std::strtoul(digits.substr(2 * i, 2).c_str(), nullptr, 16);
    return FINE;
}
API cuDeviceTotalMem_v2(size_t *n_bytes, int) {
    *n_bytes = card().memory;
    return FINE;
}
API cuDeviceGetAttribute(int *value, int attribute, int) {
    // An A100 with few multiprocessors.
    switch (attribute) {
    case 16: *value = 4; return FINE;
    case 75: *value = 8; return FINE;
    case 76: *value = 0; return FINE;
    case 81: *value = 164 << 10; return FINE;
    case 97: *value = 163 << 10; return FINE;
    default: return INVALID;
    }
}
API cuDevicePrimaryCtxRetain(void **context, int) {
    ENTER("cuDevicePrimaryCtxRetain");
    *context = &card();
    return FINE;
}
API cuDevicePrimaryCtxRelease_v2(int) { return FINE; }
API cuCtxSetCurrent(void *) { return FINE; }
API cuMemGetInfo_v2(size_t *n_free, size_t *total) {
    std::lock_guard<std::mutex> lock(card().mutex);
    *n_free = card().memory - card().used;
    *total = card().memory;
    return FINE;
}
API cuMemAlloc_v2(uint64_t *address, size_t n) {
    ENTER("cuMemAlloc");
    std::lock_guard<std::mutex> lock(card().mutex);
    if (n > card().memory - card().used) return OUT_OF_MEMORY;
    void *at = zh_alloc(n);
    if (at == nullptr) return OUT_OF_MEMORY;
    card().used += n;
    card().blocks[(uint64_t)at] = n;
    *address = (uint64_t)at;
    return FINE;
}
API cuMemFree_v2(uint64_t address) {
    // Waits for the card, as NVIDIA's does.
    std::set<Stream *> streams;
    {
        std::lock_guard<std::mutex> lock(card().mutex);
        streams = card().streams;
    }
    for (Stream *stream : streams) stream->drain();
    std::lock_guard<std::mutex> lock(card().mutex);
    auto block = card().blocks.find(address);
    if (block == card().blocks.end()) return INVALID;
    card().used -= block->second;
    zh_free((void *)address, block->second);
    card().blocks.erase(block);
    return FINE;
}
API cuMemAllocHost_v2(void **address, size_t n) {
    ENTER("cuMemAllocHost");
    *address = std::malloc(n);
    return *address != nullptr ? FINE : OUT_OF_MEMORY;
}
API cuMemFreeHost(void *address) {
    std::free(address);
    return FINE;
}
API cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t n, void *stream) {
    ENTER("cuMemcpyHtoDAsync");
    return ((Stream *)stream)->push([=] { return std::memcpy((void *)to, from, n), FINE; });
}
API cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t n, void *stream) {
    ENTER("cuMemcpyDtoHAsync");
    return ((Stream *)stream)->push([=] { return std::memcpy(to, (const void *)from, n), FINE; });
}
API cuMemsetD8Async(uint64_t at, unsigned char value, size_t n, void *stream) {
    ENTER("cuMemsetD8Async");
    return ((Stream *)stream)->push([=] { return std::memset((void *)at, value, n), FINE; });
}
API cuStreamCreate(void **stream, unsigned) {
    ENTER("cuStreamCreate");
    std::lock_guard<std::mutex> lock(card().mutex);
    *stream = *card().streams.insert(new Stream).first;
    return FINE;
}
API cuStreamDestroy_v2(void *stream) {
    {
        std::lock_guard<std::mutex> lock(card().mutex);
        card().streams.erase((Stream *)stream);
    }
    ((Stream *)stream)->end();
    delete (Stream *)stream;
    return FINE;
}
API cuStreamSynchronize(void *stream) {
    // First, so that nothing is copied later to what the caller frees.
    ((Stream *)stream)->drain();
    return card().enter("cuStreamSynchronize");
}
API cuStreamBeginCapture_v2(void *stream, unsigned) {
    ENTER("cuStreamBeginCapture");
    ((Stream *)stream)->recorded = new Graph;
    return FINE;
}
API cuStreamEndCapture(void *stream, void **graph) {
    *graph = ((Stream *)stream)->recorded;
    ((Stream *)stream)->recorded = nullptr;
    return FINE;
}
API cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long) {
    ENTER("cuGraphInstantiate");
    *executable = new Graph(*(Graph *)graph);
    return FINE;
}
API cuGraphLaunch(void *graph, void *stream) {
    ENTER("cuGraphLaunch");
    for (const Work &work : ((Graph *)graph)->works) ((Stream *)stream)->push(work);
    return FINE;
}
API cuGraphDestroy(void *graph) {
    delete (Graph *)graph;
    return FINE;
}
API cuGraphExecDestroy(void *graph) {
    delete (Graph *)graph;
    return FINE;
}
API cuEventCreate(void **event, unsigned) {
    *event = new Event;
    return FINE;
}
API cuEventRecord(void *event, void *stream) {
    ENTER("cuEventRecord");
    Event *mark = (Event *)event;
    {
        std::lock_guard<std::mutex> lock(mark->mutex);
        mark->n_queued++;
    }
    return ((Stream *)stream)->push([mark] {
        std::lock_guard<std::mutex> lock(mark->mutex);
        mark->n_passed++;
        mark->seconds = now();
        mark->changed.notify_all();
        return (int)FINE;
    });
}
API cuEventSynchronize(void *event) {
    Event *mark = (Event *)event;
    {
        std::unique_lock<std::mutex> lock(mark->mutex);
        mark->changed.wait(lock, [mark] { return mark->n_passed == mark->n_queued; });
    }
    return card().enter("cuEventSynchronize");
}
API cuEventElapsedTime(float *ms, void *begin, void *end) {
    *ms = (float)((((Event *)end)->seconds - ((Event *)begin)->seconds) * 1e3);
    return FINE;
}
API cuEventDestroy_v2(void *event) {
    Event *mark = (Event *)event;
    {
        std::unique_lock<std::mutex> lock(mark->mutex);
        mark->changed.wait(lock, [mark] { return mark->n_passed == mark->n_queued; });
    }
    delete mark;
    return FINE;
}
API cuModuleLoadData(void **module, const void *image) {
    ENTER("cuModuleLoadData");
    *module = new Module{(const char *)image};
    return FINE;
}
API cuModuleUnload(void *module) {
    delete (Module *)module;
    return FINE;
}
API cuModuleGetFunction(void **function, void *module, const char *name) {
    ENTER("cuModuleGetFunction");
    size_t n_params_bytes = params_bytes(((Module *)module)->text, name);
    const void *kernel = dlsym(library(), name);
    if (kernel == nullptr || n_params_bytes == 0) return NOT_FOUND;
    // Launches that are still queued may need it.
    *function = new Function{name, kernel, n_params_bytes};
    return FINE;
}
API cuFuncSetAttribute(void *, int, int) { return FINE; }

struct LaunchConfig {
    unsigned grid[3], block[3], shared;
    void *stream, *attributes;
    unsigned n_attributes;
};
API cuLaunchKernelEx(const LaunchConfig *config, void *function, void **params, void **) {
    ENTER("cuLaunchKernelEx");
    Function *it = (Function *)function;
    const unsigned char *bytes = (const unsigned char *)params[0];
    std::vector<unsigned char> copy(bytes, bytes + it->n_params_bytes);
    std::vector<unsigned> grid(config->grid, config->grid + 3);
    unsigned n_threads = config->block[0], shared = config->shared;
    return ((Stream *)config->stream)->push([=] { return launch_now(*it, grid.data(), n_threads, shared, copy); });
}
API cuLinkCreate_v2(unsigned, void *, void *, void **state) {
    *state = new std::string("\x7f" "ELF");
    return FINE;
}
API cuLinkAddData_v2(void *state, int, void *data, size_t, const char *, unsigned, void *, void *) {
    *(std::string *)state += (const char *)data;
    return FINE;
}
API cuLinkComplete(void *state, void **image, size_t *n_bytes) {
    std::string &text = *(std::string *)state;
    *image = (void *)text.c_str();
    *n_bytes = text.size() + 1;
    return FINE;
}
API cuLinkDestroy(void *state) {
    delete (std::string *)state;
    return FINE;
}
