/* Seeded random numbers, the same on every machine. */
#ifndef QUANTPIPE_BASE_RANDOM_H
#define QUANTPIPE_BASE_RANDOM_H

#include <stdint.h>

/* The next 64 random bits: splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). Any
 * `*state` is a seed. */
static inline uint64_t qp_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

#endif
