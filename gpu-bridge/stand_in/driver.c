// A driver made of host memory: the calls of `libcuda.so.1` that this crate and its tests make, for
// machines without a GPU. It is as late and as strict as a real one may be.
//
// Copies and kernels happen no sooner than somebody asks for an event or a stream. Device memory
// cannot be touched but by them. What a real driver would let pass, or answer with a fault an hour
// later, ends the process: a copy of memory that was freed or unpinned meanwhile, or past its end; a
// call without a context; a handle that is no more.
//
// What a reader would get wrong: it says nothing about speed, about alignment inside a kernel's
// loads, or about what hardware does between two streams. Only a GPU does.
//
// STAND_IN_DEVICES: how many there are, 1 if unset. STAND_IN_VERSION: 13000 if unset.
// STAND_IN_NO_READ_ONLY: memory that is mapped for reading is not pinned. STAND_IN_NO_BATCHES: the
// call for a batch of copies is there, and refuses the device. STAND_IN_NO_DMA_BUF: memory is not
// exported; where it is, what stands for the dma-buf is a memfd.

#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef uint64_t address;
enum { OK = 0, INVALID = 1, NO_MEMORY = 2, NO_DEVICE = 100, NO_CONTEXT = 201, BAD_PTX = 218,
       BAD_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600, PINNED = 712, NOT_PINNED = 713 };

#define DIE(...) (fprintf(stderr, "stand-in driver: " __VA_ARGS__), fputc('\n', stderr), abort())
#define CALL(name, ...) __attribute__((visibility("default"))) int name(__VA_ARGS__)

// The kernel, as C: the threads one after the other.
typedef struct { uint32_t x, y, z, w; } uint4;
typedef struct { unsigned int x, y, z; } dim3;
static dim3 threadIdx, blockIdx, blockDim, gridDim;
static uint4 load(const uint4 *from)
{
    if ((uintptr_t)from % 16)
        DIE("a load at %p", (const void *)from);
    return *from;
}
static void store(uint4 *to, uint4 value)
{
    if ((uintptr_t)to % 16)
        DIE("a store at %p", (void *)to);
    *to = value;
}
#define LOAD(from) load(from)
#define STORE(to, value) store(to, value)
#define __device__
#define __global__
#define __launch_bounds__(threads)
#include "pages.c"
#undef LOAD
#undef STORE
#undef LANES
#undef LOADS
static unsigned long long load_word(const unsigned long long *from)
{
    if ((uintptr_t)from % 8)
        DIE("a load at %p", (const void *)from);
    return *from;
}
static void add_to(unsigned long long *to, unsigned long long value) { *to ^= value; }
#define LOAD(from) load_word(from)
#define ADD(to, value) add_to(to, value)
#include "sums.c"

// Ranges of memory: of the device, and of the host as the device knows it.
enum kind { DEVICE, HOST, HOST_READ_ONLY };
struct range { address start; size_t bytes; enum kind kind; int memfd; struct range *next; };
static struct range *ranges;

static struct range *find(address start, size_t bytes)
{
    for (struct range *r = ranges; r; r = r->next)
        if (start >= r->start && start - r->start <= r->bytes && bytes <= r->bytes - (start - r->start))
            return r;
    return NULL;
}

static int overlaps(address start, size_t bytes)
{
    for (struct range *r = ranges; r; r = r->next)
        if (start < r->start + r->bytes && r->start < start + bytes)
            return 1;
    return 0;
}

static void add(address start, size_t bytes, enum kind kind, int memfd)
{
    struct range *r = malloc(sizeof *r);
    *r = (struct range){start, bytes, kind, memfd, ranges};
    ranges = r;
}

// Takes out the range that begins here; its length, or 0 if there is none of this kind.
static size_t drop(address start, int is_device)
{
    for (struct range **at = &ranges; *at; at = &(*at)->next)
        if ((*at)->start == start && ((*at)->kind == DEVICE) == is_device) {
            struct range *gone = *at;
            size_t bytes = gone->bytes;
            *at = gone->next;
            if (gone->memfd >= 0)
                close(gone->memfd);
            free(gone);
            return bytes;
        }
    return 0;
}

// Device memory is there for the device alone.
static void protect(int protection)
{
    static int open;
    if (protection == PROT_NONE ? --open : open++)
        return;
    for (struct range *r = ranges; r; r = r->next)
        if (r->kind == DEVICE)
            mprotect((void *)r->start, (r->bytes + 4095) & ~4095UL, protection);
}

enum side { PINNED_SIDE, DEVICE_SIDE, EITHER };
static void check(const char *what, address at, size_t bytes, enum side side, int is_written)
{
    struct range *r = find(at, bytes);
    if (!r || (side != EITHER && (r->kind == DEVICE) != (side == DEVICE_SIDE)))
        DIE("%s: %zu bytes at %#lx are no %s memory", what, bytes, at,
            side == DEVICE_SIDE ? "device" : side == EITHER ? "known" : "pinned");
    if (is_written && r->kind == HOST_READ_ONLY)
        DIE("%s: %zu bytes at %#lx are pinned for reading", what, bytes, at);
}

// Streams: what was queued, in order.
struct event { struct stream *stream; uint64_t after; int is_gone; };
struct op {
    enum { COPY, FILL, WAIT, KERNEL, SUMS } kind;
    address to, from;
    size_t bytes;
    struct stream *other;
    uint64_t after;
    unsigned blocks;
    address tiles, places;
    unsigned tile_count, place_count, to_device;
    address tables, sums;
    struct op *next;
};
struct stream { struct op *first, **last; uint64_t queued, done; int is_gone, is_captured, magic; };
static struct stream standard;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread int depth, capture_mode;

static struct stream *stream_of(void *raw)
{
    struct stream *s = (uintptr_t)raw <= 2 ? &standard : raw;
    if (s == &standard && !s->last)
        s->last = &s->first;
    if (s->is_gone)
        DIE("a stream that was destroyed");
    return s;
}

static void queue(struct stream *s, struct op op)
{
    struct op *o = malloc(sizeof *o);
    *o = op;
    o->next = NULL;
    *s->last = o;
    s->last = &o->next;
    s->queued++;
}

static void run_until(struct stream *s, uint64_t after);

static void kernel(struct op *o)
{
    struct larder_tile *tiles = (void *)o->tiles;
    struct larder_place *places = (void *)o->places;
    check("the kernel's tiles", o->tiles, o->tile_count * sizeof *tiles, 1, 0);
    check("the kernel's places", o->places, o->place_count * sizeof *places, 1, 0);
    for (unsigned p = 0; p < o->place_count; p++)
        for (unsigned t = 0; t < o->tile_count; t++) {
            check("the kernel", places[p].object + tiles[t].object, tiles[t].bytes, EITHER, !o->to_device);
            check("the kernel", places[p].device + tiles[t].device, tiles[t].bytes, 1, o->to_device);
        }
    gridDim.x = o->blocks;
    blockDim.x = 32;
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++)
        for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++)
            larder_pages(tiles, o->tile_count, places, o->place_count, o->to_device);
}

static void sums(struct op *o)
{
    struct larder_sum_tile *tiles = (void *)o->tiles;
    check("the sums' tiles", o->tiles, o->tile_count * sizeof *tiles, DEVICE_SIDE, 0);
    check("the sums' tables", o->tables, sizeof(struct larder_sum_tables), DEVICE_SIDE, 0);
    for (unsigned t = 0; t < o->tile_count; t++) {
        unsigned front = tiles[t].shape >> 16 & 15, back = tiles[t].shape >> 20 & 15;
        size_t bytes = 8 * (tiles[t].shape & 0xffff) - front - back;
        check("a sum", tiles[t].address + front, bytes, EITHER, 0);
        check("a sum's place", o->sums + 8 * tiles[t].range, 8, DEVICE_SIDE, 1);
    }
    gridDim.x = o->blocks;
    blockDim.x = 32;
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++)
        for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++)
            larder_sums(tiles, o->tile_count, (void *)o->tables, (void *)o->sums);
}

static void step(struct stream *s)
{
    struct op *o = s->first;
    s->first = o->next;
    if (!s->first)
        s->last = &s->first;
    if (o->kind == WAIT)
        run_until(o->other, o->after);
    protect(PROT_READ | PROT_WRITE);
    if (o->kind == COPY) {
        check("a copy's target", o->to, o->bytes, EITHER, 1);
        check("a copy's source", o->from, o->bytes, EITHER, 0);
        memcpy((void *)o->to, (void *)o->from, o->bytes);
    } else if (o->kind == FILL) {
        check("what is filled", o->to, o->bytes, DEVICE_SIDE, 1);
        memset((void *)o->to, (int)o->from, o->bytes);
    } else if (o->kind == KERNEL) {
        kernel(o);
    } else if (o->kind == SUMS) {
        sums(o);
    }
    protect(PROT_NONE);
    free(o);
    s->done++;
}

static void run_until(struct stream *s, uint64_t after)
{
    protect(PROT_READ | PROT_WRITE);
    while (s->done < after)
        step(s);
    protect(PROT_NONE);
}

#define ENTER                                                                                      \
    if (!depth)                                                                                    \
        return NO_CONTEXT;                                                                         \
    pthread_mutex_lock(&lock)
#define LEAVE(code) return pthread_mutex_unlock(&lock), (code)

static int number(const char *name, int otherwise)
{
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

CALL(cuInit, unsigned flags) { return flags ? INVALID : number("STAND_IN_DEVICES", 1) ? OK : NO_DEVICE; }
CALL(cuDriverGetVersion, int *version) { return *version = number("STAND_IN_VERSION", 13000), OK; }
CALL(cuDeviceGetCount, int *count) { return *count = number("STAND_IN_DEVICES", 1), OK; }
CALL(cuDeviceGet, int *device, int ordinal)
{
    return *device = ordinal, ordinal < number("STAND_IN_DEVICES", 1) ? OK : 101;
}
CALL(cuDeviceGetName, char *name, int length, int device)
{
    return (void)device, snprintf(name, length, "host memory, standing in"), OK;
}
CALL(cuDeviceGetPCIBusId, char *name, int length, int device)
{
    return (void)device, snprintf(name, length, "0000:00:00.0"), OK;
}
CALL(cuDeviceTotalMem_v2, size_t *bytes, int device) { return (void)device, *bytes = 16UL << 30, OK; }
CALL(cuDeviceGetAttribute, int *value, int attribute, int device)
{
    (void)device;
    int version = number("STAND_IN_VERSION", 13000);
    switch (attribute) {
    case 16: *value = 4; return OK;
    case 75: *value = 9; return OK;
    case 76: *value = 0; return OK;
    case 91: *value = 1; return OK;
    case 113: *value = !getenv("STAND_IN_NO_READ_ONLY"); return version < 11010 ? INVALID : OK;
    case 117: *value = 1; return version < 11030 ? INVALID : OK;
    case 118: *value = 0; return version < 11030 ? INVALID : OK;
    case 124: *value = !getenv("STAND_IN_NO_DMA_BUF"); return version < 11070 ? INVALID : OK;
    default: return INVALID;
    }
}
CALL(cuDevicePrimaryCtxRetain, void **context, int device) { return (void)device, *context = &standard, OK; }
CALL(cuDevicePrimaryCtxRelease_v2, int device) { return (void)device, OK; }
CALL(cuCtxPushCurrent_v2, void *context) { return context == &standard ? depth++, OK : NO_CONTEXT; }
CALL(cuCtxPopCurrent_v2, void **context)
{
    if (!depth)
        DIE("a context is popped that nobody pushed");
    return *context = &standard, depth--, OK;
}
CALL(cuGetErrorName, int code, const char **text)
{
    switch (code) {
    case NO_MEMORY: *text = "CUDA_ERROR_OUT_OF_MEMORY"; return OK;
    case NO_DEVICE: *text = "CUDA_ERROR_NO_DEVICE"; return OK;
    case PINNED: *text = "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED"; return OK;
    default: *text = "CUDA_ERROR"; return OK;
    }
}
CALL(cuGetErrorString, int code, const char **text) { return (void)code, *text = "said by the stand-in", OK; }

// Memory.
CALL(cuMemAlloc_v2, address *start, size_t bytes)
{
    ENTER;
    if (!bytes)
        LEAVE(INVALID);
    if (bytes > 16UL << 30)
        LEAVE(NO_MEMORY);
    // So that it can be exported; a network card has a mapping of its own then.
    int memfd = memfd_create("device", MFD_CLOEXEC);
    if (memfd < 0 || ftruncate(memfd, (bytes + 4095) & ~4095UL))
        LEAVE(NO_MEMORY);
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    if (base == MAP_FAILED)
        LEAVE(NO_MEMORY);
    // Somebody else's, until it is zeroed.
    memset(base, 0xd0, bytes);
    mprotect(base, bytes, PROT_NONE);
    add(*start = (address)base, bytes, DEVICE, memfd);
    LEAVE(OK);
}
CALL(cuMemFree_v2, address start)
{
    ENTER;
    size_t bytes = drop(start, 1);
    if (!bytes)
        DIE("what is freed was not allocated");
    munmap((void *)start, bytes);
    LEAVE(OK);
}
CALL(cuMemcpyHtoD_v2, address to, const void *from, size_t bytes)
{
    ENTER;
    check("cuMemcpyHtoD", to, bytes, 1, 1);
    protect(PROT_READ | PROT_WRITE);
    memcpy((void *)to, from, bytes);
    protect(PROT_NONE);
    LEAVE(OK);
}
CALL(cuMemcpyDtoH_v2, void *to, address from, size_t bytes)
{
    ENTER;
    check("cuMemcpyDtoH", from, bytes, 1, 0);
    protect(PROT_READ | PROT_WRITE);
    memcpy(to, (void *)from, bytes);
    protect(PROT_NONE);
    LEAVE(OK);
}
CALL(cuMemHostAlloc, void **base, size_t bytes, unsigned flags)
{
    ENTER;
    (void)flags;
    *base = aligned_alloc(4096, (bytes + 4095) & ~4095UL);
    add((address)*base, bytes, HOST, -1);
    LEAVE(OK);
}
CALL(cuMemFreeHost, void *base)
{
    ENTER;
    if (!drop((address)base, 0))
        DIE("pinned memory that is freed was not allocated");
    free(base);
    LEAVE(OK);
}
CALL(cuMemHostRegister_v2, void *base, size_t bytes, unsigned flags)
{
    ENTER;
    if (!bytes || !base)
        LEAVE(INVALID);
    if (overlaps((address)base, bytes))
        LEAVE(PINNED);
    if ((flags & 8) && getenv("STAND_IN_NO_READ_ONLY"))
        LEAVE(801);
    // A real one would write what it is let to: look whether it can.
    if (!(flags & 8)) {
        int ends[2];
        if (pipe(ends) || write(ends[1], base, 1) != 1 || read(ends[0], base, 1) != 1)
            DIE("memory that is pinned cannot be written");
        close(ends[0]);
        close(ends[1]);
    }
    add((address)base, bytes, flags & 8 ? HOST_READ_ONLY : HOST, -1);
    LEAVE(OK);
}
CALL(cuMemHostUnregister, void *base)
{
    ENTER;
    int code = drop((address)base, 0) ? OK : NOT_PINNED;
    LEAVE(code);
}
CALL(cuMemHostGetDevicePointer_v2, address *start, void *base, unsigned flags)
{
    ENTER;
    struct range *r = find((address)base, 1);
    *start = (address)base;
    LEAVE(!flags && r && r->kind != DEVICE ? OK : INVALID);
}
CALL(cuPointerGetAttribute, void *value, int attribute, address at)
{
    ENTER;
    struct range *r = find(at, 1);
    if (!r)
        LEAVE(INVALID);
    if (attribute == 2)
        *(unsigned *)value = r->kind == DEVICE ? 2 : 1;
    else if (attribute == 9)
        *(int *)value = 0;
    LEAVE(attribute == 2 || attribute == 9 ? OK : INVALID);
}
CALL(cuMemGetAddressRange_v2, address *start, size_t *bytes, address at)
{
    ENTER;
    struct range *r = find(at, 1);
    if (!r)
        LEAVE(NOT_FOUND);
    *start = r->start;
    *bytes = r->bytes;
    LEAVE(OK);
}
CALL(cuIpcGetMemHandle, unsigned char handle[64], address at)
{
    ENTER;
    struct range *r = find(at, 1);
    if (!r || r->start != at)
        LEAVE(INVALID);
    memset(handle, 0, 64);
    memcpy(handle, &at, sizeof at);
    LEAVE(OK);
}
CALL(cuMemGetHandleForAddressRange, int *fd, address at, size_t bytes, int kind, uint64_t flags)
{
    ENTER;
    struct range *r = find(at, bytes);
    if (!r || r->start != at || r->kind != DEVICE || kind != 1 || flags || at % 4096 || bytes % 4096)
        LEAVE(INVALID);
    *fd = fcntl(r->memfd, F_DUPFD_CLOEXEC, 0);
    LEAVE(*fd < 0 ? NO_MEMORY : OK);
}
CALL(cuFlushGPUDirectRDMAWrites, int target, int scope)
{
    if (number("STAND_IN_VERSION", 13000) < 11030)
        DIE("a call that drivers before CUDA 11.3 do not have");
    ENTER;
    LEAVE(target == 0 && scope == 100 ? OK : INVALID);
}
struct handle { unsigned char bytes[64]; };
CALL(cuIpcOpenMemHandle_v2, address *start, struct handle handle, unsigned flags)
{
    return (void)start, (void)handle, flags == 1 ? NO_CONTEXT : INVALID;
}

// Streams and events.
CALL(cuStreamCreate, void **raw, unsigned flags)
{
    ENTER;
    (void)flags;
    struct stream *s = calloc(1, sizeof *s);
    s->last = &s->first;
    *raw = s;
    LEAVE(OK);
}
CALL(cuStreamDestroy_v2, void *raw)
{
    ENTER;
    struct stream *s = stream_of(raw);
    run_until(s, s->queued);
    s->is_gone = 1;
    LEAVE(OK);
}
CALL(cuStreamSynchronize, void *raw)
{
    ENTER;
    if (!raw)
        DIE("a wait for the default stream, on which a model computes");
    struct stream *s = stream_of(raw);
    run_until(s, s->queued);
    LEAVE(OK);
}
CALL(cuStreamIsCapturing, void *raw, int *status)
{
    ENTER;
    *status = (uintptr_t)raw > 2 && ((struct stream *)raw)->is_captured;
    LEAVE(OK);
}
// A graph is being made of what is put into a stream, by somebody else.
CALL(cuStreamBeginCapture_v2, void *raw, int mode)
{
    (void)mode;
    ENTER;
    ((struct stream *)raw)->is_captured = 1;
    LEAVE(OK);
}
CALL(cuStreamEndCapture, void *raw, void **graph)
{
    ENTER;
    *graph = NULL;
    LEAVE(((struct stream *)raw)->is_captured-- ? OK : INVALID);
}
CALL(cuThreadExchangeStreamCaptureMode, int *mode)
{
    int before = capture_mode;
    capture_mode = *mode;
    *mode = before;
    return OK;
}
CALL(cuEventCreate, void **raw, unsigned flags)
{
    ENTER;
    (void)flags;
    *raw = calloc(1, sizeof(struct event));
    LEAVE(OK);
}
CALL(cuEventRecord, struct event *event, void *raw)
{
    ENTER;
    event->stream = stream_of(raw);
    event->after = event->stream->queued;
    LEAVE(OK);
}
// Most calls that may wait would spoil a graph that another thread makes, unless this one has said
// that it has nothing to do with it.
static void tolerate(const char *what)
{
    if (capture_mode != 2)
        DIE("%s: a graph that another thread captures is spoilt by it", what);
}
CALL(cuEventQuery, struct event *event)
{
    ENTER;
    tolerate("cuEventQuery");
    if (event->is_gone)
        DIE("an event that was destroyed");
    if (!event->stream || event->stream->done >= event->after)
        LEAVE(OK);
    // So that who polls gets on.
    step(event->stream);
    LEAVE(NOT_READY);
}
CALL(cuEventSynchronize, struct event *event)
{
    ENTER;
    if (event->is_gone)
        DIE("an event that was destroyed");
    if (event->stream)
        run_until(event->stream, event->after);
    LEAVE(OK);
}
CALL(cuEventDestroy_v2, struct event *event)
{
    ENTER;
    if (event->is_gone++)
        DIE("an event that was destroyed");
    LEAVE(OK);
}
CALL(cuStreamWaitEvent, void *raw, struct event *event, unsigned flags)
{
    ENTER;
    if (event->is_gone || flags)
        DIE("an event that was destroyed");
    if (event->stream)
        queue(stream_of(raw), (struct op){.kind = WAIT, .other = event->stream, .after = event->after});
    LEAVE(OK);
}

// Copies.
static int copy(void *stream, address to, address from, size_t bytes, enum side target,
                enum side source)
{
    check("a copy's target", to, bytes, target, 1);
    check("a copy's source", from, bytes, source, 0);
    queue(stream_of(stream), (struct op){.kind = COPY, .to = to, .from = from, .bytes = bytes});
    return OK;
}
CALL(cuMemcpyHtoDAsync_v2, address to, const void *from, size_t bytes, void *stream)
{
    ENTER;
    LEAVE(copy(stream, to, (address)from, bytes, DEVICE_SIDE, PINNED_SIDE));
}
CALL(cuMemcpyDtoHAsync_v2, void *to, address from, size_t bytes, void *stream)
{
    ENTER;
    LEAVE(copy(stream, (address)to, from, bytes, PINNED_SIDE, DEVICE_SIDE));
}
CALL(cuMemsetD8Async, address start, unsigned char value, size_t bytes, void *stream)
{
    ENTER;
    check("cuMemsetD8Async", start, bytes, DEVICE_SIDE, 1);
    queue(stream_of(stream), (struct op){.kind = FILL, .to = start, .from = value, .bytes = bytes});
    LEAVE(OK);
}
CALL(cuMemcpyDtoDAsync_v2, address to, address from, size_t bytes, void *stream)
{
    ENTER;
    LEAVE(copy(stream, to, from, bytes, DEVICE_SIDE, DEVICE_SIDE));
}
struct location { int type, id; };
struct attributes { int order; struct location from, to; unsigned flags; };
static int batch(address *to, address *from, size_t *bytes, size_t count,
                 struct attributes *attributes, size_t *starts, size_t attribute_count,
                 size_t *failed, void *stream)
{
    ENTER;
    *failed = SIZE_MAX;
    if (getenv("STAND_IN_NO_BATCHES"))
        LEAVE(801);
    if (!count || attribute_count != 1 || starts[0] || attributes->order != 1 ||
        attributes->from.type || attributes->to.type || (uintptr_t)stream <= 2)
        LEAVE(INVALID);
    for (size_t i = 0; i < count; i++) {
        struct range *r = find(to[i], bytes[i]);
        if (!r || !bytes[i]) {
            *failed = i;
            LEAVE(INVALID);
        }
        copy(stream, to[i], from[i], bytes[i], EITHER, r->kind == DEVICE ? EITHER : DEVICE_SIDE);
    }
    LEAVE(OK);
}
CALL(cuGetProcAddress_v2, const char *name, void **found, int version, uint64_t flags, int *status)
{
    (void)flags;
    if (number("STAND_IN_VERSION", 13000) < 12000)
        DIE("a call that drivers before CUDA 12 do not have");
    int is_there = !strcmp(name, "cuMemcpyBatchAsync") && version >= 12080 && version < 13000;
    *found = is_there ? (void *)batch : NULL;
    *status = is_there ? 0 : 1;
    return OK;
}

// The kernels: a module has one, and both are named by its name.
static const char *const names[] = {"larder_pages", "larder_sums"};
CALL(cuModuleLoadData, void **module, const char *text)
{
    ENTER;
    for (int i = 0; i < 2; i++) {
        char entry[64];
        snprintf(entry, sizeof entry, ".visible .entry %s(", names[i]);
        *module = (void *)&names[i];
        if (strstr(text, entry))
            LEAVE(OK);
    }
    LEAVE(BAD_PTX);
}
CALL(cuModuleGetFunction, void **function, void *module, const char *name)
{
    ENTER;
    *function = module;
    LEAVE(strcmp(name, *(const char **)module) ? NOT_FOUND : OK);
}
CALL(cuModuleUnload, const char **module)
{
    ENTER;
    LEAVE(module == names || module == names + 1 ? OK : BAD_HANDLE);
}
CALL(cuLaunchKernel, void *function, unsigned blocks, unsigned y, unsigned z, unsigned threads,
     unsigned ty, unsigned tz, unsigned shared, void *stream, void **arguments, void **extra)
{
    ENTER;
    int is_sums = function == names + 1;
    if ((!is_sums && function != names) || !blocks || y != 1 || z != 1 || !threads || threads > 1024 ||
        ty != 1 || tz != 1 || shared || extra)
        LEAVE(INVALID);
    if (is_sums) {
        queue(stream_of(stream), (struct op){.kind = SUMS, .blocks = blocks,
            .tiles = *(address *)arguments[0], .tile_count = *(unsigned *)arguments[1],
            .tables = *(address *)arguments[2], .sums = *(address *)arguments[3]});
        LEAVE(OK);
    }
    queue(stream_of(stream), (struct op){.kind = KERNEL, .blocks = blocks,
        .tiles = *(address *)arguments[0], .tile_count = *(unsigned *)arguments[1],
        .places = *(address *)arguments[2], .place_count = *(unsigned *)arguments[3],
        .to_device = *(unsigned *)arguments[4]});
    LEAVE(OK);
}
