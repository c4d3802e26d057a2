/* int8_kernels: sums of products of bytes, once for each instruction set; see int8.h for operands and layout.
 *
 * VNNI multiplies four unsigned bytes by four signed ones and adds them to an int32 lane, without saturation.  AVX2 has
 * only vpmaddubsw, whose pairs saturate at 2^15: with |a| ≤ 127 as the unsigned operand and b with a's sign, a pair is
 * at most 2 · 127², which fits.  So all kernels give the same integers; tests/unit/engine/test_int8.c holds each
 * against the plain one.  One core of an EPYC (Zen 4), 296 rows × 768: 396 GOP/s by VNNI on 512 bits, four times
 * sgemm's 94.
 *
 * oneDNN's dnnl_gemm_u8s8s32 was weighed and left: it packs the weights at every call, which for one text costs more
 * than the product, and without VNNI it saturates, so that results would depend on the CPU.
 * Threads: no state but the choice, made once.
 */
#include "engine/int8.h"

#include "engine/simd.h"

#include <cpuid.h>
#include <immintrin.h>
#include <pthread.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define QUAD_BYTES (4 * DD_INT8_PANEL) /* of a panel, for four columns of W */

static int32_t load_quad(const uint8_t *at) {
    int32_t quad;
    memcpy(&quad, at, sizeof quad);
    return quad;
}

/* --- plain -------------------------------------------------------------------------------------------------------- */

static void run_plain(const struct dd_int8_block *p) {
    for (int j = 0; j < p->n; j += DD_INT8_PANEL) {
        const int8_t *panel = p->b + (size_t)(j / DD_INT8_PANEL) * p->panel_bytes;
        for (int i = 0; i < p->m; i++) {
            const uint8_t *a = p->a + (size_t)i * p->lda;
            int32_t sum[DD_INT8_PANEL] = {0};
            for (int l = 0; l < p->quads; l++) {
                for (int column = 0; column < DD_INT8_PANEL; column++) {
                    const int8_t *b = panel + (size_t)l * QUAD_BYTES + (size_t)column * 4;
                    for (int q = 0; q < 4; q++) {
                        sum[column] += (a[(size_t)l * 4 + (size_t)q] - 128) * b[q];
                    }
                }
            }
            size_t count = (size_t)DD_MIN(p->n - j, DD_INT8_PANEL);
            memcpy(p->c + (size_t)i * p->ldc + (size_t)j, sum, count * sizeof *sum);
        }
    }
}

/* --- 256 bits: a panel is two registers --------------------------------------------------------------------------- */

/* begin(offset): what eight sums start from; prepare(left): once for four bytes of a row of A; add(sum, left, right):
 * in each lane, four products added to an int32.  The sums are variables of their own, for an array of them is kept in
 * memory by gcc 12. */
#define BEGIN_256(i, begin) __m256i sum##i##0 = begin(p->offset + j0), sum##i##1 = begin(p->offset + j0 + 8);
#define ADD_256(i, prepare, add)                                                                                       \
    if (rows > (i)) {                                                                                                  \
        __m256i left = prepare(_mm256_set1_epi32(load_quad(a + (size_t)(i)*p->lda + (size_t)l * 4)));                  \
        sum##i##0 = add(sum##i##0, left, right0);                                                                      \
        sum##i##1 = add(sum##i##1, left, right1);                                                                      \
    }
#define STORE_256(i)                                                                                                   \
    if (rows > (i)) {                                                                                                  \
        const __m256i sums[2] = {sum##i##0, sum##i##1};                                                                \
        memcpy(p->c + (size_t)(i0 + (i)) * p->ldc + (size_t)j0, sums, count * sizeof *p->c);                           \
    }
/* NOLINTBEGIN(bugprone-macro-parentheses): an attribute cannot stand in parentheses. */
#define DEFINE_RUN_256(name, target, begin, prepare, add)                                                              \
    target INLINE void block_##name(const struct dd_int8_block *p, int rows, int i0, int j0) {                         \
        const int8_t *b = p->b + (size_t)(j0 / DD_INT8_PANEL) * p->panel_bytes;                                        \
        const uint8_t *a = p->a + (size_t)i0 * p->lda;                                                                 \
        BEGIN_256(0, begin)                                                                                            \
        BEGIN_256(1, begin)                                                                                            \
        BEGIN_256(2, begin) BEGIN_256(3, begin) for (int l = 0; l < p->quads; l++, b += QUAD_BYTES) {                  \
            __m256i right0 = _mm256_loadu_si256((const __m256i *)(const void *)b);                                     \
            __m256i right1 = _mm256_loadu_si256((const __m256i *)(const void *)(b + 32));                              \
            ADD_256(0, prepare, add) ADD_256(1, prepare, add) ADD_256(2, prepare, add) ADD_256(3, prepare, add)        \
        }                                                                                                              \
        size_t count = (size_t)DD_MIN(p->n - j0, DD_INT8_PANEL);                                                       \
        STORE_256(0) STORE_256(1) STORE_256(2) STORE_256(3)                                                            \
    }                                                                                                                  \
    target static void run_##name(const struct dd_int8_block *p) {                                                     \
        for (int j = 0; j < p->n; j += DD_INT8_PANEL) {                                                                \
            int i = 0;                                                                                                 \
            for (; p->m - i >= 4; i += 4) {                                                                            \
                block_##name(p, 4, i, j);                                                                              \
            }                                                                                                          \
            if (p->m - i == 3) {                                                                                       \
                block_##name(p, 3, i, j);                                                                              \
            } else if (p->m - i == 2) {                                                                                \
                block_##name(p, 2, i, j);                                                                              \
            } else if (p->m - i == 1) {                                                                                \
                block_##name(p, 1, i, j);                                                                              \
            }                                                                                                          \
        }                                                                                                              \
    }

/* NOLINTEND(bugprone-macro-parentheses) */

#define AVX2 __attribute__((target("avx2")))
#define AVX_VNNI __attribute__((target("avx2,avxvnni")))
#define VNNI_256 __attribute__((target("avx2,avx512f,avx512vl,avx512vnni")))
#define VNNI_512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))

AVX2 INLINE __m256i begin_at_zero(const int32_t *offset) {
    (void)offset;
    return _mm256_setzero_si256();
}

AVX2 INLINE __m256i to_signed(__m256i left) {
    return _mm256_xor_si256(left, _mm256_set1_epi8((char)0x80));
}

AVX2 INLINE __m256i add_avx2(__m256i sum, __m256i left, __m256i right) {
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(left), _mm256_sign_epi8(right, left));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

AVX2 INLINE __m256i begin_below(const int32_t *offset) {
    return _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_loadu_si256((const __m256i *)(const void *)offset));
}

AVX2 INLINE __m256i as_it_is(__m256i left) {
    return left;
}

AVX_VNNI INLINE __m256i add_avxvnni(__m256i sum, __m256i left, __m256i right) {
    return _mm256_dpbusd_avx_epi32(sum, left, right);
}

VNNI_256 INLINE __m256i add_vnni256(__m256i sum, __m256i left, __m256i right) {
    return _mm256_dpbusd_epi32(sum, left, right);
}

DEFINE_RUN_256(avx2, AVX2, begin_at_zero, to_signed, add_avx2)
DEFINE_RUN_256(avxvnni, AVX_VNNI, begin_below, as_it_is, add_avxvnni)
DEFINE_RUN_256(vnni256, VNNI_256, begin_below, as_it_is, add_vnni256)

/* --- 512 bits: a panel is one register; up to four of them beside one another, by six rows ------------------------ */

#define EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)
#define BEGIN_ROW(i) __m512i sum##i##0 = begin0, sum##i##1 = begin1, sum##i##2 = begin2, sum##i##3 = begin3;
#define ADD_ROW(i)                                                                                                     \
    if (rows > (i)) {                                                                                                  \
        __m512i left = _mm512_set1_epi32(load_quad(a + (size_t)(i)*p->lda + (size_t)l * 4));                           \
        sum##i##0 = _mm512_dpbusd_epi32(sum##i##0, left, right0);                                                      \
        sum##i##1 = panels > 1 ? _mm512_dpbusd_epi32(sum##i##1, left, right1) : sum##i##1;                             \
        sum##i##2 = panels > 2 ? _mm512_dpbusd_epi32(sum##i##2, left, right2) : sum##i##2;                             \
        sum##i##3 = panels > 2 ? _mm512_dpbusd_epi32(sum##i##3, left, right3) : sum##i##3;                             \
    }
#define STORE_ROW(i)                                                                                                   \
    if (rows > (i)) {                                                                                                  \
        int32_t *c = p->c + (size_t)(i0 + (i)) * p->ldc + (size_t)j0;                                                  \
        int left = DD_MIN(p->n - j0, panels * DD_INT8_PANEL);                                                          \
        store_panel(c, left, sum##i##0);                                                                               \
        store_panel(c + DD_INT8_PANEL, left - DD_INT8_PANEL, sum##i##1);                                               \
        store_panel(c + 2 * DD_INT8_PANEL, left - 2 * DD_INT8_PANEL, sum##i##2);                                       \
        store_panel(c + 3 * DD_INT8_PANEL, left - 3 * DD_INT8_PANEL, sum##i##3);                                       \
    }

/* At most a panel of the `count` columns that are left; none if count is not positive. */
VNNI_512 INLINE void store_panel(int32_t *to, int count, __m512i sum) {
    if (count > 0) {
        _mm512_mask_storeu_epi32(to, (__mmask16)((1u << DD_MIN(count, DD_INT8_PANEL)) - 1u), sum);
    }
}

VNNI_512 INLINE __m512i begin_vnni512(const struct dd_int8_block *p, int row) {
    return row >= p->n ? _mm512_setzero_si512()
                       : _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_loadu_si512(p->offset + row));
}

/* panels: 1, 2 or 4; columns beyond the last panel are neither read nor stored. */
VNNI_512 INLINE void block_vnni512(const struct dd_int8_block *p, int rows, int panels, int i0, int j0) {
    const __m512i begin0 = begin_vnni512(p, j0), begin1 = begin_vnni512(p, j0 + DD_INT8_PANEL);
    const __m512i begin2 = begin_vnni512(p, j0 + 2 * DD_INT8_PANEL), begin3 = begin_vnni512(p, j0 + 3 * DD_INT8_PANEL);
    const int8_t *b = p->b + (size_t)(j0 / DD_INT8_PANEL) * p->panel_bytes;
    const uint8_t *a = p->a + (size_t)i0 * p->lda;
    EACH_ROW(BEGIN_ROW)
    for (int l = 0; l < p->quads; l++, b += QUAD_BYTES) {
        __m512i right0 = _mm512_loadu_si512(b), right1 = right0, right2 = right0, right3 = right0;
        if (panels > 1) {
            right1 = _mm512_loadu_si512(b + p->panel_bytes);
        }
        if (panels > 2) {
            right2 = _mm512_loadu_si512(b + 2 * p->panel_bytes);
            right3 = _mm512_loadu_si512(b + 3 * p->panel_bytes);
        }
        EACH_ROW(ADD_ROW)
    }
    EACH_ROW(STORE_ROW)
}

VNNI_512 INLINE void columns_vnni512(const struct dd_int8_block *p, int panels, int j) {
    int i = 0;
    for (; p->m - i >= 6; i += 6) {
        block_vnni512(p, 6, panels, i, j);
    }
    switch (p->m - i) {
    case 5:
        block_vnni512(p, 5, panels, i, j);
        break;
    case 4:
        block_vnni512(p, 4, panels, i, j);
        break;
    case 3:
        block_vnni512(p, 3, panels, i, j);
        break;
    case 2:
        block_vnni512(p, 2, panels, i, j);
        break;
    case 1:
        block_vnni512(p, 1, panels, i, j);
        break;
    default:
        break;
    }
}

VNNI_512 static void run_vnni512(const struct dd_int8_block *p) {
    int j = 0;
    for (; p->n - j > 3 * DD_INT8_PANEL; j += 4 * DD_INT8_PANEL) {
        columns_vnni512(p, 4, j);
    }
    for (; p->n - j > DD_INT8_PANEL; j += 2 * DD_INT8_PANEL) {
        columns_vnni512(p, 2, j);
    }
    if (p->n > j) {
        columns_vnni512(p, 1, j);
    }
}

/* --- the choice --------------------------------------------------------------------------------------------------- */

static const struct dd_int8_kernel vnni512 = {"avx512vnni", run_vnni512}, vnni256 = {"avx512vnni 256", run_vnni256},
                                   avxvnni = {"avxvnni", run_avxvnni}, avx2 = {"avx2", run_avx2},
                                   plain = {"plain", run_plain};
static const struct dd_int8_kernel *usable[5];
static size_t n_usable;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* CPUID 7.1: EAX bit 4; the compilers' __builtin_cpu_supports does not know it yet. */
static bool has_avxvnni(void) {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & 1u << 4) != 0;
}

static void choose(void) {
    __builtin_cpu_init();
    /* What dd_simd chose has looked at the operating system's part, too, and at DISTILLD_SIMD. */
    bool has_avx512 = strcmp(dd_simd()->name, "avx512") == 0;
    bool has_avx2 = has_avx512 || strcmp(dd_simd()->name, "avx2") == 0;
    bool has_vnni = has_avx512 && __builtin_cpu_supports("avx512vnni");
    const struct {
        bool there;
        const struct dd_int8_kernel *kernel;
    } all[] = {{has_vnni, &vnni512},
               {has_avx2 && has_avxvnni(), &avxvnni},
               {has_vnni, &vnni256},
               {has_avx2, &avx2},
               {true, &plain}};
    for (size_t i = 0; i < DD_ARRAY_LEN(all); i++) {
        if (all[i].there) {
            usable[n_usable++] = all[i].kernel;
        }
    }
}

const struct dd_int8_kernel *const *dd_int8_kernels(size_t *ret_count) {
    pthread_once(&once, choose);
    *ret_count = n_usable;
    return usable;
}
