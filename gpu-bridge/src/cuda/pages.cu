// Copies pieces between pinned host memory and pages of device memory, either way.
//
// Each warp takes one tile of one page at a time. What a reader would get wrong: nothing here waits
// for another thread, so a tile is whole only when the kernel has ended. Addresses that are no
// multiples of 16 are copied byte by byte: correct, and slow.
//
// This is both CUDA and C: a test compiles it with the host's compiler and runs the threads one by
// one. `LOAD` and `STORE` are its own there.

#ifndef LOAD
// Bytes pass through once: nothing is gained by keeping them in a cache.
#define LOAD(from) __ldcs(from)
#define STORE(to, value) __stcs(to, value)
#endif

// Of the first page of an object and of page 0 of the cache, in bytes.
struct larder_tile {
    unsigned long long object;
    unsigned long long device;
    unsigned long long bytes;
};

// What to add for a page: addresses of the object, and of the cache.
struct larder_place {
    unsigned long long object;
    unsigned long long device;
};

#define LANES 32
// Loads of a lane that are under way at once. With the registers that this takes a block has room
// for 1,024 threads.
#define LOADS 8

static __device__ void larder_copy(unsigned long long to, unsigned long long from,
                                   unsigned int bytes, unsigned int lane)
{
    if (((to | from | bytes) & 15) == 0) {
        const uint4 *source = (const uint4 *)from;
        uint4 *target = (uint4 *)to;
        unsigned int count = bytes >> 4;
        unsigned int start;
        for (start = lane; start < count; start += LOADS * LANES) {
            uint4 value[LOADS];
            int i;
#pragma unroll
            for (i = 0; i < LOADS; i++)
                if (start + i * LANES < count)
                    value[i] = LOAD(source + start + i * LANES);
#pragma unroll
            for (i = 0; i < LOADS; i++)
                if (start + i * LANES < count)
                    STORE(target + start + i * LANES, value[i]);
        }
    } else {
        const unsigned char *source = (const unsigned char *)from;
        unsigned char *target = (unsigned char *)to;
        unsigned int at;
        for (at = lane; at < bytes; at += LANES)
            target[at] = source[at];
    }
}

// The product of both counts fits 32 bits; whoever launches this sees to it.
extern "C" __global__ void __launch_bounds__(1024)
larder_pages(const struct larder_tile *tiles, unsigned int tile_count,
             const struct larder_place *places, unsigned int place_count,
             unsigned int to_device)
{
    unsigned int lane = threadIdx.x % LANES;
    unsigned int warps = gridDim.x * (blockDim.x / LANES);
    unsigned int total = tile_count * place_count;
    unsigned int at = blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES;
    while (at < total) {
        const struct larder_tile *tile = tiles + at % tile_count;
        const struct larder_place *place = places + at / tile_count;
        unsigned long long object = place->object + tile->object;
        unsigned long long device = place->device + tile->device;
        unsigned long long to = to_device ? device : object;
        unsigned long long from = to_device ? object : device;
        larder_copy(to, from, (unsigned int)tile->bytes, lane);
        if (total - at <= warps)
            break;
        at += warps;
    }
}
