/* blas: matrix products by OpenBLAS or oneDNN, always on the calling thread; the pool does the splitting.
 *
 * Which one is a measurement (one core of an EPYC "Genoa", GFLOP/s of fp32, Debian 12's OpenBLAS 0.3.21, which picks
 * its Cooperlake kernels there, and oneDNN 2.6.3): over 160 … 2000 tokens × 256 … 3072 features, in the three
 * orientations that a linear layer needs, OpenBLAS gives 89 to 103 and oneDNN 97 to 113, 7 % more in the middle; at
 * 8 rows 43 to 60 against 81 to 111.  OpenBLAS's SkylakeX and Haswell kernels are no faster.  So oneDNN serves where
 * it is built in and the CPU has AVX-512, OpenBLAS everywhere else.  DISTILLD_BLAS=openblas|onednn overrides it, for
 * tests and benchmarks.
 */
#include "engine/blas.h"

#include "engine/engine.h"

#include <cblas.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#ifdef DD_HAVE_ONEDNN
#include <oneapi/dnnl/dnnl.h>
#endif

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool use_onednn;
static char description[128];
static void (*set_omp_threads)(int);

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

bool dd_engine_has_bf16(void) {
    return false;
}
