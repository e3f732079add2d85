/* Uses everything in larder.h against a node whose address is the first argument; what is on this
 * host, by the second. Ends with 0 if all of it was as the header says. */
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "larder.h"

/* As the library asserts of its own structs. */
_Static_assert(sizeof(larder_config) == 56 && offsetof(larder_config, path) == 40, "config");
_Static_assert(sizeof(larder_namespace) == 64, "namespace");
_Static_assert(sizeof(larder_key) == 16 && offsetof(larder_key, length) == 8, "key");
_Static_assert(sizeof(larder_piece) == 16 && offsetof(larder_piece, bytes) == 8, "piece");
_Static_assert(sizeof(larder_object) == 96 && _Alignof(larder_object) == 8, "object");
_Static_assert(offsetof(larder_object, meta) == 32 && offsetof(larder_object, tags) == 48, "meta");
_Static_assert(offsetof(larder_object, version) == 64, "version");
_Static_assert(offsetof(larder_object, ttl_ms) == 72, "ttl_ms");
_Static_assert(offsetof(larder_object, cost_hint) == 76, "cost_hint");
_Static_assert(offsetof(larder_object, depth) == 80, "depth");
_Static_assert(offsetof(larder_object, class_hint) == 82, "class_hint");
_Static_assert(offsetof(larder_object, result) == 88, "result");

#define CHECK(what)                                                                       \
  do {                                                                                    \
    if (!(what)) {                                                                        \
      fprintf(stderr, "line %d: %s (last error: %s)\n", __LINE__, #what,                  \
              larder_last_error());                                                       \
      exit(1);                                                                            \
    }                                                                                     \
  } while (0)

enum { COUNT = 8, PIECES = 160, BYTES = 100000, WAIT_MS = 20000 };

static char names[COUNT + 1][16];
static unsigned char sources[COUNT][BYTES], places[COUNT + 1][BYTES];

static larder_key key(int number) {
  larder_key key = {names[number], strlen(names[number])};
  return key;
}

static void fill(void) {
  for (int n = 0; n <= COUNT; n++) snprintf(names[n], sizeof names[n], "object %d", n);
  for (int n = 0; n < COUNT; n++)
    for (int at = 0; at < BYTES; at++) sources[n][at] = (unsigned char)(at * 31 + n * 7 + at / 256);
}

/* Some in one piece, some in many, over `memory`. */
static void describe(larder_object *object, int number, unsigned char *memory,
                     larder_piece *pieces) {
  memset(object, 0, sizeof *object);
  object->key = key(number);
  object->pieces = pieces;
  object->piece_count = number % 2 ? PIECES : 1;
  size_t step = BYTES / object->piece_count;
  for (size_t at = 0; at < object->piece_count; at++) {
    pieces[at].address = memory + at * step;
    pieces[at].bytes = at + 1 == object->piece_count ? BYTES - at * step : step;
  }
}

static void put_and_get(larder_store *store) {
  static larder_object objects[COUNT + 1];
  static larder_piece pieces[COUNT + 1][PIECES];
  for (int n = 0; n < COUNT; n++) {
    describe(&objects[n], n, sources[n], pieces[n]);
    objects[n].meta = names[n];
    objects[n].meta_bytes = strlen(names[n]);
    objects[n].version = 7;
    objects[n].depth = (uint16_t)n;
    objects[n].result = 99;
  }
  CHECK(larder_put(store, objects, COUNT, 0, WAIT_MS) == LARDER_OK);
  for (int n = 0; n < COUNT; n++) CHECK(objects[n].result == LARDER_OK);
  CHECK(larder_put(store, objects, COUNT, LARDER_IF_ABSENT, WAIT_MS) == LARDER_OK);
  for (int n = 0; n < COUNT; n++) CHECK(objects[n].result == LARDER_EXISTS);
  objects[0].version = 6;
  CHECK(larder_put(store, objects, 1, 0, WAIT_MS) == LARDER_OK);
  CHECK(objects[0].result == LARDER_OLDER_VERSION);

  for (int n = 0; n <= COUNT; n++) describe(&objects[n], n, places[n], pieces[n]);
  CHECK(larder_get(store, objects, COUNT + 1, WAIT_MS) == LARDER_OK);
  for (int n = 0; n < COUNT; n++) {
    CHECK(objects[n].result == BYTES);
    CHECK(memcmp(places[n], sources[n], BYTES) == 0);
  }
  CHECK(objects[COUNT].result == LARDER_MISS);
  pieces[0][0].bytes = BYTES - 1;
  CHECK(larder_get(store, objects, 1, WAIT_MS) == LARDER_OK);
  CHECK(objects[0].result == LARDER_MISS_SIZE);

  larder_key keys[COUNT + 1];
  int64_t results[COUNT + 1];
  for (int n = 0; n <= COUNT; n++) keys[n] = key(n);
  CHECK(larder_match(store, keys, COUNT + 1, LARDER_TOUCH | LARDER_TURN_END | LARDER_ENDS_PARTLY,
                     WAIT_MS, results) == COUNT);
  for (int n = 0; n < COUNT; n++) CHECK(results[n] == BYTES);
  CHECK(results[COUNT] == LARDER_MISS);

  larder_lease *leases[COUNT + 1];
  CHECK(larder_lease_get(store, keys, COUNT + 1, WAIT_MS, leases, results) == LARDER_OK);
  for (int n = 0; n < COUNT; n++) {
    size_t bytes = 0, meta_bytes = 0;
    const void *found = larder_lease_bytes(leases[n], &bytes);
    CHECK(results[n] == BYTES && bytes == BYTES && memcmp(found, sources[n], BYTES) == 0);
    const void *meta = larder_lease_meta(leases[n], &meta_bytes);
    CHECK(meta_bytes == strlen(names[n]) && memcmp(meta, names[n], meta_bytes) == 0);
    larder_lease_free(leases[n]);
  }
  CHECK(leases[COUNT] == NULL && results[COUNT] == LARDER_MISS);

  CHECK(larder_pin(store, keys, 1, 1000, WAIT_MS, results) == LARDER_OK && results[0] == LARDER_OK);
  CHECK(larder_pin(store, keys, 1, 0, WAIT_MS, NULL) == LARDER_OK);
  CHECK(larder_remove(store, keys, 1, WAIT_MS, results) == LARDER_OK && results[0] == LARDER_OK);
  CHECK(larder_remove(store, keys, 1, WAIT_MS, results) == LARDER_OK && results[0] == LARDER_MISS);
  CHECK(larder_remove(store, keys, 1, WAIT_MS, NULL) == LARDER_OK);

  describe(&objects[0], COUNT, sources[0], pieces[0]);
  objects[0].ttl_ms = 1;
  CHECK(larder_put(store, objects, 1, 0, WAIT_MS) == LARDER_OK && objects[0].result == LARDER_OK);
  usleep(50000);
  CHECK(larder_match(store, &keys[COUNT], 1, 0, WAIT_MS, results) == 0);
}

/* Takes the completion of `job`, whose results were all `wanted`. */
static void take(larder_store *store, int64_t job, int64_t wanted, size_t wanted_count) {
  CHECK(job > 0);
  larder_completion *completion = larder_wait(store, job, WAIT_MS);
  CHECK(completion != NULL && larder_completion_job(completion) == job);
  CHECK(larder_completion_status(completion) == LARDER_OK);
  size_t count = 0;
  const int64_t *results = larder_completion_results(completion, &count);
  CHECK(count == wanted_count);
  for (size_t at = 0; at < count; at++) CHECK(results[at] == wanted);
  larder_completion_free(completion);
}

static void jobs(larder_store *store) {
  larder_object objects[COUNT];
  static larder_piece pieces[COUNT][PIECES];
  larder_key keys[COUNT];
  struct pollfd polled = {larder_fd(store), POLLIN, 0};
  CHECK(polled.fd >= 0 && poll(&polled, 1, 0) == 0);
  memset(places, 0, sizeof places);
  for (int n = 0; n < COUNT; n++) {
    keys[n] = key(n);
    describe(&objects[n], n, sources[n], pieces[n]);
  }
  take(store, larder_submit_put(store, objects, COUNT, 0, WAIT_MS), LARDER_OK, COUNT);
  take(store, larder_submit_match(store, keys, COUNT, 0, WAIT_MS), BYTES, COUNT);
  for (int n = 0; n < COUNT; n++) describe(&objects[n], n, places[n], pieces[n]);
  int64_t job = larder_submit_get(store, objects, COUNT, WAIT_MS);
  CHECK(poll(&polled, 1, WAIT_MS) == 1 && larder_drain_all(store, WAIT_MS) == 1);
  larder_completion *completion = larder_next(store);
  CHECK(larder_completion_job(completion) == job);
  larder_completion_free(completion);
  for (int n = 0; n < COUNT; n++) CHECK(memcmp(places[n], sources[n], BYTES) == 0);
  CHECK(larder_next(store) == NULL && poll(&polled, 1, 0) == 0);
  CHECK(larder_wait(store, job, 0) == NULL && larder_cancel(store, job) == 0);
  take(store, larder_submit_remove(store, keys, COUNT, WAIT_MS), LARDER_OK, COUNT);
}

static void mistakes(larder_client *client, larder_store *store) {
  larder_key nothing = {NULL, 0}, nowhere = {NULL, 5}, endless = {sources, 65};
  int64_t result;
  CHECK(larder_match(store, &nothing, 1, 0, 0, &result) == LARDER_INVALID_ARGUMENT);
  CHECK(larder_match(store, &nowhere, 1, 0, 0, &result) == LARDER_INVALID_ARGUMENT);
  CHECK(larder_match(store, &endless, 1, 0, 0, &result) == LARDER_INVALID_ARGUMENT);
  CHECK(strstr(larder_last_error(), "64") != NULL);
  CHECK(larder_match(store, NULL, 1, 0, 0, &result) == LARDER_INVALID_ARGUMENT);
  CHECK(larder_match(NULL, NULL, 0, 0, 0, NULL) == LARDER_INVALID_ARGUMENT);
  larder_object object;
  larder_piece pieces[LARDER_PIECES_MAX + 1];
  memset(pieces, 0, sizeof pieces);
  memset(&object, 0, sizeof object);
  object.key = key(0);
  object.piece_count = 1;
  CHECK(larder_get(store, &object, 1, 0) == LARDER_INVALID_ARGUMENT);
  object.pieces = pieces;
  object.piece_count = LARDER_PIECES_MAX + 1;
  CHECK(larder_get(store, &object, 1, 0) == LARDER_TOO_LARGE);
  pieces[0].bytes = 1;
  object.piece_count = 1;
  CHECK(larder_submit_put(store, &object, 1, 0, 0) == LARDER_INVALID_ARGUMENT);
  pieces[0].address = sources;
  pieces[0].bytes = SIZE_MAX / 2 + 1;
  CHECK(larder_get(store, &object, 1, 0) == LARDER_INVALID_ARGUMENT);
  CHECK(larder_submit_get(store, &object, 1, 0) == LARDER_INVALID_ARGUMENT);
  pieces[0].address = (void *)(UINTPTR_MAX - 7);
  pieces[0].bytes = 16;
  CHECK(larder_get(store, &object, 1, 0) == LARDER_INVALID_ARGUMENT);
  CHECK(larder_put(store, &object, 1, 0, 0) == LARDER_INVALID_ARGUMENT);
  CHECK(strstr(larder_last_error(), "addressed") != NULL);
  for (int at = 0; at < LARDER_PIECES_MAX; at++)
    pieces[at] = (larder_piece){sources, SIZE_MAX / 4};
  object.piece_count = LARDER_PIECES_MAX;
  CHECK(larder_submit_get(store, &object, 1, 0) == LARDER_INVALID_ARGUMENT);
  CHECK(larder_submit_put(store, &object, 1, 0, 0) == LARDER_INVALID_ARGUMENT);
  CHECK(larder_open(client, NULL, 0) == NULL && larder_open(NULL, NULL, 0) == NULL);
  CHECK(larder_next(NULL) == NULL && larder_fd(NULL) < 0);
  CHECK(strcmp(larder_status_name(LARDER_CORRUPT), "CORRUPT") == 0);
  CHECK(strcmp(larder_status_name(LARDER_SYSTEM), "SYSTEM") == 0);
  CHECK(strcmp(larder_status_name(1), "?") == 0 && strcmp(larder_status_name(-20), "?") == 0);
  larder_store_close(NULL);
  larder_client_close(NULL);
  larder_lease_free(NULL);
  larder_completion_free(NULL);
}

/* What a child closes stays open in its parent. */
static void forked(larder_client *client, larder_store *store) {
  larder_key asked = key(1);
  larder_object object;
  larder_piece pieces[PIECES];
  larder_lease *lease;
  int64_t result;
  int status;
  describe(&object, 1, sources[1], pieces);
  CHECK(larder_put(store, &object, 1, 0, WAIT_MS) == LARDER_OK && object.result == LARDER_OK);
  CHECK(larder_lease_get(store, &asked, 1, WAIT_MS, &lease, &result) == LARDER_OK && lease);
  pid_t child = fork();
  if (child == 0) {
    int is_told = larder_match(store, &asked, 1, 0, 0, &result) == LARDER_FORKED &&
                  larder_submit_match(store, &asked, 1, 0, 0) == LARDER_FORKED &&
                  larder_drain_all(store, 0) == LARDER_FORKED && larder_next(store) == NULL;
    larder_lease_free(lease);
    larder_store_close(store);
    larder_client_close(client);
    _exit(is_told ? 0 : 1);
  }
  CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
  CHECK(memcmp(larder_lease_bytes(lease, NULL), sources[1], BYTES) == 0);
  larder_lease_free(lease);
  take(store, larder_submit_match(store, &asked, 1, 0, WAIT_MS), BYTES, 1);
}

/* Leases and completions outlive their store and client; a store, its client. */
static void outlive(larder_client *client, larder_store *store) {
  larder_key asked = key(1);
  larder_object object;
  larder_piece pieces[PIECES];
  larder_lease *lease;
  int64_t result;
  describe(&object, 1, sources[1], pieces);
  CHECK(larder_put(store, &object, 1, 0, WAIT_MS) == LARDER_OK && object.result == LARDER_OK);
  CHECK(larder_lease_get(store, &asked, 1, WAIT_MS, &lease, &result) == LARDER_OK && lease);
  larder_client_close(client);
  int64_t job = larder_submit_put(store, &object, 1, 0, WAIT_MS);
  larder_completion *completion = larder_wait(store, job, WAIT_MS);
  for (int times = 0; times < 100; times++)
    CHECK(larder_submit_put(store, &object, 1, 0, WAIT_MS) > 0);
  larder_store_close(store);
  size_t count = 0;
  CHECK(larder_completion_results(completion, &count)[0] == LARDER_OK && count == 1);
  larder_completion_free(completion);
  CHECK(memcmp(larder_lease_bytes(lease, NULL), sources[1], BYTES) == 0);
  larder_lease_free(lease);
}

static void expose(larder_client *client) {
  static char memory[8192];
  larder_memory *exposed = larder_expose(client, memory, sizeof memory);
  CHECK(exposed != NULL && !larder_is_exposed(exposed));
  larder_hide(exposed);
  CHECK(larder_expose(client, NULL, 1) == NULL && strlen(larder_last_error()) > 0);
  CHECK(larder_expose(NULL, memory, 1) == NULL);
  larder_hide(NULL);
  CHECK(!larder_is_exposed(NULL));
}

int main(int argc, char **argv) {
  CHECK(argc == 3);
  fill();
  larder_config config;
  memset(&config, 0, sizeof config);
  config.seeds = "127.0.0.1:1";
  config.connect_timeout_ms = 200;
  CHECK(larder_connect(&config) == NULL && strlen(larder_last_error()) > 0);
  config.path = 4;
  CHECK(larder_connect(&config) == NULL);
  for (int way = 1; way <= 2; way++) {
    config.seeds = argv[way];
    config.path = way == 1 ? LARDER_PATH_TCP : LARDER_PATH_SHM;
    config.name = "a program in C";
    larder_client *client = larder_connect(&config);
    CHECK(client != NULL);
    larder_namespace what;
    memset(&what, 0, sizeof what);
    what.tenant = "t";
    what.model = way == 1 ? "tcp" : "shm";
    larder_store *store = larder_open(client, &what, 0);
    CHECK(store != NULL && larder_generation(store) == 1);
    put_and_get(store);
    jobs(store);
    mistakes(client, store);
    expose(client);
    forked(client, store);
    larder_store *next = larder_bump(store, 2);
    CHECK(next != NULL && larder_generation(next) > 1);
    larder_store_close(store);
    outlive(client, next);
  }
  puts("all as the header says");
  return 0;
}
