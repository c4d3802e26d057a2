/* math: exp, the normal distribution and tanh on vectors.  Error bounds are checked by tests/unit/engine/test_simd.c
 * against double precision.
 */
#ifndef DD_SIMD_MATH_H
#define DD_SIMD_MATH_H

#include "engine/simd/vec.h"

/* e^x, within 2 ulp for x in [-87.3, 88.3]; below that 0 (so e^-inf = 0), above that the value at 88.3;
 * NaN stays NaN, so that a run that diverges is seen.
 * n = round(x / ln 2) by adding and taking away 1.5·2^23; ln 2 in two parts (Cody and Waite); polynomial of Cephes. */
static inline vf vexp(vf x) {
    vf clamped = vmin(vmax(x, splat(-87.336f)), splat(88.376f));
    vf shifted = clamped * 1.44269504088896341f + 12582912.0f;
    vf n = shifted - 12582912.0f;
    vf r = clamped - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    vf p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    vf y = p * (r * r) + r + 1.0f;
    vi exponent = ((vi)shifted - 0x4b400000) << 23;
    y = (vf)((vi)y + exponent);
    return select_f(x >= -87.336f, y, (vf)((vi)x & (x != x)));
}

/* Φ(x) and φ(x), the standard normal distribution and density, absolute error of Φ at most 2.5e-7.
 * Φ(-|x|) = e^(-x²/2) · Q(1 / (1 + 0.3 |x|)), Q fitted for least relative error over |x| ≤ 14.5. */
static inline vf vnormal(vf x, vf *ret_density) {
    vf magnitude = vabs(x);
    vf e = vexp(x * x * -0.5f);
    vf t = 1.0f / (magnitude * 0.3f + 1.0f);
    vf q = splat(3.840755299e-02f);
    q = q * t + -1.693082005e-01f;
    q = q * t + 2.289532274e-01f;
    q = q * t + -7.684123516e-02f;
    q = q * t + 1.427662969e-01f;
    q = q * t + 9.458546340e-02f;
    q = q * t + 1.219453588e-01f;
    q = q * t + 1.194841936e-01f;
    q = q * t + 7.373030257e-06f;
    vf tail = e * q;
    *ret_density = e * 0.398942280401432678f;
    return select_f(x > 0.0f, 1.0f - tail, tail);
}

/* tanh x, absolute error at most 2e-7, relative at most 3e-7: an odd polynomial (Cephes) below 0.625, else
 * 1 - 2 / (e^2|x| + 1). */
static inline vf vtanh(vf x) {
    vf magnitude = vabs(x);
    vf large = 1.0f - 2.0f / (vexp(magnitude * 2.0f) + 1.0f);
    large = (vf)((vi)large | ((vi)x & (int32_t)0x80000000));
    vf z = x * x;
    vf p = splat(-5.70498872745e-3f);
    p = p * z + 2.06390887954e-2f;
    p = p * z + -5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z + -3.33332819422e-1f;
    vf small = p * z * x + x;
    return select_f(magnitude < 0.625f, small, large);
}

#endif
