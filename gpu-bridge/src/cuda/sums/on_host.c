// Runs the kernel's threads one after the other, on the host: they do not wait for each other, so
// what they do together is what they do alone.
//
// Standard input, 64-bit numbers: blocks, sums, tiles and bytes of memory; then the sums, the tiles
// (addresses count from the memory's start), the tables, and the memory.
// Standard output: the sums afterwards.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    unsigned int x, y, z;
} dim3;
static dim3 threadIdx, blockIdx, blockDim, gridDim;

static unsigned long long load(const unsigned long long *from)
{
    if ((uintptr_t)from % 8)
        abort();
    return *from;
}
static void add(unsigned long long *to, unsigned long long value)
{
    *to ^= value;
}
#define LOAD(from) load(from)
#define ADD(to, value) add(to, value)
#define __device__
#define __global__
#define __launch_bounds__(threads)
#include "sums.c"

static void *take(uint64_t bytes)
{
    void *room = aligned_alloc(64, (bytes + 64) / 64 * 64);
    if (!room || fread(room, 1, bytes, stdin) != bytes)
        exit(2);
    return room;
}

int main(void)
{
    uint64_t *head = take(32);
    unsigned long long *sums = take(8 * head[1]);
    struct larder_sum_tile *tiles = take(head[2] * sizeof *tiles);
    struct larder_sum_tables *tables = take(sizeof *tables);
    unsigned char *memory = take(head[3]);
    for (uint64_t i = 0; i < head[2]; i++)
        tiles[i].address += (uintptr_t)memory;
    gridDim.x = head[0];
    blockDim.x = 64;
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++)
        for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++)
            larder_sums(tiles, head[2], tables, sums);
    fwrite(sums, 8, head[1], stdout);
    return 0;
}
