/* A stand-in for NVIDIA's management library (libnvidia-ml.so.1), as far as the telemetry asks it. What a device can do
 * stands in its UUID, so that each test makes the devices that it needs:
 *
 *   GPU-…          there is such a GPU, and it tells memory, power, energy, clocks, temperature and throttling
 *   …no-such…      there is none
 *   …buffer…       it keeps a buffer of utilization samples; else only the last one can be asked for
 *   …empty…        the buffer has no sample yet when it is asked for the first time
 *   …odd-clock…    the buffer's times are not the wall clock's
 *   …gpm…          it has activity counters
 *   …hot…          its clock is held back by heat, too
 *   …mute…         it tells its memory and nothing else
 *   …lostN…        it is lost after its memory has been read N times
 *   …divided…      it is divided, and its one slice can be seen
 *   …divided2…     it is divided, and two of its slices can be seen
 *   …divided0…     it is divided, and none of its slices can be seen
 *   MIG-…          a slice of a GPU that has activity counters
 *
 * Whatever depends on time depends on the wall clock by a formula that a test can compute. */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
  SUCCESS = 0,
  INVALID_ARGUMENT = 2,
  NOT_SUPPORTED = 3,
  NOT_FOUND = 6,
  INSUFFICIENT_SIZE = 7,
  GPU_IS_LOST = 15,
};

/* Every sample of utilization covers this much, in microseconds, and the buffer has room for so many. */
#define PERIOD_US 20000ULL
#define BUFFERED 3000

typedef struct device {
  char uuid[96];
  struct device *whole; /* of a slice */
  struct device *slice; /* of a divided GPU */
  int memory_reads, samples_asked, lost;
  struct device *next;
} *device_t;

typedef struct {
  unsigned long long us;
  int slice;
} *gpm_sample_t;

typedef union {
  double d;
  int i;
  unsigned u;
  unsigned long ul;
  unsigned long long ull;
  long long ll;
} value_t;

typedef struct {
  unsigned long long us;
  value_t value;
} sample_t;

typedef struct {
  unsigned pid;
  unsigned long long used;
  unsigned gpu_instance, compute_instance;
} process_t;

typedef struct {
  unsigned version;
  unsigned long long total, reserved, free, used;
} memory_t;

typedef struct {
  unsigned field, scope;
  long long us, latency_us;
  unsigned type, answer;
  value_t value;
} field_t;

typedef struct {
  unsigned version, supported;
} support_t;

typedef struct {
  unsigned metric, answer;
  double value;
  const char *name, *long_name, *unit;
} metric_t;

typedef struct {
  unsigned version, count;
  gpm_sample_t from, to;
  metric_t metrics[];
} request_t;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static device_t devices;

static unsigned long long now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * 1000000ULL + now.tv_nsec / 1000;
}

static int is(device_t device, const char *what) { return strstr(device->uuid, what) != NULL; }

static device_t made(const char *uuid) {
  for (device_t device = devices; device; device = device->next)
    if (!strcmp(device->uuid, uuid)) return device;
  device_t device = calloc(1, sizeof *device);
  snprintf(device->uuid, sizeof device->uuid, "%s", uuid);
  device->next = devices;
  devices = device;
  return device;
}

/* What every question begins with. */
static int answers(device_t device) {
  if (!device) return INVALID_ARGUMENT;
  if (device->lost || (device->whole && device->whole->lost)) return GPU_IS_LOST;
  return is(device, "mute") ? NOT_SUPPORTED : SUCCESS;
}

/* Power, energy, clocks and so on are not known of a slice. */
static int answers_as_whole(device_t device) {
  int answer = answers(device);
  return answer == SUCCESS && device->whole ? NOT_SUPPORTED : answer;
}

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
  snprintf(version, length, "580.95.05");
  return SUCCESS;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) {
  *version = 13010;
  return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, device_t *device) {
  int gpu = !strncmp(uuid, "GPU-", 4), slice = !strncmp(uuid, "MIG-", 4);
  if ((!gpu && !slice) || strstr(uuid, "no-such") || (gpu && strstr(uuid, "slice"))) return NOT_FOUND;
  pthread_mutex_lock(&lock);
  *device = made(uuid);
  if (slice && !(*device)->whole) (*device)->whole = made("GPU-gpm-of-slices");
  if (gpu && strstr(uuid, "divided") && !(*device)->slice) {
    char name[96];
    snprintf(name, sizeof name, "MIG-slice-of-%.64s", uuid + 4);
    (*device)->slice = made(name);
    (*device)->slice->whole = *device;
  }
  pthread_mutex_unlock(&lock);
  return SUCCESS;
}

int nvmlDeviceGetUUID(device_t device, char *uuid, unsigned length) {
  snprintf(uuid, length, "%s", device->uuid);
  return SUCCESS;
}

int nvmlDeviceIsMigDeviceHandle(device_t device, unsigned *is_slice) {
  *is_slice = device->whole != NULL;
  return SUCCESS;
}

int nvmlDeviceGetMigMode(device_t device, unsigned *current, unsigned *pending) {
  if (device->whole) return INVALID_ARGUMENT;
  *current = *pending = device->slice != NULL;
  return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(device_t device, unsigned *count) {
  *count = device->slice ? 7 : 0;
  return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(device_t device, unsigned index, device_t *slice) {
  unsigned seen = is(device, "divided0") ? 0 : is(device, "divided2") ? 2 : 1;
  if (index >= seen) return NOT_FOUND;
  *slice = device->slice;
  return SUCCESS;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device_t device, device_t *whole) {
  if (!device->whole) return INVALID_ARGUMENT;
  *whole = device->whole;
  return SUCCESS;
}

int nvmlDeviceGetGpuInstanceId(device_t device, unsigned *instance) {
  if (!device->whole) return INVALID_ARGUMENT;
  *instance = 3;
  return SUCCESS;
}

/* 80 GiB, or 10 GiB of a slice; 1 GiB of it in use. */
int nvmlDeviceGetMemoryInfo_v2(device_t device, memory_t *memory) {
  if (memory->version != (sizeof *memory | 2u << 24)) return INVALID_ARGUMENT;
  const char *lost = strstr(device->uuid, "lost");
  if (lost && device->memory_reads >= atoi(lost + 4)) device->lost = 1;
  int answer = answers(device);
  if (answer == GPU_IS_LOST) return answer;
  device->memory_reads++;
  memory->total = (device->whole ? 10ULL : 80ULL) << 30;
  memory->used = 1ULL << 30;
  memory->reserved = 0;
  memory->free = memory->total - memory->used;
  return SUCCESS;
}

/* 250 W without a pause. */
int nvmlDeviceGetTotalEnergyConsumption(device_t device, unsigned long long *millijoules) {
  int answer = answers_as_whole(device);
  *millijoules = now_us() / 4;
  return answer;
}

int nvmlDeviceGetPowerUsage(device_t device, unsigned *milliwatts) {
  *milliwatts = 200000;
  return answers_as_whole(device);
}

/* One field is known: the power of this moment, 260 W, where there are activity counters. */
int nvmlDeviceGetFieldValues(device_t device, int count, field_t *fields) {
  int answer = answers_as_whole(device);
  if (answer != SUCCESS) return answer;
  for (int at = 0; at < count; at++) {
    fields[at].answer = fields[at].field == 186 && is(device, "gpm") ? SUCCESS : NOT_SUPPORTED;
    fields[at].type = 1;
    fields[at].value.u = 260000;
  }
  return SUCCESS;
}

int nvmlDeviceGetClockInfo(device_t device, unsigned which, unsigned *mhz) {
  *mhz = which == 2 ? 2619 : 1755;
  return answers_as_whole(device);
}

int nvmlDeviceGetTemperature(device_t device, unsigned sensor, unsigned *celsius) {
  (void)sensor;
  *celsius = 61;
  return answers_as_whole(device);
}

/* Idling and a user's setting always, and heat where it is hot. */
int nvmlDeviceGetCurrentClocksThrottleReasons(device_t device, unsigned long long *reasons) {
  *reasons = 0x1 | 0x2 | (is(device, "hot") ? 0x20 | 0x40 : 0);
  return answers_as_whole(device);
}

/* Three processes, ours among them; one where only a slice is used. */
int nvmlDeviceGetComputeRunningProcesses_v3(device_t device, unsigned *count, process_t *processes) {
  int answer = answers(device);
  if (answer != SUCCESS) return answer;
  unsigned running = device->whole ? 1 : 3, room = *count;
  *count = running;
  if (!processes || room < running) return INSUFFICIENT_SIZE;
  for (unsigned at = 0; at < running; at++)
    processes[at] = (process_t){.pid = at ? 4000000000u + at : (unsigned)getpid()};
  return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(device_t device, unsigned *rates) {
  rates[0] = 42;
  rates[1] = 7;
  return answers_as_whole(device);
}

/* At every multiple of PERIOD_US a sample: 100 % and 40 % in turns. Places of the buffer that were never written hold a
 * time of 0, which is what the real library returns, too. */
int nvmlDeviceGetSamples(device_t device, unsigned type, unsigned long long seen, unsigned *value_type,
                         unsigned *count, sample_t *samples) {
  int answer = answers_as_whole(device);
  if (answer != SUCCESS) return answer;
  if (type != 1 || !is(device, "buffer")) return NOT_SUPPORTED;
  if (is(device, "empty") && !device->samples_asked++) return NOT_FOUND;
  unsigned long long shift = is(device, "odd-clock") ? 3600000000ULL : 0;
  unsigned long long last = now_us() / PERIOD_US, first = last - BUFFERED + 1;
  *value_type = 1;
  if (!samples) {
    *count = BUFFERED + 1;
    return SUCCESS;
  }
  unsigned written = 0, room = *count;
  for (unsigned long long at = first; at <= last && written < room; at++) {
    if (at * PERIOD_US - shift <= seen) continue;
    samples[written].us = at * PERIOD_US - shift;
    samples[written++].value.u = at % 2 ? 100 : 40;
  }
  if (written < room) {
    samples[written].us = 0;
    samples[written++].value.u = 255;
  }
  *count = written;
  return written ? SUCCESS : NOT_FOUND;
}

int nvmlGpmQueryDeviceSupport(device_t device, support_t *support) {
  if (support->version != 1) return INVALID_ARGUMENT;
  support->supported = is(device, "gpm");
  return answers(device);
}

int nvmlGpmSampleAlloc(gpm_sample_t *sample) {
  *sample = calloc(1, sizeof **sample);
  return SUCCESS;
}

int nvmlGpmSampleFree(gpm_sample_t sample) {
  free(sample);
  return SUCCESS;
}

int nvmlGpmSampleGet(device_t device, gpm_sample_t sample) {
  int answer = answers_as_whole(device);
  if (answer == SUCCESS && !is(device, "gpm")) answer = NOT_SUPPORTED;
  sample->us = now_us();
  return answer;
}

int nvmlGpmMigSampleGet(device_t device, unsigned instance, gpm_sample_t sample) {
  int answer = answers_as_whole(device);
  if (answer == SUCCESS && (instance != 3 || !is(device, "gpm"))) answer = INVALID_ARGUMENT;
  sample->us = now_us();
  sample->slice = 1;
  return answer;
}

/* Of the bandwidth 80 %, of a slice's 60 %; of the matrix units' time 25 %; nothing else. */
int nvmlGpmMetricsGet(request_t *request) {
  if (request->version != 1 || request->from->us > request->to->us) return INVALID_ARGUMENT;
  if (request->from->slice != request->to->slice) return INVALID_ARGUMENT;
  for (unsigned at = 0; at < request->count; at++) {
    metric_t *metric = &request->metrics[at];
    metric->answer = metric->metric == 10 || metric->metric == 5 ? SUCCESS : NOT_SUPPORTED;
    metric->value = metric->metric == 5 ? 25 : request->from->slice ? 60 : 80;
  }
  return SUCCESS;
}
