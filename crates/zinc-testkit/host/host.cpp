// The fibers behind host.cuh, and what the tests call.
#include "host.cuh"
#include <cstdarg>
#include <cstdio>
#include <memory>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>
#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif

// Saves the running fiber's registers on its stack, its stack pointer in *from, and goes on at `to`.
#if defined(__x86_64__)
asm(".text\n.hidden zh_switch\n.globl zh_switch\nzh_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n");
extern "C" void zh_switch(void **from, void *to);
#elif defined(__aarch64__)
asm(".text\n.hidden zh_switch\n.globl zh_switch\nzh_switch:\n"
    "sub sp, sp, #160\n"
    "stp x19, x20, [sp]\nstp x21, x22, [sp, #16]\nstp x23, x24, [sp, #32]\nstp x25, x26, [sp, #48]\n"
    "stp x27, x28, [sp, #64]\nstp x29, x30, [sp, #80]\n"
    "stp d8, d9, [sp, #96]\nstp d10, d11, [sp, #112]\nstp d12, d13, [sp, #128]\nstp d14, d15, [sp, #144]\n"
    "mov x9, sp\nstr x9, [x0]\nmov sp, x1\n"
    "ldp x19, x20, [sp]\nldp x21, x22, [sp, #16]\nldp x23, x24, [sp, #32]\nldp x25, x26, [sp, #48]\n"
    "ldp x27, x28, [sp, #64]\nldp x29, x30, [sp, #80]\n"
    "ldp d8, d9, [sp, #96]\nldp d10, d11, [sp, #112]\nldp d12, d13, [sp, #128]\nldp d14, d15, [sp, #144]\n"
    "add sp, sp, #160\nret\n");
extern "C" void zh_switch(void **from, void *to);
#endif

namespace zh {
thread_local Thread *current;
thread_local Launch launch;

namespace {
constexpr size_t STACK = 128 * 1024, MOST_THREADS = 1024, MOST_SHARED = 232 * 1024;

// A kernel takes one struct by value, of more than 16 bytes and with members of at most 8: that lies on the stack
// (x86-64) or behind a pointer (64-bit Arm), so a function that takes any such struct can be given a longer one.
constexpr size_t MOST_PARAMS = 1024;
struct Params {
    unsigned char bytes[MOST_PARAMS];
};
typedef void (*Kernel)(Params);

struct Copy {
    void *to;
    const void *from;
    unsigned n, n_valid;
};
// Threads that wait for each other.
struct Meeting {
    unsigned n_members = 0, n_arrived = 0, generation = 0;
};
// A product of a group of four warps, as one lane sees it.
struct Product {
    float *d;
    // Rows lane / 4 and 8 + lane / 4 of the warp's part of a.
    float a[2][16];
    uint64_t b;
    unsigned n;
};
// Eight bytes of shared memory.
struct Barrier {
    uint16_t n, n_pending;
    int32_t n_bytes : 31;
    uint32_t phase : 1;
};
struct BulkCopy {
    unsigned to, n, barrier;
    const void *from;
};
struct Fiber : Thread {
    unsigned char *stack = nullptr;
#if defined(__x86_64__) || defined(__aarch64__)
    void *sp = nullptr;
#else
    ucontext_t context;
#endif
    // Waits until the meeting's generation is no longer this one.
    Meeting *waits_for = nullptr;
    unsigned generation = 0;
    bool done = false;
    std::vector<Copy> copies;
    // Ends of the committed groups in `copies`.
    std::vector<size_t> groups;
    std::vector<Product> products;
    std::vector<size_t> product_groups;
    // Waits until this barrier's phase is another one.
    const Barrier *barrier = nullptr;
    unsigned parity = 0;
};
struct Warp : Meeting {
    unsigned char places[2][32 * 64];
};
struct Static {
    const void *key;
    size_t at;
};
struct Engine {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    Meeting block, named[16];
    std::vector<BulkCopy> bulk_copies;
    bool copies_at_once = true, has_bulk_copies = true;
    int votes[2][3];
    unsigned n_fibers = 0, n_live = 0, n_done = 0;
    unsigned char *shared = nullptr;
    size_t n_dynamic = 0, n_shared = 0;
    std::vector<Static> statics;
    Kernel kernel = nullptr;
    const char *name = nullptr;
    Params params;
    char error[512];
    ~Engine() {
        for (Fiber &fiber : fibers) munmap(fiber.stack, STACK);
        if (shared != nullptr) munmap(shared, MOST_SHARED + 4096);
    }
#if defined(__x86_64__) || defined(__aarch64__)
    void *main_sp = nullptr;
#else
    ucontext_t main_context;
#endif
};
thread_local std::unique_ptr<Engine> engine;

void leave(Fiber &fiber) {
#if defined(__x86_64__) || defined(__aarch64__)
    zh_switch(&fiber.sp, engine->main_sp);
#else
    swapcontext(&fiber.context, &engine->main_context);
#endif
}
void enter(Fiber &fiber) {
    current = &fiber;
#if defined(__x86_64__) || defined(__aarch64__)
    zh_switch(&engine->main_sp, fiber.sp);
#else
    swapcontext(&engine->main_context, &fiber.context);
#endif
}
Fiber &self() { return *static_cast<Fiber *>(current); }

// A thread that ended counts as having arrived: CUDA lets the rest of a block go on.
void settle(Meeting &meeting) {
    if (meeting.n_members > 0 && meeting.n_arrived == meeting.n_members) {
        meeting.n_arrived = 0;
        meeting.generation++;
    }
}
void meet(Meeting &meeting) {
    Fiber &fiber = self();
    fiber.waits_for = &meeting;
    fiber.generation = meeting.generation;
    meeting.n_arrived++;
    settle(meeting);
    if (meeting.generation == fiber.generation) leave(fiber);
    fiber.waits_for = nullptr;
}
extern "C" void zh_fiber_main() {
    Fiber &fiber = self();
    engine->kernel(engine->params);
    fiber.done = true;
    if (!fiber.copies.empty()) fail("a thread ended before its asynchronous copies were waited for");
    if (!fiber.products.empty()) fail("a thread ended before its products were waited for");
    engine->n_done++;
    for (Meeting *meeting : {(Meeting *)&engine->block, (Meeting *)&engine->warps[fiber.warp]}) {
        meeting->n_members--;
        settle(*meeting);
    }
    leave(fiber);
    std::abort();
}
void start(Fiber &fiber) {
    fiber.done = false;
    fiber.waits_for = nullptr;
    fiber.n_collectives = 0;
    fiber.copies.clear();
    fiber.groups.clear();
    fiber.products.clear();
    fiber.product_groups.clear();
    fiber.barrier = nullptr;
#if defined(__x86_64__)
    void **sp = reinterpret_cast<void **>(fiber.stack + STACK);
    *--sp = nullptr; // Where a return address would be: the stack is aligned as at a call.
    *--sp = reinterpret_cast<void *>(&zh_fiber_main);
    for (int i = 0; i < 6; i++) *--sp = nullptr;
    fiber.sp = sp;
#elif defined(__aarch64__)
    unsigned char *sp = fiber.stack + STACK - 160;
    std::memset(sp, 0, 160);
    reinterpret_cast<void **>(sp)[11] = reinterpret_cast<void *>(&zh_fiber_main);
    fiber.sp = sp;
#else
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, zh_fiber_main, 0);
#endif
}

struct Rng {
    uint64_t state;
    unsigned below(unsigned n) {
        state += 0x9e3779b97f4a7c15u;
        uint64_t x = state;
        x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
        x = (x ^ x >> 27) * 0x94d049bb133111ebu;
        return (unsigned)((x ^ x >> 31) % n);
    }
};
enum Schedule { FORWARD, REVERSE, RANDOM };
void order(std::vector<unsigned> &all, Schedule schedule, Rng &rng) {
    unsigned n = (unsigned)all.size();
    for (unsigned i = 0; i < n; i++) all[i] = schedule == REVERSE ? n - 1 - i : i;
    if (schedule != RANDOM) return;
    for (unsigned i = n; i > 1; i--) std::swap(all[i - 1], all[rng.below(i)]);
}

void settle(Barrier &barrier) {
    if (barrier.n_pending > 0 || barrier.n_bytes != 0) return;
    barrier.phase ^= 1;
    barrier.n_pending = barrier.n;
}
Barrier &barrier_at(unsigned at) {
    if (at % 8 != 0 || at + 8 > MOST_SHARED) fail("a barrier at %u of shared memory", at);
    return *reinterpret_cast<Barrier *>(engine->shared + at);
}
void copy(const BulkCopy &bulk) {
    std::memcpy(engine->shared + bulk.to, bulk.from, bulk.n);
    Barrier &barrier = *reinterpret_cast<Barrier *>(engine->shared + bulk.barrier);
    barrier.n_bytes -= (int)bulk.n;
    settle(barrier);
}

bool run_block(dim3 block, Schedule schedule, Rng &rng, std::vector<unsigned> &turns) {
    Engine &e = *engine;
    std::memset(e.shared, 0xff, e.n_dynamic + e.n_shared);
    e.n_shared = 0;
    e.statics.clear();
    e.n_done = 0;
    e.block = Meeting();
    e.block.n_members = e.n_fibers;
    for (Meeting &meeting : e.named) meeting = Meeting();
    e.bulk_copies.clear();
    e.copies_at_once = schedule == FORWARD;
    e.has_bulk_copies = schedule != REVERSE;
    for (Warp &warp : e.warps) warp.n_members = warp.n_arrived = warp.generation = 0;
    for (unsigned i = 0; i < e.n_fibers; i++) {
        Fiber &fiber = e.fibers[i];
        fiber.block = block;
        fiber.thread = {i % launch.threads.x, i / launch.threads.x % launch.threads.y,
                        i / launch.threads.x / launch.threads.y};
        fiber.lane = i % 32;
        fiber.warp = i / 32;
        e.warps[i / 32].n_members++;
        start(fiber);
    }
    turns.resize(e.n_fibers);
    order(turns, schedule, rng);
    while (e.n_done < e.n_fibers) {
        bool moved = false;
        for (unsigned turn : turns) {
            Fiber &fiber = e.fibers[turn];
            if (fiber.done) continue;
            if (fiber.waits_for != nullptr && fiber.waits_for->generation == fiber.generation) continue;
            if (fiber.barrier != nullptr && fiber.barrier->phase == fiber.parity) continue;
            moved = true;
            enter(fiber);
            if (e.error[0] != 0) return false;
        }
        if (!moved && !e.bulk_copies.empty()) {
            copy(e.bulk_copies.back());
            e.bulk_copies.pop_back();
            continue;
        }
        if (!moved) {
            std::snprintf(e.error, sizeof e.error, "%s: the threads of block (%u, %u, %u) wait for each other",
                          e.name, block.x, block.y, block.z);
            return false;
        }
        if (schedule == RANDOM) order(turns, schedule, rng);
    }
    return true;
}

void on_fault(int signal, siginfo_t *info, void *) {
    char text[256];
    int n = 0;
    if (engine != nullptr && engine->name != nullptr && current != nullptr) {
        n = std::snprintf(text, sizeof text, "kernel %s, block (%u, %u, %u), thread %u: access outside its buffers at %p\n",
                          engine->name, current->block.x, current->block.y, current->block.z,
                          current->thread.x, info->si_addr);
    } else {
        n = std::snprintf(text, sizeof text, "fault at %p outside a kernel\n", info->si_addr);
    }
    ssize_t written = ::write(2, text, (size_t)n);
    (void)written;
    ::signal(signal, SIG_DFL);
    ::raise(signal);
}
void watch_faults() {
    static bool watched = false;
    if (watched) return;
    watched = true;
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &action, nullptr);
    sigaction(SIGBUS, &action, nullptr);
}
void prepare(unsigned n_fibers, size_t n_dynamic) {
    if (engine == nullptr) {
        engine = std::make_unique<Engine>();
        engine->shared = static_cast<unsigned char *>(
            mmap(nullptr, MOST_SHARED + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        mprotect(engine->shared + MOST_SHARED, 4096, PROT_NONE);
    }
    Engine &e = *engine;
    size_t n_old = e.fibers.size();
    if (n_old < n_fibers) e.fibers.resize(n_fibers);
    for (size_t i = n_old; i < n_fibers; i++) {
        e.fibers[i].stack = static_cast<unsigned char *>(mmap(
            nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    }
    e.warps.resize((n_fibers + 31) / 32);
    e.n_fibers = n_fibers;
    e.n_dynamic = n_dynamic;
    e.error[0] = 0;
}
} // namespace

void sync_threads() { meet(engine->block); }
void sync_warp() { meet(engine->warps[current->warp]); }
const unsigned char *exchange(const void *value, size_t n) {
    Warp &warp = engine->warps[current->warp];
    if (warp.n_members != 32) fail("a warp function in a warp with %u threads", warp.n_members);
    unsigned char *places = warp.places[current->n_collectives++ % 2];
    if (n > 64) fail("an exchange of %zu bytes", n);
    std::memcpy(places + 64 * current->lane, value, n);
    meet(warp);
    return places;
}
unsigned char *shared(const void *key, size_t n) {
    Engine &e = *engine;
    for (const Static &known : e.statics)
        if (known.key == key) return e.shared + known.at;
    size_t at = (e.n_dynamic + 127) / 128 * 128 + (e.n_shared + 127) / 128 * 128;
    if (at + n > MOST_SHARED) fail("more shared memory than a block has");
    // What a block before left there must not be found.
    std::memset(e.shared + at, 0xff, n);
    e.n_shared = at + n - (e.n_dynamic + 127) / 128 * 128;
    e.statics.push_back({key, at});
    return e.shared + at;
}
unsigned char *dynamic_shared() { return engine->shared; }
size_t dynamic_shared_bytes() { return engine->n_dynamic; }

void fail(const char *format, ...) {
    Engine &e = *engine;
    int n = std::snprintf(e.error, sizeof e.error, "%s, block (%u, %u, %u), thread %u: ", e.name,
                          current->block.x, current->block.y, current->block.z, current->thread.x);
    va_list list;
    va_start(list, format);
    std::vsnprintf(e.error + n, sizeof e.error - (size_t)n, format, list);
    va_end(list);
    leave(self());
    std::abort();
}

void copy_later(void *to, const void *from, unsigned n, unsigned n_valid) {
    self().copies.push_back({to, from, n, n_valid});
}
void copy_commit() { self().groups.push_back(self().copies.size()); }
void copy_wait(unsigned n_pending) {
    Fiber &fiber = self();
    if (fiber.groups.size() <= n_pending) return;
    size_t n_groups = fiber.groups.size() - n_pending, n = fiber.groups[n_groups - 1];
    for (size_t i = 0; i < n; i++) {
        const Copy &copy = fiber.copies[i];
        std::memcpy(copy.to, copy.from, copy.n_valid);
        std::memset((char *)copy.to + copy.n_valid, 0, copy.n - copy.n_valid);
    }
    fiber.copies.erase(fiber.copies.begin(), fiber.copies.begin() + (long)n);
    fiber.groups.erase(fiber.groups.begin(), fiber.groups.begin() + (long)n_groups);
    for (size_t &end : fiber.groups) end -= n;
}
} // namespace zh

static_assert(sizeof(zh::Barrier) == 8, "as large as the hardware's");

namespace zh {
void sync_group(unsigned id, unsigned n) {
    if (id >= 16) fail("barrier %u", id);
    engine->named[id].n_members = n;
    meet(engine->named[id]);
}

bool has_bulk_copies() { return engine->has_bulk_copies; }

void barrier_init(unsigned at, unsigned n) {
    Barrier &barrier = barrier_at(at);
    barrier.n = barrier.n_pending = (uint16_t)n;
    barrier.n_bytes = 0;
    barrier.phase = 0;
}
void barrier_arrive(unsigned at, unsigned n_expected_bytes) {
    Barrier &barrier = barrier_at(at);
    if (barrier.n_pending == 0) fail("more arrivals than a barrier has");
    barrier.n_bytes += (int)n_expected_bytes;
    barrier.n_pending--;
    settle(barrier);
}
void barrier_wait(unsigned at, unsigned parity) {
    const Barrier &barrier = barrier_at(at);
    if (barrier.phase != parity) return;
    Fiber &fiber = self();
    fiber.barrier = &barrier;
    fiber.parity = parity;
    leave(fiber);
    fiber.barrier = nullptr;
}
void bulk_copy(unsigned to, const void *from, unsigned n, unsigned barrier) {
    if ((to | n | (uintptr_t)from) % 16 != 0 || to + n > engine->n_dynamic) fail("a bulk copy of %u bytes to %u", n, to);
    barrier_at(barrier);
    BulkCopy bulk = {to, n, barrier, from};
    if (engine->copies_at_once) copy(bulk);
    else engine->bulk_copies.push_back(bulk);
}

static float half_of(unsigned pair, unsigned i) { return __half2float({(uint16_t)(pair >> 16 * i)}); }

void multiply_later(float *d, const unsigned *a, uint64_t b, unsigned n) {
    const unsigned char *all = exchange(a, 16);
    Product product = {d, {}, b, n};
    unsigned g = current->lane / 4;
    for (unsigned k = 0; k < 16; k++) {
        const unsigned *words = reinterpret_cast<const unsigned *>(all + 64 * (4 * g + k % 8 / 2));
        for (unsigned row = 0; row < 2; row++) product.a[row][k] = half_of(words[k / 8 * 2 + row], k % 2);
    }
    self().products.push_back(product);
}
void products_commit() { self().product_groups.push_back(self().products.size()); }

// b: rows of 128 bytes along k, in groups of 8 rows of 1024 bytes; the 16-byte chunk c of row r lies at c ^ (r % 8),
// by the bits of the address itself, so that a start inside a row is one chunk or more along k.
static void multiply(const Product &product) {
    const uint64_t strides = (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
    if ((product.b & ~(uint64_t)0x3fff) != strides) fail("another layout of a matrix than is emulated");
    unsigned start = (unsigned)(product.b & 0x3fff) << 4, t = current->lane % 4;
    for (unsigned j = 0; j < product.n / 8; j++)
        for (unsigned i = 0; i < 2; i++) {
            unsigned row = 8 * j + 2 * t + i;
            float x[16];
            for (unsigned k = 0; k < 16; k++) {
                unsigned at = start + row / 8 * 1024 + row % 8 * 128 + 2 * k;
                at ^= (at >> 7 & 7) << 4;
                if (at + 2 > engine->n_dynamic) fail("a matrix outside of shared memory");
                uint16_t bits;
                std::memcpy(&bits, engine->shared + at, 2);
                x[k] = __half2float({bits});
            }
            for (unsigned half = 0; half < 2; half++) {
                float *d = &product.d[4 * j + 2 * half + i], sum = *d;
                for (unsigned k = 0; k < 16; k++) sum += product.a[half][k] * x[k];
                *d = sum;
            }
        }
}
void products_wait(unsigned n_pending) {
    Fiber &fiber = self();
    if (fiber.product_groups.size() <= n_pending) return;
    size_t n_groups = fiber.product_groups.size() - n_pending, n = fiber.product_groups[n_groups - 1];
    for (size_t i = 0; i < n; i++) multiply(fiber.products[i]);
    fiber.products.erase(fiber.products.begin(), fiber.products.begin() + (long)n);
    fiber.product_groups.erase(fiber.product_groups.begin(), fiber.product_groups.begin() + (long)n_groups);
    for (size_t &end : fiber.product_groups) end -= n;
}
} // namespace zh

static int zh_vote(int value, int which) {
    zh::Engine &e = *zh::engine;
    // Three turns: a vote is cleared two votes before it is used again.
    static thread_local int votes[3][2];
    unsigned turn = e.block.generation % 3;
    if (e.block.n_arrived == 0) votes[turn][0] = votes[turn][1] = 0;
    votes[turn][0] += value != 0;
    votes[turn][1] += 1;
    zh::sync_threads();
    if (which == 0) return votes[turn][0] > 0;
    if (which == 1) return votes[turn][0] == votes[turn][1];
    return votes[turn][0];
}
int __syncthreads_or(int value) { return zh_vote(value, 0); }
int __syncthreads_and(int value) { return zh_vote(value, 1); }
int __syncthreads_count(int value) { return zh_vote(value, 2); }

float __half2float(__half half) {
    uint32_t magnitude = (uint32_t)(half.bits & 0x7fff) << 13;
    float value = zh_bits<float>(magnitude) * 0x1p112f;
    if ((half.bits & 0x7c00) == 0x7c00) value = zh_bits<float>(0x7f800000u | magnitude);
    return half.bits & 0x8000 ? -value : value;
}

__half __float2half_rn(float value) {
    uint32_t bits = zh_bits<uint32_t>(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000u) return {(uint16_t)(sign | 0x7fff)};
    if (magnitude >= 0x477ff000u) return {(uint16_t)(sign | 0x7c00)};
    // One half has the spacing of the smallest f16 numbers.
    if (magnitude < 0x38800000u)
        return {(uint16_t)(sign | (zh_bits<uint32_t>(zh_bits<float>(magnitude) + 0.5f) - 0x3f000000u))};
    magnitude += 0xc8000fffu + (magnitude >> 13 & 1);
    return {(uint16_t)(sign | magnitude >> 13)};
}

// Runs a kernel; 0, or 1 with the reason in `error`. `schedule`: 0 forward, 1 reverse, 2 random.
extern "C" int zh_launch(const void *kernel, const char *name, const unsigned *grid, unsigned n_block_threads,
                         size_t n_dynamic, const unsigned char *params, size_t n_params_bytes, int schedule,
                         uint64_t seed, char *error, size_t n_error) {
    auto refuse = [&](const char *format, auto... values) {
        std::snprintf(error, n_error, format, values...);
        return 1;
    };
    if (n_params_bytes <= 16 || n_params_bytes > zh::MOST_PARAMS)
        return refuse("%s: parameters of %zu bytes", name, n_params_bytes);
    size_t n_threads = n_block_threads;
    if (n_threads == 0 || n_threads > zh::MOST_THREADS || n_dynamic > zh::MOST_SHARED)
        return refuse("%s cannot run %zu threads with %zu bytes of shared memory", name, n_threads, n_dynamic);
    zh::watch_faults();
    zh::prepare((unsigned)n_threads, n_dynamic);
    zh::Engine &e = *zh::engine;
    e.kernel = reinterpret_cast<zh::Kernel>(const_cast<void *>(kernel));
    e.name = name;
    // What a kernel reads past its struct is not zero.
    std::memset(e.params.bytes, 0xff, zh::MOST_PARAMS);
    std::memcpy(e.params.bytes, params, n_params_bytes);
    zh::launch.grid = {grid[0], grid[1], grid[2]};
    zh::launch.threads = {n_block_threads, 1, 1};
    zh::Rng rng{seed};
    std::vector<unsigned> blocks((size_t)grid[0] * grid[1] * grid[2]), turns;
    zh::order(blocks, (zh::Schedule)schedule, rng);
    bool fine = true;
    for (unsigned block : blocks) {
        dim3 at = {block % grid[0], block / grid[0] % grid[1], block / grid[0] / grid[1]};
        fine = zh::run_block(at, (zh::Schedule)schedule, rng, turns);
        if (!fine) break;
    }
    e.name = nullptr;
    if (fine) return 0;
    return refuse("%s", e.error);
}

// Bytes that end where memory that may not be touched begins, filled with 0xff; null when there are none.
extern "C" void *zh_alloc(size_t n) {
    size_t n_pages = (n + 4095) / 4096 * 4096;
    size_t n_guard = 65536;
    void *all = mmap(nullptr, n_pages + 2 * n_guard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) return nullptr;
    unsigned char *start = static_cast<unsigned char *>(all) + n_guard;
    mprotect(all, n_guard, PROT_NONE);
    mprotect(start + n_pages, n_guard, PROT_NONE);
    std::memset(start, 0xff, n_pages);
    // Kernels may rely on an alignment of 256 bytes.
    return start + (n_pages - n) / 256 * 256;
}
extern "C" void zh_free(void *at, size_t n) {
    size_t n_pages = (n + 4095) / 4096 * 4096;
    unsigned char *start = static_cast<unsigned char *>(at) - (n_pages - n) / 256 * 256;
    munmap(start - 65536, n_pages + 2 * 65536);
}
