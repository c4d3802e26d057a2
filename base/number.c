/* number: doubles as decimal text, short and exact, without printf.
 *
 * printf with 17 digits costs one or two microseconds (three of them where a library has put a hook into printf, as
 * libquadmath behind OpenBLAS does), and a chart has thousands of numbers.  This is Grisu2 (Florian Loitsch, "Printing
 * Floating-Point Numbers Quickly and Accurately with Integers", PLDI 2010): the digits are made with 64-bit integers
 * from the number scaled by a power of ten out of a table, and as many of them as are needed to tell the number from
 * its neighbours.  Reading them gives the same bits always; in one of a thousand cases a shorter text would do as well.
 */
#include <math.h>
#include <string.h>

#include "base/base.h"

struct scaled { /* f × 2^e */
    uint64_t f;
    int e;
};

/* 10^k for k = -348, -340, … 340, rounded to 64 bits. */
static const struct scaled powers[] = {
    {0xFA8FD5A0081C0288U, -1220}, {0xBAAEE17FA23EBF76U, -1193}, {0x8B16FB203055AC76U, -1166},
    {0xCF42894A5DCE35EAU, -1140}, {0x9A6BB0AA55653B2DU, -1113}, {0xE61ACF033D1A45DFU, -1087},
    {0xAB70FE17C79AC6CAU, -1060}, {0xFF77B1FCBEBCDC4FU, -1034}, {0xBE5691EF416BD60CU, -1007},
    {0x8DD01FAD907FFC3CU, -980},  {0xD3515C2831559A83U, -954},  {0x9D71AC8FADA6C9B5U, -927},
    {0xEA9C227723EE8BCBU, -901},  {0xAECC49914078536DU, -874},  {0x823C12795DB6CE57U, -847},
    {0xC21094364DFB5637U, -821},  {0x9096EA6F3848984FU, -794},  {0xD77485CB25823AC7U, -768},
    {0xA086CFCD97BF97F4U, -741},  {0xEF340A98172AACE5U, -715},  {0xB23867FB2A35B28EU, -688},
    {0x84C8D4DFD2C63F3BU, -661},  {0xC5DD44271AD3CDBAU, -635},  {0x936B9FCEBB25C996U, -608},
    {0xDBAC6C247D62A584U, -582},  {0xA3AB66580D5FDAF6U, -555},  {0xF3E2F893DEC3F126U, -529},
    {0xB5B5ADA8AAFF80B8U, -502},  {0x87625F056C7C4A8BU, -475},  {0xC9BCFF6034C13053U, -449},
    {0x964E858C91BA2655U, -422},  {0xDFF9772470297EBDU, -396},  {0xA6DFBD9FB8E5B88FU, -369},
    {0xF8A95FCF88747D94U, -343},  {0xB94470938FA89BCFU, -316},  {0x8A08F0F8BF0F156BU, -289},
    {0xCDB02555653131B6U, -263},  {0x993FE2C6D07B7FACU, -236},  {0xE45C10C42A2B3B06U, -210},
    {0xAA242499697392D3U, -183},  {0xFD87B5F28300CA0EU, -157},  {0xBCE5086492111AEBU, -130},
    {0x8CBCCC096F5088CCU, -103},  {0xD1B71758E219652CU, -77},   {0x9C40000000000000U, -50},
    {0xE8D4A51000000000U, -24},   {0xAD78EBC5AC620000U, 3},     {0x813F3978F8940984U, 30},
    {0xC097CE7BC90715B3U, 56},    {0x8F7E32CE7BEA5C70U, 83},    {0xD5D238A4ABE98068U, 109},
    {0x9F4F2726179A2245U, 136},   {0xED63A231D4C4FB27U, 162},   {0xB0DE65388CC8ADA8U, 189},
    {0x83C7088E1AAB65DBU, 216},   {0xC45D1DF942711D9AU, 242},   {0x924D692CA61BE758U, 269},
    {0xDA01EE641A708DEAU, 295},   {0xA26DA3999AEF774AU, 322},   {0xF209787BB47D6B85U, 348},
    {0xB454E4A179DD1877U, 375},   {0x865B86925B9BC5C2U, 402},   {0xC83553C5C8965D3DU, 428},
    {0x952AB45CFA97A0B3U, 455},   {0xDE469FBD99A05FE3U, 481},   {0xA59BC234DB398C25U, 508},
    {0xF6C69A72A3989F5CU, 534},   {0xB7DCBF5354E9BECEU, 561},   {0x88FCF317F22241E2U, 588},
    {0xCC20CE9BD35C78A5U, 614},   {0x98165AF37B2153DFU, 641},   {0xE2A0B5DC971F303AU, 667},
    {0xA8D9D1535CE3B396U, 694},   {0xFB9B7CD9A4A7443CU, 720},   {0xBB764C4CA7A44410U, 747},
    {0x8BAB8EEFB6409C1AU, 774},   {0xD01FEF10A657842CU, 800},   {0x9B10A4E5E9913129U, 827},
    {0xE7109BFBA19C0C9DU, 853},   {0xAC2820D9623BF429U, 880},   {0x80444B5E7AA7CF85U, 907},
    {0xBF21E44003ACDD2DU, 933},   {0x8E679C2F5E44FF8FU, 960},   {0xD433179D9C8CB841U, 986},
    {0x9E19DB92B4E31BA9U, 1013},  {0xEB96BF6EBADF77D9U, 1039},  {0xAF87023B9BF0EE6BU, 1066},
};
#define FIRST_POWER (-348)
#define POWER_STEP 8

static const uint64_t tens[] = {
    1u,
    10u,
    100u,
    1000u,
    10000u,
    100000u,
    1000000u,
    10000000u,
    100000000u,
    1000000000u,
    10000000000u,
    100000000000u,
    1000000000000u,
    10000000000000u,
    100000000000000u,
    1000000000000000u,
    10000000000000000u,
    100000000000000000u,
    1000000000000000000u,
    10000000000000000000u,
};

#define HIDDEN_BIT (UINT64_C(1) << 52)
#define MOST_DIGITS 17

static struct scaled normalize(struct scaled x) {
    int shift = __builtin_clzll(x.f);
    return (struct scaled){x.f << shift, x.e - shift};
}

static struct scaled multiply(struct scaled a, struct scaled b) {
    unsigned __int128 product = (unsigned __int128)a.f * b.f + (UINT64_C(1) << 63);
    return (struct scaled){(uint64_t)(product >> 64), a.e + b.e + 64};
}

/* The power that brings a number with this binary exponent to one between -60 and -32; *ret_k: its negated decimal one.
 */
static struct scaled power_for(int e, int *ret_k) {
    int k = (int)ceil((-61 - e) * 0.30102999566398114) + 347;
    int index = (k >> 3) + 1;
    *ret_k = -(FIRST_POWER + index * POWER_STEP);
    return powers[index];
}

/* Lowers the last digit while that brings the text nearer to the number. */
static void round_last(char *last, uint64_t delta, uint64_t rest, uint64_t unit, uint64_t wanted) {
    while (rest < wanted && delta - rest >= unit && (rest + unit < wanted || wanted - rest > rest + unit - wanted)) {
        (*last)--;
        rest += unit;
    }
}

/* Digits of `high`, as few as stay above high - delta; returns how many.  Their value is 0.d1d2… × 10^(*k + count). */
static int make_digits(struct scaled w, struct scaled high, uint64_t delta, char *digits, int *k) {
    int shift = -high.e, count = 0, kappa = 10;
    uint64_t one = UINT64_C(1) << shift, wanted = high.f - w.f;
    uint64_t whole = high.f >> shift, part = high.f & (one - 1);
    while (kappa > 1 && whole < tens[kappa - 1]) {
        kappa--;
    }
    while (kappa > 0) {
        kappa--;
        uint64_t digit = whole / tens[kappa];
        whole %= tens[kappa];
        if (digit > 0 || count > 0) {
            digits[count++] = (char)('0' + digit);
        }
        uint64_t rest = (whole << shift) + part;
        if (rest <= delta) {
            *k += kappa;
            round_last(&digits[count - 1], delta, rest, tens[kappa] << shift, wanted);
            return count;
        }
    }
    for (;;) {
        part *= 10;
        delta *= 10;
        uint64_t digit = part >> shift;
        part &= one - 1;
        kappa--;
        if (digit > 0 || count > 0) {
            digits[count++] = (char)('0' + digit);
        }
        if (part < delta) {
            *k += kappa;
            round_last(&digits[count - 1], delta, part, one, -kappa < 20 ? wanted * tens[-kappa] : 0);
            return count;
        }
    }
}

/* value > 0 and finite → its digits; value = 0.d1d2… × 10^(*ret_point). */
static int shortest(double value, char digits[MOST_DIGITS + 3], int *ret_point) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    int biased = (int)(bits >> 52 & 0x7FF);
    uint64_t fraction = bits & (HIDDEN_BIT - 1);
    struct scaled v =
        biased != 0 ? (struct scaled){fraction + HIDDEN_BIT, biased - 1075} : (struct scaled){fraction, -1074};
    struct scaled high = normalize((struct scaled){2 * v.f + 1, v.e - 1});
    struct scaled low =
        v.f == HIDDEN_BIT ? (struct scaled){4 * v.f - 1, v.e - 2} : (struct scaled){2 * v.f - 1, v.e - 1};
    low.f <<= low.e - high.e;
    low.e = high.e;
    int k = 0;
    struct scaled power = power_for(high.e, &k);
    struct scaled w = multiply(normalize(v), power);
    high = multiply(high, power);
    low = multiply(low, power);
    low.f++;
    high.f--;
    int count = make_digits(w, high, high.f - low.f, digits, &k);
    *ret_point = count + k;
    return count;
}

static char *put_whole(char *out, uint64_t value) {
    char reversed[20];
    size_t n = 0;
    do {
        reversed[n++] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    while (n > 0) {
        *out++ = reversed[--n];
    }
    return out;
}

size_t dd_number_print_int(int64_t value, char out[DD_NUMBER_TEXT_BYTES]) {
    char *end = out;
    if (value < 0) {
        *end++ = '-';
    }
    end = put_whole(end, value < 0 ? -(uint64_t)value : (uint64_t)value);
    *end = '\0';
    return (size_t)(end - out);
}

/* As %g would set them: 0.0001234, 12.34, 1.234e+20. */
static char *put_digits(char *out, const char *digits, int count, int point) {
    if (point > MOST_DIGITS || point < -3) {
        *out++ = digits[0];
        if (count > 1) {
            *out++ = '.';
            memcpy(out, digits + 1, (size_t)count - 1);
            out += count - 1;
        }
        int exponent = point - 1;
        *out++ = 'e';
        *out++ = exponent < 0 ? '-' : '+';
        exponent = exponent < 0 ? -exponent : exponent;
        if (exponent < 10) {
            *out++ = '0';
        }
        return put_whole(out, (uint64_t)exponent);
    }
    if (point <= 0) {
        *out++ = '0';
        *out++ = '.';
        memset(out, '0', (size_t)-point);
        out += -point;
        memcpy(out, digits, (size_t)count);
        return out + count;
    }
    int before = DD_MIN(count, point);
    memcpy(out, digits, (size_t)before);
    out += before;
    memset(out, '0', (size_t)(point - before));
    out += point - before;
    if (count > before) {
        *out++ = '.';
        memcpy(out, digits + before, (size_t)(count - before));
        out += count - before;
    }
    return out;
}

size_t dd_number_print(double value, char out[DD_NUMBER_TEXT_BYTES]) {
    char digits[MOST_DIGITS + 3];
    int point;
    if (fabs(value) <= 9007199254740992.0 && value == trunc(value)) {
        return dd_number_print_int((int64_t)value, out);
    }
    if (!isfinite(value)) { /* JSON has no word for it */
        memcpy(out, "null", 5);
        return 4;
    }
    char *end = out;
    if (value < 0) {
        *end++ = '-';
    }
    int count = shortest(fabs(value), digits, &point);
    end = put_digits(end, digits, count, point);
    *end = '\0';
    return (size_t)(end - out);
}
