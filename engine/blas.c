/* blas: matrix products by OpenBLAS or oneDNN, always on the calling thread; the pool does the splitting.
 *
 * Which one is a measurement (one core of an EPYC "Genoa", GFLOP/s of fp32, Debian 12's OpenBLAS 0.3.21, which picks
 * its Cooperlake kernels there, and oneDNN 2.6.3): over 160 … 2000 tokens × 256 … 3072 features, in the three
 * orientations that a linear layer needs, OpenBLAS gives 89 to 103 and oneDNN 97 to 113, 7 % more in the middle; at
 * 8 rows 43 to 60 against 81 to 111.  OpenBLAS's SkylakeX and Haswell kernels are no faster.  So oneDNN serves where
 * it is built in and the CPU has AVX-512, OpenBLAS everywhere else.  DISTILLD_BLAS=openblas|onednn overrides it, for
 * tests and benchmarks.
 *
 * bf16: oneDNN's dnnl_gemm_bf16bf16f32, which the library exports for its own benchmark and no header declares (same
 * arguments as dnnl_sgemm), so it is looked up and tried once before anybody is told that bf16 is there.  One core of
 * the same machine: 200 to 229 GFLOP/s.
 */
#include "engine/blas.h"

#include "engine/engine.h"

#include <assert.h>
#include <cblas.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#ifdef DD_HAVE_ONEDNN
#include <oneapi/dnnl/dnnl.h>
#endif

static pthread_once_t once = PTHREAD_ONCE_INIT;
static char description[128];
#ifdef DD_HAVE_ONEDNN
static bool use_onednn;
static void (*set_omp_threads)(int);
typedef dnnl_status_t bf16_gemm(char a_transposed, char b_transposed, dnnl_dim_t m, dnnl_dim_t n, dnnl_dim_t k,
                                float alpha, const uint16_t *a, dnnl_dim_t lda, const uint16_t *b, dnnl_dim_t ldb,
                                float beta, float *c, dnnl_dim_t ldc);
static bf16_gemm *gemm_of_bf16; /* NULL: no bf16 here */

/* [1 2] [3 4]ᵀ: another signature or a CPU that oneDNN has no kernel for would show. */
static void find_bf16(void) {
    static const uint16_t a[] = {0x3f80, 0x4000}, b[] = {0x4040, 0x4080};
    float c = 0.0f;
    bf16_gemm *found = NULL;
    if (use_onednn && __builtin_cpu_supports("avx512bf16")) {
        void *symbol = dlsym(RTLD_DEFAULT, "dnnl_gemm_bf16bf16f32");
        memcpy(&found, &symbol, sizeof symbol);
        set_omp_threads(1);
    }
    if (found != NULL && found('N', 'T', 1, 1, 2, 1.0f, a, 2, b, 2, 0.0f, &c, 1) == dnnl_success && c == 11.0f) {
        gemm_of_bf16 = found;
    }
}
#endif

static void start(void) {
    openblas_set_num_threads(1);
    snprintf(description, sizeof description, "%.60s %.40s", openblas_get_config(), openblas_get_corename());
    char *rest = strchr(description, ' ');
    if (rest != NULL && (rest = strchr(rest + 1, ' ')) != NULL) {
        snprintf(rest, sizeof description - (size_t)(rest - description), " %.40s", openblas_get_corename());
    }
#ifdef DD_HAVE_ONEDNN
    const char *wanted = getenv("DISTILLD_BLAS");
    __builtin_cpu_init();
    use_onednn = wanted != NULL ? strcmp(wanted, "onednn") == 0 : __builtin_cpu_supports("avx512f") != 0;
    /* oneDNN splits its work with OpenMP; its threads are not ours to count.  The library is not linked by us, so its
     * function is looked up; without it oneDNN is not used. */
    void *symbol = dlsym(RTLD_DEFAULT, "omp_set_num_threads");
    memcpy(&set_omp_threads, &symbol, sizeof symbol);
    use_onednn = use_onednn && set_omp_threads != NULL;
    if (use_onednn) {
        const dnnl_version_t *version = dnnl_version();
        snprintf(description, sizeof description, "oneDNN %d.%d.%d", version->major, version->minor, version->patch);
    }
    find_bf16();
#endif
}

void dd_blas_start(void) {
    pthread_once(&once, start);
}

const char *dd_engine_blas(void) {
    dd_blas_start();
    return description;
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
#endif

void dd_sgemm(bool a_transposed, bool b_transposed, int m, int n, int k, const float *a, int lda, const float *b,
              int ldb, float beta, float *c, int ldc) {
#ifdef DD_HAVE_ONEDNN
    if (use_onednn) {
        stay_on_this_thread();
        if (dnnl_sgemm(a_transposed ? 'T' : 'N', b_transposed ? 'T' : 'N', m, n, k, 1.0f, a, lda, b, ldb, beta, c,
                       ldc) == dnnl_success) {
            return;
        }
    }
#endif
    cblas_sgemm(CblasRowMajor, a_transposed ? CblasTrans : CblasNoTrans, b_transposed ? CblasTrans : CblasNoTrans, m, n,
                k, 1.0f, a, lda, b, ldb, beta, c, ldc);
}

#ifdef DD_HAVE_ONEDNN
/* When oneDNN cannot (it found no memory for its packed copies): the definition. */
static void plain_bf16_gemm(bool a_transposed, bool b_transposed, int m, int n, int k, const uint16_t *a, int lda,
                            const uint16_t *b, int ldb, float beta, float *c, int ldc) {
    for (size_t i = 0; i < (size_t)m; i++) {
        for (size_t j = 0; j < (size_t)n; j++) {
            float sum = 0.0f;
            for (size_t l = 0; l < (size_t)k; l++) {
                uint32_t x = (uint32_t)a[a_transposed ? l * (size_t)lda + i : i * (size_t)lda + l] << 16;
                uint32_t y = (uint32_t)b[b_transposed ? j * (size_t)ldb + l : l * (size_t)ldb + j] << 16;
                float left, right;
                memcpy(&left, &x, sizeof left);
                memcpy(&right, &y, sizeof right);
                sum += left * right;
            }
            float *to = c + i * (size_t)ldc + j;
            *to = beta == 0.0f ? sum : *to + sum;
        }
    }
}
#endif

void dd_bf16_gemm(bool a_transposed, bool b_transposed, int m, int n, int k, const uint16_t *a, int lda,
                  const uint16_t *b, int ldb, float beta, float *c, int ldc) {
#ifdef DD_HAVE_ONEDNN
    assert(gemm_of_bf16 != NULL);
    stay_on_this_thread();
    if (gemm_of_bf16(a_transposed ? 'T' : 'N', b_transposed ? 'T' : 'N', m, n, k, 1.0f, a, lda, b, ldb, beta, c, ldc) !=
        dnnl_success) {
        plain_bf16_gemm(a_transposed, b_transposed, m, n, k, a, lda, b, ldb, beta, c, ldc);
    }
#else
    (void)a_transposed, (void)b_transposed, (void)m, (void)n, (void)k, (void)a, (void)lda, (void)b, (void)ldb;
    (void)beta, (void)c, (void)ldc;
    assert(!"dd_engine_has_bf16 said so");
#endif
}

bool dd_engine_has_bf16(void) {
    dd_blas_start();
#ifdef DD_HAVE_ONEDNN
    return gemm_of_bf16 != NULL;
#else
    return false;
#endif
}
