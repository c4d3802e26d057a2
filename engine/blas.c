/* blas: matrix products by OpenBLAS or oneDNN, always on the calling thread; the pool does the splitting.
 *
 * Which one is a measurement (one core of an EPYC "Genoa", GFLOP/s of fp32, Debian 12's OpenBLAS 0.3.21, which picks
 * its Cooperlake kernels there, and oneDNN 2.6.3): over 160 … 2000 tokens × 256 … 3072 features, in the three
 * orientations that a linear layer needs, OpenBLAS gives 89 to 103 and oneDNN 97 to 113, 7 % more in the middle; at
 * 8 rows 43 to 60 against 81 to 111.  OpenBLAS's SkylakeX and Haswell kernels are no faster.  So oneDNN serves where
 * it is built in and the CPU has AVX-512, OpenBLAS everywhere else.  DISTILLD_BLAS=openblas|onednn overrides it, for
 * tests and benchmarks.
 *
 * The library is opened when something is first computed: both together, with what they pull in, would be half of what
 * a start takes, and OpenBLAS would start a thread before main().  DD_OPENBLAS and DD_ONEDNN are the names that the
 * libraries give themselves, from the Makefile.
 *
 * bf16: oneDNN's dnnl_gemm_bf16bf16f32, which the library exports for its own benchmark and no header declares (same
 * arguments as dnnl_sgemm), so it is looked up and tried once before anybody is told that bf16 is there.  One core of
 * the same machine: 200 to 229 GFLOP/s.  On other CPUs with AVX-512 oneDNN can emulate it, which is no faster than
 * fp32: DISTILLD_BF16=emulated lets it, for tests.
 */
#include "engine/blas.h"

#include "engine/engine.h"

#include <assert.h>
#include <cblas.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#ifdef DD_HAVE_ONEDNN
#include <oneapi/dnnl/dnnl.h>
#endif

static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool opened; /* what follows is set before, and stays */
static char name[128];
static __typeof__(cblas_sgemm) *openblas_product;
#ifdef DD_HAVE_ONEDNN
typedef dnnl_status_t bf16_gemm(char a_transposed, char b_transposed, dnnl_dim_t m, dnnl_dim_t n, dnnl_dim_t k,
                                float alpha, const uint16_t *a, dnnl_dim_t lda, const uint16_t *b, dnnl_dim_t ldb,
                                float beta, float *c, dnnl_dim_t ldc);
static __typeof__(dnnl_sgemm) *onednn_product; /* NULL: OpenBLAS serves */
static bf16_gemm *bf16_product;                /* NULL: no bf16 here */
static void (*set_omp_threads)(int);
#endif

/* The function of that name into *ret_function, a pointer to a function; false and unchanged if there is none. */
static bool find(void *library, const char *function, void *ret_function) {
    void *symbol = dlsym(library, function);
    if (symbol != NULL) {
        memcpy(ret_function, &symbol, sizeof symbol);
    }
    return symbol != NULL;
}

static enum dd_status missing(const char *library, struct dd_error *err) {
    const char *reason = dlerror();
    return dd_fail(err, DD_UNSUPPORTED, "blas_missing", "cannot open the matrix library: %s",
                   reason != NULL ? reason : library);
}

#ifdef DD_HAVE_ONEDNN
/* [1 2] [3 4]ᵀ: another signature or a CPU that oneDNN has no kernel for would show. */
static void find_bf16(void *library) {
    static const uint16_t a[] = {0x3f80, 0x4000}, b[] = {0x4040, 0x4080};
    float c = 0.0f;
    bf16_gemm *found = NULL;
    const char *wanted = getenv("DISTILLD_BF16");
    bool emulated = wanted != NULL && strcmp(wanted, "emulated") == 0;
    if ((!emulated && !__builtin_cpu_supports("avx512bf16")) || !find(library, "dnnl_gemm_bf16bf16f32", &found)) {
        return;
    }
    set_omp_threads(1);
    if (found('N', 'T', 1, 1, 2, 1.0f, a, 2, b, 2, 0.0f, &c, 1) == dnnl_success && c == 11.0f) {
        bf16_product = found;
    }
}

static bool wants_onednn(void) {
    const char *wanted = getenv("DISTILLD_BLAS");
    __builtin_cpu_init();
    return wanted != NULL ? strcmp(wanted, "onednn") == 0 : __builtin_cpu_supports("avx512f") != 0;
}

/* oneDNN splits its work with OpenMP, whose threads are not ours to count: without the function that stops this it is
 * not used. */
static enum dd_status open_onednn(struct dd_error *err) {
    void *library = dlopen(DD_ONEDNN, RTLD_NOW | RTLD_LOCAL);
    __typeof__(dnnl_sgemm) *product = NULL;
    __typeof__(dnnl_version) *version = NULL;
    if (library == NULL || !find(library, "omp_set_num_threads", &set_omp_threads) ||
        !find(library, "dnnl_version", &version) || !find(library, "dnnl_sgemm", &product)) {
        return missing(DD_ONEDNN, err);
    }
    onednn_product = product;
    find_bf16(library);
    snprintf(name, sizeof name, "oneDNN %d.%d.%d", version()->major, version()->minor, version()->patch);
    return DD_OK;
}
#endif

static enum dd_status open_openblas(struct dd_error *err) {
    void *library = dlopen(DD_OPENBLAS, RTLD_NOW | RTLD_LOCAL);
    __typeof__(cblas_sgemm) *product = NULL;
    __typeof__(openblas_get_config) *config = NULL;
    __typeof__(openblas_get_corename) *core = NULL;
    __typeof__(openblas_set_num_threads) *set_threads = NULL;
    if (library == NULL || !find(library, "cblas_sgemm", &product) || !find(library, "openblas_get_config", &config) ||
        !find(library, "openblas_get_corename", &core) || !find(library, "openblas_set_num_threads", &set_threads)) {
        return missing(DD_OPENBLAS, err);
    }
    set_threads(1);
    snprintf(name, sizeof name, "%.60s %.40s", config(), core());
    char *rest = strchr(name, ' ');
    if (rest != NULL &&
        (rest = strchr(rest + 1, ' ')) != NULL) { /* after its name and version, the options of its build */
        snprintf(rest, sizeof name - (size_t)(rest - name), " %.40s", core());
    }
    openblas_product = product;
    return DD_OK;
}

/* No library stands in for the other: a run that goes on with it, after one moment without descriptors or memory, would
 * go on with other bits. */
static enum dd_status open_wanted(struct dd_error *err) {
#ifdef DD_HAVE_ONEDNN
    if (wants_onednn()) {
        return open_onednn(err);
    }
#endif
    return open_openblas(err);
}

enum dd_status dd_blas_open(struct dd_error *err) {
    if (atomic_load_explicit(&opened, memory_order_acquire)) {
        return DD_OK;
    }
    pthread_mutex_lock(&opening);
    enum dd_status status = atomic_load_explicit(&opened, memory_order_relaxed) ? DD_OK : open_wanted(err);
    if (status == DD_OK) {
        atomic_store_explicit(&opened, true, memory_order_release);
    }
    pthread_mutex_unlock(&opening);
    return status;
}

const char *dd_engine_blas(void) {
    return dd_blas_open(NULL) == DD_OK ? name : NULL;
}

#ifdef DD_HAVE_ONEDNN
/* OpenMP keeps the number of threads for each calling thread. */
static void stay_on_this_thread(void) {
    static _Thread_local bool done;
    if (!done) {
        set_omp_threads(1);
        done = true;
    }
}

static float element(const void *matrix, bool bf16, size_t index) {
    if (!bf16) {
        return ((const float *)matrix)[index];
    }
    uint32_t bits = (uint32_t)((const uint16_t *)matrix)[index] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* When oneDNN cannot (it found no memory for its packed copies): the definition. */
static void plain_product(bool bf16, bool a_transposed, bool b_transposed, size_t m, size_t n, size_t k, const void *a,
                          size_t lda, const void *b, size_t ldb, float beta, float *c, size_t ldc) {
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++) {
            float sum = 0.0f;
            for (size_t l = 0; l < k; l++) {
                sum += element(a, bf16, a_transposed ? l * lda + i : i * lda + l) *
                       element(b, bf16, b_transposed ? j * ldb + l : l * ldb + j);
            }
            float *to = c + i * ldc + j;
            *to = beta == 0.0f ? sum : *to + sum;
        }
    }
}
#endif

void dd_sgemm(bool a_transposed, bool b_transposed, int m, int n, int k, const float *a, int lda, const float *b,
              int ldb, float beta, float *c, int ldc) {
    assert(atomic_load_explicit(&opened, memory_order_relaxed));
#ifdef DD_HAVE_ONEDNN
    if (onednn_product != NULL) {
        stay_on_this_thread();
        if (onednn_product(a_transposed ? 'T' : 'N', b_transposed ? 'T' : 'N', m, n, k, 1.0f, a, lda, b, ldb, beta, c,
                           ldc) != dnnl_success) {
            plain_product(false, a_transposed, b_transposed, (size_t)m, (size_t)n, (size_t)k, a, (size_t)lda, b,
                          (size_t)ldb, beta, c, (size_t)ldc);
        }
        return;
    }
#endif
    openblas_product(CblasRowMajor, a_transposed ? CblasTrans : CblasNoTrans, b_transposed ? CblasTrans : CblasNoTrans,
                     m, n, k, 1.0f, a, lda, b, ldb, beta, c, ldc);
}

void dd_bf16_gemm(bool a_transposed, bool b_transposed, int m, int n, int k, const uint16_t *a, int lda,
                  const uint16_t *b, int ldb, float beta, float *c, int ldc) {
#ifdef DD_HAVE_ONEDNN
    assert(bf16_product != NULL);
    stay_on_this_thread();
    if (bf16_product(a_transposed ? 'T' : 'N', b_transposed ? 'T' : 'N', m, n, k, 1.0f, a, lda, b, ldb, beta, c, ldc) !=
        dnnl_success) {
        plain_product(true, a_transposed, b_transposed, (size_t)m, (size_t)n, (size_t)k, a, (size_t)lda, b, (size_t)ldb,
                      beta, c, (size_t)ldc);
    }
#else
    (void)a_transposed, (void)b_transposed, (void)m, (void)n, (void)k, (void)a, (void)lda, (void)b, (void)ldb;
    (void)beta, (void)c, (void)ldc;
    assert(!"dd_engine_has_bf16 said so");
#endif
}

bool dd_engine_has_bf16(void) {
#ifdef DD_HAVE_ONEDNN
    return dd_blas_open(NULL) == DD_OK && bf16_product != NULL;
#else
    return false;
#endif
}
