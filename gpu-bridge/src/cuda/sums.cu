// Makes checksums of ranges of memory, CRC-64/NVME, as far as that is linear.
//
// Each warp takes one tile of one range at a time, each of its threads every 32nd word of it. What
// a reader would get wrong: what a thread makes is multiplied by what lies behind its words and
// xor-ed to the sum of the range, so the order does not matter, and a sum is whole only when the
// kernel has ended. How the bits lie is said in `polynomial.rs`.
//
// This is both CUDA and C: a test compiles it with the host's compiler and runs the threads one by
// one. `LOAD` and `ADD` are its own there.

#ifndef LOAD
// Not from a cache of the multiprocessor's own: others may have written since.
#define LOAD(from) __ldcg(from)
#define ADD(to, value) atomicXor(to, value)
#endif

// Some of a range, in words of 8 bytes at multiples of 8.
struct larder_sum_tile {
    unsigned long long address;
    // What its last word is multiplied by, but for the word's own length.
    unsigned long long behind;
    // How many words; times 2^16, how many bytes of the first are in front of the range, and times
    // 2^20, how many of the last are behind it.
    unsigned int shape;
    // Whose sum it is added to.
    unsigned int range;
};

struct larder_sum_tables {
    // Multiples of x to the 2048 = 32 words of 64 bits, for 4 bits at each of 16 places. Those of a
    // place are in one line of a cache: 32 threads look them up at once.
    unsigned long long steps[16][16];
    // x to the 64, 128, ...: what the words of each thread are multiplied by.
    unsigned long long lanes[32];
};

#define LANES 32
// Loads of a thread that are under way at once.
#define LOADS 8
#define MODULUS 0x9a6c9329ac4bc9b5ULL

static __device__ unsigned long long larder_product(unsigned long long a, unsigned long long b)
{
    unsigned long long product = 0;
    int i;
#pragma unroll 4
    for (i = 0; i < 64; i++) {
        product ^= a & (0 - (b >> 63));
        b <<= 1;
        a = (a >> 1) ^ (MODULUS & (0 - (a & 1)));
    }
    return product;
}

static __device__ unsigned long long larder_step(const struct larder_sum_tables *tables,
                                                 unsigned long long sum)
{
    unsigned long long next = 0;
    int i;
#pragma unroll
    for (i = 0; i < 16; i++)
        next ^= tables->steps[i][(sum >> (4 * i)) & 15];
    return next;
}

// A word without what is not of the range, which is not read.
static __device__ unsigned long long larder_word(unsigned long long address, unsigned int front,
                                                 unsigned int back)
{
    unsigned long long word = 0;
    unsigned int at;
    if ((front | back) == 0)
        return LOAD((const unsigned long long *)address);
    for (at = front; at < 8 - back; at++)
        word |= (unsigned long long)*(const volatile unsigned char *)(address + at) << (8 * at);
    return word;
}

extern "C" __global__ void __launch_bounds__(1024)
larder_sums(const struct larder_sum_tile *tiles, unsigned int tile_count,
            const struct larder_sum_tables *tables, unsigned long long *sums)
{
    unsigned int lane = threadIdx.x % LANES;
    unsigned int warps = gridDim.x * (blockDim.x / LANES);
    unsigned int at = blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES;
    for (; at < tile_count; at += warps) {
        const struct larder_sum_tile *tile = tiles + at;
        unsigned int words = tile->shape & 0xffff;
        unsigned int front = tile->shape >> 16 & 15, back = tile->shape >> 20 & 15;
        // Words in front of the first are 0, and change nothing.
        unsigned int rounds = (words + LOADS * LANES - 1) / (LOADS * LANES) * LOADS;
        unsigned long long sum = 0;
        while (rounds > 0) {
            unsigned long long word[LOADS];
            int i;
#pragma unroll
            for (i = 0; i < LOADS; i++) {
                // Counted from the end of the tile.
                unsigned int number = (rounds - 1 - i) * LANES + lane;
                word[i] = 0;
                if (number < words)
                    word[i] = larder_word(tile->address + 8ULL * (words - 1 - number),
                                          number == words - 1 ? front : 0, number ? 0 : back);
            }
#pragma unroll
            for (i = 0; i < LOADS; i++)
                sum = larder_step(tables, sum) ^ word[i];
            rounds -= LOADS;
        }
        if (lane < words)
            ADD(sums + tile->range,
                larder_product(larder_product(sum, tables->lanes[lane]), tile->behind));
    }
}
