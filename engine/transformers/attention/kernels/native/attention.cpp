// Attention of new tokens over keys and values that lie in several places, in float32.
//
// One pass over the keys with a running maximum and sum (Milakov and Gimelshein, arXiv 1805.02867; Dao et al.,
// FlashAttention, arXiv 2205.14135). Scores lie transposed, [key][query], so that everything, products, maximum,
// exponential and sum, runs along the queries: no key is laid out anew, and nothing is added up across a vector.
//
// Queries of the heads that share keys are rows of one matrix, ordered by token. A task is one key-value head and up to
// MOST * LANES of its rows; threads take tasks from a counter.

#include <cstdint>
#include <cstring>

// Sums of STEP x MOST vectors, MOST more and one number fill the registers: 32 of 16 numbers, or 16 of 8.
#if defined(__AVX512F__)
#define LANES 16
#define MOST 6
#define HOLD(x) asm("" : "+v"(x)) // in a register: the compiler would rather read it from memory at every use
#elif defined(__ARM_NEON)
#define LANES 4
#define MOST 6
#define HOLD(x)
#else
#define LANES 8
#define MOST 3
#define HOLD(x)
#endif
#define STEP 4
#define TILE 64 // keys at once: their scores stay in the cache nearest to the core
#define MAX_WIDTH 256
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

// As in attention.py.
struct part {
    const float *key, *value;                               // [kv_heads, n, width], the last dimension contiguous
    int64_t n, key_head, key_row, value_head, value_row;    // strides in numbers
};

struct job {
    const float *query;                                     // [heads, tokens, width]
    float *out;                                             // [tokens, heads, width], contiguous
    const part *parts;
    const float *mask;                                      // additive, [tokens, masked], of the last keys; or none:
    int64_t masked;                                         // of the last ones each token sees those up to its own
    int64_t query_head, query_row, mask_row;                // strides in numbers
    int64_t n_parts, n_keys, heads, kv_heads, tokens, width;
    int64_t threads, blocks, vectors, next, entered;        // blocks of rows of a head, vectors in each, two counters
    char *scratch;                                          // of each thread
    float scale;
};

// What a thread works in: not on its stack, which may be small.
struct alignas(64) scratch {
    vec query[MAX_WIDTH * MOST], sums[MAX_WIDTH * MOST], scores[TILE * MOST];
};

INLINE vec larger(vec a, vec b) { return a > b ? a : b; }

// e^x for x <= 0; 0 below -87. Cody and Waite's reduction of the range, and a Taylor polynomial.
INLINE vec exponential(vec x) {
    const float round = 12582912.0f; // 1.5 * 2^23: what is added to it is rounded to a whole number
    vec whole = x * 1.44269504f + round;
    ivec power = ((ivec)whole - (ivec)((vec){} + round)) << 23;
    whole -= round;
    vec r = x - whole * 0.693359375f;
    r += whole * 2.12194440e-4f;
    vec p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    vec found = (vec)((ivec)p + power);
    return x <= -87.0f ? (vec){} : found; // what is not a number stays so
}

// So many vectors from memory to registers.
INLINE void hold(const int VECTORS, vec *into, const vec *from) {
    for (int v = 0; v < VECTORS; v++) {
        into[v] = from[v];
        HOLD(into[v]);
    }
}

// Scores [n][VECTORS] of keys with the queries, [width][VECTORS].
INLINE void score(
    const int VECTORS, vec *scores, const vec *query, const float *key, int64_t key_row, int64_t n, int64_t width) {
    for (int64_t j = 0; j < n; j += STEP) {
        const float *row[STEP];
        for (int s = 0; s < STEP; s++) row[s] = key + (j + s < n ? j + s : n - 1) * key_row;
        vec sum[STEP][MOST];
        for (int s = 0; s < STEP; s++)
            for (int v = 0; v < VECTORS; v++) sum[s][v] = (vec){};
        for (int64_t d = 0; d < width; d++) {
            vec q[MOST];
            hold(VECTORS, q, query + d * VECTORS);
            for (int s = 0; s < STEP; s++)
                for (int v = 0; v < VECTORS; v++) sum[s][v] += q[v] * row[s][d];
        }
        for (int s = 0; s < STEP && j + s < n; s++)
            for (int v = 0; v < VECTORS; v++) scores[(j + s) * VECTORS + v] = sum[s][v];
    }
}

// To sums [width][VECTORS], scaled down for a new maximum, are added the weighed values.
INLINE void weigh(
    const int VECTORS, vec *sums, const vec *rescale, const vec *weights, const float *value, int64_t value_row,
    int64_t n, int64_t width) {
    for (int64_t d = 0; d < width; d += STEP) {
        vec sum[STEP][MOST];
        for (int s = 0; s < STEP; s++)
            for (int v = 0; v < VECTORS; v++) sum[s][v] = sums[(d + s) * VECTORS + v] * rescale[v];
        for (int64_t j = 0; j < n; j++) {
            vec w[MOST];
            hold(VECTORS, w, weights + j * VECTORS);
            for (int s = 0; s < STEP; s++)
                for (int v = 0; v < VECTORS; v++) sum[s][v] += w[v] * value[j * value_row + d + s];
        }
        for (int s = 0; s < STEP; s++)
            for (int v = 0; v < VECTORS; v++) sums[(d + s) * VECTORS + v] = sum[s][v];
    }
}

// What the rows do not see of keys from number ``key`` on becomes -inf. ``token``: of each row.
INLINE void hide(const int VECTORS, const job *j, vec *scores, const ivec *token, int64_t key, int64_t n) {
    const float never = -__builtin_inff();
    for (int64_t k = key < 0 ? -key : 0; k < n; k++)
        for (int v = 0; v < VECTORS; v++) {
            vec *some = scores + k * VECTORS + v;
            if (j->mask == nullptr)
                *some = token[v] >= (int32_t)(key + k) ? *some : (vec){} + never;
            else
                for (int lane = 0; lane < LANES; lane++) (*some)[lane] += j->mask[token[v][lane] * j->mask_row + key + k];
        }
}

INLINE void task(const int VECTORS, const job *j, scratch *own, int64_t kv_head, int64_t begin) {
    const int64_t rows = (int64_t)VECTORS * LANES, group = j->heads / j->kv_heads, width = j->width;
    const int64_t n = rows < group * j->tokens - begin ? rows : group * j->tokens - begin;
    vec *query = own->query, *sums = own->sums, *scores = own->scores;
    alignas(64) vec top[MOST], total[MOST], rescale[MOST];
    alignas(64) ivec token[MOST] = {};
    memset(query, 0, width * rows * sizeof(float));
    memset(sums, 0, width * rows * sizeof(float));
    for (int64_t r = 0; r < rows; r++) token[r / LANES][r % LANES] = (begin + (r < n ? r : n - 1)) / group;
    for (int64_t r = 0; r < n; r++) {
        const int64_t head = kv_head * group + (begin + r) % group;
        const float *from = j->query + head * j->query_head + (begin + r) / group * j->query_row;
        for (int64_t d = 0; d < width; d++) ((float *)query)[d * rows + r] = from[d] * j->scale;
    }
    for (int v = 0; v < VECTORS; v++) top[v] = (vec){} - 1e30f, total[v] = (vec){};
    const int64_t first_masked = j->n_keys - j->masked;
    const int64_t seen = j->mask == nullptr && j->masked ? first_masked + (begin + n - 1) / group + 1 : j->n_keys;
    int64_t at = 0;
    for (const part *p = j->parts; p < j->parts + j->n_parts; at += p->n, p++) {
        const float *keys = p->key + kv_head * p->key_head, *values = p->value + kv_head * p->value_head;
        for (int64_t t = 0; t < p->n && at + t < seen; t += TILE) {
            const int64_t some = p->n - t < TILE ? p->n - t : TILE;
            score(VECTORS, scores, query, keys + t * p->key_row, p->key_row, some, width);
            if (at + t + some > first_masked) hide(VECTORS, j, scores, token, at + t - first_masked, some);
            for (int v = 0; v < VECTORS; v++) {
                vec most = top[v];
                for (int64_t k = 0; k < some; k++) most = larger(most, scores[k * VECTORS + v]);
                rescale[v] = exponential(top[v] - most);
                top[v] = most;
                vec sum = total[v] * rescale[v];
                for (int64_t k = 0; k < some; k++) {
                    const vec weight = exponential(scores[k * VECTORS + v] - most);
                    scores[k * VECTORS + v] = weight;
                    sum += weight;
                }
                total[v] = sum;
            }
            weigh(VECTORS, sums, rescale, scores, values + t * p->value_row, p->value_row, some, width);
        }
    }
    for (int64_t d = 0; d < width; d++)
        for (int v = 0; v < VECTORS; v++) sums[d * VECTORS + v] /= total[v];
    for (int64_t r = 0; r < n; r++) {
        const int64_t head = kv_head * group + (begin + r) % group;
        float *into = j->out + ((begin + r) / group * j->heads + head) * width;
        for (int64_t d = 0; d < width; d++) into[d] = ((float *)sums)[d * rows + r];
    }
}

// How the rows of a head are cut: in large blocks, but so that the threads have equally many where these are few.
extern "C" void recallkv_plan(job *j) {
    const int64_t vectors = (j->heads / j->kv_heads * j->tokens + LANES - 1) / LANES;
    int64_t blocks = (vectors + MOST - 1) / MOST;
    while (j->kv_heads * blocks < 4 * j->threads && j->kv_heads * blocks % j->threads && blocks < vectors) blocks++;
    j->vectors = (vectors + blocks - 1) / blocks;
    j->blocks = (vectors + j->vectors - 1) / j->vectors;
    j->next = j->entered = 0;
}

// Bytes of scratch that each thread needs.
extern "C" int64_t recallkv_scratch() { return sizeof(scratch); }

// What each thread does.
extern "C" void recallkv_attend(void *data) {
    job *j = static_cast<job *>(data);
    const int64_t thread = __atomic_fetch_add(&j->entered, 1, __ATOMIC_RELAXED);
    scratch *own = reinterpret_cast<scratch *>(j->scratch + thread * sizeof(scratch));
    for (;;) {
        const int64_t number = __atomic_fetch_add(&j->next, 1, __ATOMIC_RELAXED);
        if (number >= j->blocks * j->kv_heads) return;
        // The last rows see most keys: they come first.
        const int64_t begin = (j->blocks - 1 - number / j->kv_heads) * j->vectors * LANES;
        switch (j->vectors) {
        case 1: task(1, j, own, number % j->kv_heads, begin); break;
        case 2: task(2, j, own, number % j->kv_heads, begin); break;
#if MOST > 3
        case 3: task(3, j, own, number % j->kv_heads, begin); break;
        case 4: task(4, j, own, number % j->kv_heads, begin); break;
        case 5: task(5, j, own, number % j->kv_heads, begin); break;
#endif
        default: task(MOST, j, own, number % j->kv_heads, begin);
        }
    }
}
