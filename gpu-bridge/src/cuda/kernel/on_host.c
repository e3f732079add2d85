// Runs the kernel's threads one after the other, on the host: they do not wait for each other, so
// what they do together is what they do alone.
//
// Standard input: six 64-bit numbers (blocks, tiles, places, bytes of the object side, bytes of the
// device side, whether to the device), then tiles, places (offsets into the sides), both sides.
// Standard output: both sides afterwards.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    uint32_t x, y, z, w;
} uint4;
typedef struct {
    unsigned int x, y, z;
} dim3;
static dim3 threadIdx, blockIdx, blockDim, gridDim;

// Both must be multiples of 16 wherever the kernel uses them.
static uint4 load(const uint4 *from)
{
    if ((uintptr_t)from % 16)
        abort();
    return *from;
}
static void store(uint4 *to, uint4 value)
{
    if ((uintptr_t)to % 16)
        abort();
    *to = value;
}
#define LOAD(from) load(from)
#define STORE(to, value) store(to, value)
#define __device__
#define __global__
#define __launch_bounds__(threads)
#include "pages.c"

static void *take(uint64_t bytes)
{
    void *room = aligned_alloc(64, (bytes + 64) / 64 * 64);
    if (!room || fread(room, 1, bytes, stdin) != bytes)
        exit(2);
    return room;
}

int main(void)
{
    uint64_t *head = take(48);
    struct larder_tile *tiles = take(head[1] * sizeof *tiles);
    struct larder_place *places = take(head[2] * sizeof *places);
    unsigned char *object = take(head[3]), *device = take(head[4]);
    for (uint64_t i = 0; i < head[2]; i++) {
        places[i].object += (uintptr_t)object;
        places[i].device += (uintptr_t)device;
    }
    gridDim.x = head[0];
    blockDim.x = 64;
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++)
        for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++)
            larder_pages(tiles, head[1], places, head[2], head[5]);
    fwrite(object, 1, head[3], stdout);
    fwrite(device, 1, head[4], stdout);
    return 0;
}
