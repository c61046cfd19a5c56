// What a kernel of a step costs beside its work, on this GPU: chains of dependent kernels that do next to nothing,
// launched one by one, as a graph, as a graph in which each has an allocation and a free around it (as tensors make
// them), and as a graph whose kernels may start before those ahead of them have ended (programmatic dependent launch).
//
//   nvcc -O2 -arch=native -o graph_probe graph_probe.cu && ./graph_probe
//
// Prints one JSON document a line: {"probe", "blocks", "nodes", "device_us", "host_us"}, microseconds a kernel.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cuda_runtime.h>

static const int KERNELS = 320, REPLAYS = 20, THREADS = 128;

enum Way { LAUNCHES, GRAPH, ALLOCATIONS, DEPENDENT, WAYS };
static const char *const NAMES[WAYS] = {"launches", "graph", "graph, allocations", "graph, dependent launch"};

static void check(cudaError_t code, int line) {
    if (code == cudaSuccess) return;
    fprintf(stderr, "graph_probe.cu:%d: error: %s\n", line, cudaGetErrorString(code));
    exit(1);
}
#define CHECK(call) check(call, __LINE__)

__global__ void count(float *numbers) {
    if (threadIdx.x == 0) numbers[blockIdx.x] += 1.f;
}

// The same, for a launch that may be early: lets the next one in at once, and waits for the one before.
__global__ void count_early(float *numbers) {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    if (threadIdx.x == 0) numbers[blockIdx.x] += 1.f;
}

static void chain(Way way, int blocks, float *numbers, cudaStream_t stream) {
    for (int i = 0; i < KERNELS; i++) {
        if (way == ALLOCATIONS) {
            void *own;
            CHECK(cudaMallocAsync(&own, 64 << 10, stream));
            count<<<blocks, THREADS, 0, stream>>>((float *)own);
            CHECK(cudaFreeAsync(own, stream));
        } else if (way == DEPENDENT) {
            cudaLaunchAttribute early = {};
            early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
            early.val.programmaticStreamSerializationAllowed = 1;
            cudaLaunchConfig_t launch = {};
            launch.gridDim = dim3(blocks);
            launch.blockDim = dim3(THREADS);
            launch.stream = stream;
            launch.attrs = &early;
            launch.numAttrs = 1;
            CHECK(cudaLaunchKernelEx(&launch, count_early, numbers));
        } else {
            count<<<blocks, THREADS, 0, stream>>>(numbers);
        }
    }
    CHECK(cudaGetLastError());
}

static void measure(Way way, int blocks, float *numbers, cudaStream_t stream) {
    // Loads the kernel, and fills the pool.
    chain(way, blocks, numbers, stream);
    CHECK(cudaStreamSynchronize(stream));
    cudaGraphExec_t ready = nullptr;
    size_t nodes = 0;
    if (way != LAUNCHES) {
        cudaGraph_t graph;
        CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
        chain(way, blocks, numbers, stream);
        CHECK(cudaStreamEndCapture(stream, &graph));
        CHECK(cudaGraphGetNodes(graph, nullptr, &nodes));
        CHECK(cudaGraphInstantiateWithFlags(&ready, graph, cudaGraphInstantiateFlagAutoFreeOnLaunch));
        CHECK(cudaGraphUpload(ready, stream));
        CHECK(cudaGraphDestroy(graph));
    }
    auto replay = [&](int times) {
        for (int i = 0; i < times; i++) {
            if (ready) CHECK(cudaGraphLaunch(ready, stream));
            else chain(way, blocks, numbers, stream);
        }
    };
    cudaEvent_t begin, end;
    CHECK(cudaEventCreate(&begin));
    CHECK(cudaEventCreate(&end));
    replay(3);
    CHECK(cudaStreamSynchronize(stream));
    auto from = std::chrono::steady_clock::now();
    CHECK(cudaEventRecord(begin, stream));
    replay(REPLAYS);
    CHECK(cudaEventRecord(end, stream));
    std::chrono::duration<double, std::micro> host = std::chrono::steady_clock::now() - from;
    CHECK(cudaEventSynchronize(end));
    float device;
    CHECK(cudaEventElapsedTime(&device, begin, end));
    const double all = (double)KERNELS * REPLAYS;
    printf("{\"probe\": \"%s\", \"blocks\": %d, \"nodes\": %zu, \"device_us\": %.3f, \"host_us\": %.3f}\n", NAMES[way],
           blocks, nodes, device * 1e3 / all, host.count() / all);
    fflush(stdout);
    if (ready) CHECK(cudaGraphExecDestroy(ready));
}

int main() {
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    float *numbers;
    CHECK(cudaMalloc(&numbers, 1 << 20));
    CHECK(cudaMemset(numbers, 0, 1 << 20));
    // What is freed stays in the pool.
    cudaMemPool_t pool;
    CHECK(cudaDeviceGetDefaultMemPool(&pool, 0));
    unsigned long long most = ~0ull;
    CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &most));
    for (int blocks : {1, 128})
        for (int way = LAUNCHES; way < WAYS; way++) measure((Way)way, blocks, numbers, stream);
    return 0;
}
