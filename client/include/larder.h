/*
 * Larder's client for C and C++: look up, get and put inference state in a tier of cache nodes.
 *
 * What a reader would get wrong: an unreachable node, a deadline that passed and a damaged object
 * are no failures of a call, but the `result` of each key, below 0, and on a read every one of
 * them is a miss. A call itself fails only for what its caller did wrong.
 *
 * Threads: everything may be called from any thread at any time, but for the closing of what is in
 * use. Forks: in a forked child every call answers LARDER_FORKED and does nothing. Memory: what a
 * call names must stay valid until it returns; what a job names, until its completion was taken,
 * and until then nobody else may touch memory that is read into, or change what is written from.
 */
#ifndef LARDER_H
#define LARDER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What is said of a key, or of a call. Above 0: bytes, or the number of a job. */
enum {
  LARDER_OK = 0,
  LARDER_MISS = -1,             /* not there */
  LARDER_MISS_SIZE = -2,        /* there, but longer than the place for it */
  LARDER_CORRUPT = -3,          /* damaged: where it lay, or on its way */
  LARDER_STALE = -4,            /* the namespace has moved on to another generation */
  LARDER_EXISTS = -5,           /* not stored: it is there already */
  LARDER_OLDER_VERSION = -6,    /* not stored: a newer version is there */
  LARDER_BUSY = -7,             /* refused for now: too much is under way */
  LARDER_NO_ROOM = -8,          /* not stored: no room could be made */
  LARDER_TOO_LARGE = -9,        /* above a limit */
  LARDER_DEADLINE = -10,        /* the deadline passed first */
  LARDER_UNAVAILABLE = -11,     /* who owns the key could not be asked */
  LARDER_CANCELLED = -12,       /* the caller cancelled it */
  LARDER_CLOSED = -13,          /* the client or store was closed */
  LARDER_DENIED = -14,          /* not allowed */
  LARDER_REFUSED = -15,         /* refused for another reason */
  LARDER_INVALID_ARGUMENT = -16,
  LARDER_FORKED = -17,          /* called in a forked child */
  LARDER_SYSTEM = -18,          /* the system or a network card refused something */
  LARDER_NOT_WANTED = -19       /* not stored: no reader is expected for it; nothing is wrong */
};

/* The name of such a number, such as "MISS"; "?" for others. Static. */
const char *larder_status_name(int64_t status);

/* What went wrong in this thread's last call that answered below 0, in a sentence; "" before that.
 * Valid until the thread's next call. */
const char *larder_last_error(void);

/* -- Clients ---------------------------------------------------------------------------------- */

typedef struct larder_client larder_client;

/* AUTO: shared memory on one host, network cards where both have one, else TCP. RDMA: network cards
 * for exposed memory, TCP for all else; a node without one cannot be asked. */
enum { LARDER_PATH_AUTO = 0, LARDER_PATH_TCP = 1, LARDER_PATH_SHM = 2, LARDER_PATH_RDMA = 3 };

typedef struct larder_config {
  const char *seeds;            /* "host:port" or "unix:PATH", several with commas between;
                                   NULL: "127.0.0.1:7400" */
  const char *name;             /* seen in the nodes' logs, up to 64 bytes; NULL: a default */
  const uint8_t *credential;    /* where nodes ask for one */
  size_t credential_bytes;
  uint32_t deadline_ms;         /* of calls that give none; 0: 250 */
  uint32_t connect_timeout_ms;  /* 0: 1000 */
  int32_t path;                 /* LARDER_PATH_... */
  const char *rdma_device;      /* the network card, in a library that was built with the feature
                                   "rdma"; NULL: the first with an active port */
} larder_config;

/* Connects to the first seed that answers. NULL: all defaults. Starts one thread. NULL if it
 * failed: then larder_last_error() says why. */
larder_client *larder_connect(const larder_config *config);

/* Lets go of a client. Its stores go on until they are closed, and leases and completions until
 * they are freed. NULL is fine. */
void larder_client_close(larder_client *client);

/* -- Memory that network cards reach ---------------------------------------------------------- */

typedef struct larder_memory larder_memory;

/* Lets nodes on other hosts write gets into this memory, and read puts from it, through network
 * cards: for as long as it takes to answer, and only the places that a call names. It stays memory,
 * to be read and written, until it was hidden and every call that names it has ended. Nothing else
 * changes for a client that has no card, as in a library that was not built with it (cargo build
 * --release -p larder-c --features rdma). If the card refuses, mostly since the limit of locked
 * memory (ulimit -l) is too low, it answers NULL with LARDER_PATH_RDMA, and else nothing changes
 * either. */
larder_memory *larder_expose(const larder_client *client, void *address, size_t bytes);

/* 1 if the client has a network card that knows the memory, else 0. NULL is fine. */
int32_t larder_is_exposed(const larder_memory *memory);

/* Has the card forget it. NULL is fine. */
void larder_hide(larder_memory *memory);

/* -- Stores: one namespace of a client -------------------------------------------------------- */

typedef struct larder_store larder_store;

/* What bytes mean. Two that differ in any field share nothing. NULL is "". */
typedef struct larder_namespace {
  const char *tenant;           /* who owns the bytes */
  const char *model;
  const char *revision;         /* which weights */
  const char *dtype;
  const char *layout;           /* order of bytes in an object, runtime and its format version */
  const char *rank;             /* parallel rank that the bytes belong to; "": to all */
  const char *extra;            /* anything else that tells bytes apart */
  uint32_t part_bytes;          /* bytes of one part of an object; 0: one part */
} larder_namespace;

/* Opens a namespace. `movers` is the number of threads that do its jobs, 0 for 1. NULL if it
 * failed: then larder_last_error() says why. */
larder_store *larder_open(larder_client *client, const larder_namespace *what, uint16_t movers);

/* Cancels the store's jobs, waits until nothing touches their memory, and closes it. */
void larder_store_close(larder_store *store);

/* The generation that this store reads and writes. */
uint64_t larder_generation(const larder_store *store);

/* Moves the namespace to a new generation and opens that: what was stored before is found by
 * nobody any more. NULL if it failed. */
larder_store *larder_bump(larder_store *store, uint16_t movers);

/* -- Objects ---------------------------------------------------------------------------------- */

#define LARDER_KEY_BYTES_MAX 64
#define LARDER_PIECES_MAX 512

typedef struct larder_key {
  const void *bytes;            /* opaque, 1 to 64 of them */
  size_t length;
} larder_key;

typedef struct larder_piece {
  void *address;
  size_t bytes;
} larder_piece;

/* One object of a get or a put. Set it to zeroes first. */
typedef struct larder_object {
  larder_key key;
  const larder_piece *pieces;   /* its bytes, or the place for them, in order; places do not
                                   overlap */
  size_t piece_count;
  /* The rest is for puts. */
  const void *meta;             /* up to 64 bytes that come back with it */
  size_t meta_bytes;
  const uint64_t *tags;         /* up to 4 numbers by which it can be removed with others */
  size_t tag_count;
  uint64_t version;             /* as the writer counts; 0 if it does not */
  uint32_t ttl_ms;              /* time to live; 0: as long as there is room */
  uint32_t cost_hint;           /* what recomputing costs, in microseconds of an accelerator */
  uint16_t depth;               /* place in its chain, from 0 */
  uint8_t class_hint;
  /* Set by calls that wait: for a get the bytes that it wrote, else LARDER_OK; below 0 if not. */
  int64_t result;
} larder_object;

/* Flags of a put. INSIST: what the node expects no reader for is stored, too. */
enum { LARDER_IF_ABSENT = 1, LARDER_INSIST = 2 };
/* Flags of a match. TOUCH: it is a request's use of what is there. What a node's policy learns from,
 * with TOUCH: TOOL_CALL, TURN_END: what ends the request; ENDS_PARTLY: the chain's last object holds
 * less than one may, so that no longer chain goes on from it. */
enum { LARDER_TOUCH = 1, LARDER_TOOL_CALL = 2, LARDER_TURN_END = 4, LARDER_ENDS_PARTLY = 8 };

/* In all of these, a timeout of 0 ms takes the client's deadline. They answer LARDER_OK if `result`
 * of every object was set, or below 0, and then nothing was asked. */
int64_t larder_get(larder_store *store, larder_object *objects, size_t count, uint32_t timeout_ms);
int64_t larder_put(larder_store *store, larder_object *objects, size_t count, uint32_t flags,
                   uint32_t timeout_ms);
/* `results` gets the length of each object that is there, below 0 for the others. Answers how many
 * of the first keys are there without a gap. Changes no eviction order without LARDER_TOUCH. */
int64_t larder_match(larder_store *store, const larder_key *keys, size_t count, uint32_t flags,
                     uint32_t timeout_ms, int64_t *results);
/* `results` may be NULL. */
int64_t larder_remove(larder_store *store, const larder_key *keys, size_t count,
                      uint32_t timeout_ms, int64_t *results);

/* Has objects evicted last for `keep_ms` from now, or as all others again with 0. `results`, which
 * may be NULL, gets LARDER_OK for each that is there, LARDER_MISS, or LARDER_NO_ROOM if its tenant
 * has as much pinned as the node allows. */
int64_t larder_pin(larder_store *store, const larder_key *keys, size_t count, uint32_t keep_ms,
                   uint32_t timeout_ms, int64_t *results);

/* -- Jobs: submit, go on, take the answer later ------------------------------------------------ */

/* The number of the job, above 0, or below 0: LARDER_BUSY while 4,096 answers were not taken yet.
 * The arrays may be reused at once; what they point to as memory of objects may not. */
int64_t larder_submit_get(larder_store *store, const larder_object *objects, size_t count,
                          uint32_t timeout_ms);
int64_t larder_submit_put(larder_store *store, const larder_object *objects, size_t count,
                          uint32_t flags, uint32_t timeout_ms);
int64_t larder_submit_match(larder_store *store, const larder_key *keys, size_t count,
                            uint32_t flags, uint32_t timeout_ms);
int64_t larder_submit_remove(larder_store *store, const larder_key *keys, size_t count,
                             uint32_t timeout_ms);

/* A descriptor that is readable while completions wait, or below 0. Do not read or close it. */
int larder_fd(larder_store *store);

typedef struct larder_completion larder_completion;

/* The oldest completion, or NULL if none waits. Never blocks. */
larder_completion *larder_next(larder_store *store);
/* That of one job; blocks up to `timeout_ms`. NULL if it did not end, or there is no such job. */
larder_completion *larder_wait(larder_store *store, int64_t job, uint32_t timeout_ms);

int64_t larder_completion_job(const larder_completion *completion);
/* LARDER_OK, or what concerned the job as a whole. */
int64_t larder_completion_status(const larder_completion *completion);
/* One result for each key, as the calls above give them; none where the status is below 0. */
const int64_t *larder_completion_results(const larder_completion *completion, size_t *count);
void larder_completion_free(larder_completion *completion);

/* Has a job end soon: 1 if it was under way, 0 if not. Its completion comes all the same. */
int64_t larder_cancel(larder_store *store, int64_t job);
/* Blocks until no job is under way: 1, or 0 if `timeout_ms` passed first. */
int64_t larder_drain_all(larder_store *store, uint32_t timeout_ms);

/* -- Leases: objects read where a node on this host has them ----------------------------------- */

typedef struct larder_lease larder_lease;

/* Sets `leases[i]` to a lease, or to NULL, and then `results[i]` says why; else it is the length.
 * What lies on another host, or is small, is copied. */
int64_t larder_lease_get(larder_store *store, const larder_key *keys, size_t count,
                         uint32_t timeout_ms, larder_lease **leases, int64_t *results);
/* Its bytes, valid until it is freed. */
const void *larder_lease_bytes(const larder_lease *lease, size_t *bytes);
/* What its writer said of it, valid until it is freed. */
const void *larder_lease_meta(const larder_lease *lease, size_t *bytes);
void larder_lease_free(larder_lease *lease);

#ifdef __cplusplus
}
#endif

#endif
