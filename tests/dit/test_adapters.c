/* test_adapters.c - one forward with different adapters: every item equals itself alone to the bit,
 * whatever the others have, over joint and single blocks, replaced norms and control latents; and a
 * dry run knows the scratch. */
#include "engine/dit/adapter.h"
#include "tests/dit/fixture.h"

enum { N = 5, ADAPTERS = 3, ROOM = 16 << 20 };

/* Strength of each adapter for each item. */
static const float gates[ADAPTERS][N] = {{0, 1, 0.5f, 0, 0}, {0, 0, -1, 0, 0}, {0, 0, 0, 1, 0}};

struct set {
    struct model m;
    struct dit_adapter *adapter[ADAPTERS];
    struct dit_item item[N];
    int n_adapters;
};

static uint64_t rng;
static float *normals(int64_t n) {
    float *x = malloc((size_t)n * sizeof *x);
    if (!x) abort();
    for (int64_t i = 0; i < n; i++) {
        double sum = -6;
        for (int k = 0; k < 12; k++) {
            rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
            sum += (double)(rng >> 11) * 0x1p-53;
        }
        x[i] = (float)sum;
    }
    return x;
}

static float *put_normals(struct model *m, int64_t n) {
    float *host = normals(n), *p = put(m, host, n);
    free(host);
    return p;
}

/* The adapters of items [first, first + n), a gate for each of them. */
static struct dit_loras loras_of(const struct set *s, struct dit_lora *list, int first) {
    for (int a = 0; a < s->n_adapters; a++)
        list[a] = (struct dit_lora){s->adapter[a], &gates[a][first]};
    return (struct dit_loras){list, s->n_adapters};
}

static void make_item(struct set *s, int k) {
    struct model *m = &s->m;
    const struct dit_info *info = dit_get_info(m->dit);
    const int64_t h = 4 + 2 * (k % 3), w = 6 + 2 * (k % 2), rows = 3 + k;
    const int64_t n = info->in_channels * h * w;
    const float t = (float)(900 - 100 * k);
    struct dit_lora list[ADAPTERS];
    const struct dit_loras loras = loras_of(s, list, k);
    struct dit_item *item = &s->item[k];
    rng = 0x9E3779B97F4A7C15u * (uint64_t)(k + 1);
    item->latent = (struct taca_chw){put_normals(m, n), info->in_channels, h, w};
    item->velocity = (struct taca_chw){put(m, NULL, n), info->in_channels, h, w};
    item->places = places_of(m, &(struct sample){.h = h, .w = w, .n_text = rows});
    item->gamma = k % 2 ? 1.2f : 1;
    if (gates[2][k] != 0 && s->n_adapters > 2) {
        item->control = item->latent;
        item->control.data = put_normals(m, n);
    }
    const int64_t joint = info->joint_width, width = info->width;
    struct taca_mat text = {put_normals(m, rows * joint), TACA_F32, rows, joint, joint};
    item->context = put_mat(m, NULL, rows, width);
    item->mod = put_mat(m, NULL, 1, info->mod_width);
    float *pooled = put_normals(m, info->pooled_width);
    const struct dit_condition c = {
        .t = &t,
        .guidance = 3.5f,
        .pooled = {pooled, TACA_F32, 1, info->pooled_width, info->pooled_width},
        .loras = loras};
    dit_context(m->dit, m->b, &m->scratch, item->context, text, &loras);
    dit_modulation(m->dit, m->b, &m->scratch, item->mod, &c);
    CHECK_OK(taca_sync(m->b, &m->err), m->err);
}

/* The velocities of items [first, first + n), one after the other; free() it. */
static float *run(struct set *s, int first, int n, int64_t *count) {
    struct model *m = &s->m;
    struct taca_seg segs[N];
    struct dit_lora list[ADAPTERS];
    struct taca_layout layout = {0};
    *count = 0;
    for (int i = first; i < first + n; i++)
        *count += s->item[i].latent.c * s->item[i].latent.h * s->item[i].latent.w;
    dit_segments(m->dit, s->item + first, n, segs);
    CHECK_OK(taca_layout_init(&layout, m->b, segs, n, &m->err), m->err);
    dit_run(m->dit, m->b, &m->scratch,
            &(struct dit_forward){.items = s->item + first,
                                  .n_items = n,
                                  .layout = &layout,
                                  .loras = loras_of(s, list, first)});
    CHECK_INT(m->scratch.used, 0);
    float *out = malloc((size_t)*count * sizeof *out), *at = out;
    for (int i = first; i < first + n; i++) {
        const struct taca_chw v = s->item[i].velocity;
        taca_download(m->b, at, v.data, (size_t)(v.c * v.h * v.w) * sizeof *at);
        at += v.c * v.h * v.w;
    }
    CHECK_OK(taca_sync(m->b, &m->err), m->err);
    taca_layout_finish(&layout);
    return out;
}

static void mixed(const char *model, const char *const files[ADAPTERS], enum taca_dtype precision) {
    char config[PATH_LEN], weights[PATH_LEN], path[PATH_LEN];
    struct set s = {0};
    int64_t n, part, at = 0;
    snprintf(config, sizeof config, TACA_GOLDEN_DIR "/models/%s.config.json", model);
    snprintf(weights, sizeof weights, TACA_GOLDEN_DIR "/models/%s.diffusers.safetensors", model);
    const struct taca_backend_opts opts = {
        .threads = 2, .precision = precision, .deterministic = true};
    if (!model_open(&s.m, config, weights, &opts)) return;
    struct model *m = &s.m;
    for (int a = 0; a < ADAPTERS && files[a]; a++) {
        snprintf(path, sizeof path, TACA_GOLDEN_DIR "/lora/lora_%s_%s.safetensors", model,
                 files[a]);
        CHECK_OK(dit_adapter_open(&s.adapter[a], m->dit, m->b, path, NULL, &m->err), m->err);
        s.n_adapters += s.adapter[a] != NULL;
    }
    CHECK_OK(taca_scratch_reserve(&m->scratch, ROOM, &m->err), m->err);
    for (int k = 0; k < N; k++) make_item(&s, k);
    float *all = run(&s, 0, N, &n);
    for (int k = 0; k < N; k++) {
        float *alone = run(&s, k, 1, &part);
        if (!CHECK(memcmp(all + at, alone, (size_t)part * sizeof *alone) == 0))
            printf("        %s: item %d differs by %g\n", model, k,
                   worst_diff(all + at, alone, (size_t)part));
        CHECK(isfinite(alone[0]));
        at += part;
        free(alone);
    }
    CHECK_INT(at, n);
    /* without its adapters an item is another one */
    s.n_adapters = 0;
    memset(&s.item[3].control, 0, sizeof s.item[3].control);
    float *base = run(&s, 0, N, &n);
    at = 0;
    for (int k = 0; k < N; k++) {
        const struct taca_chw v = s.item[k].velocity;
        const bool has = files[2] ? k == 1 || k == 2 || k == 3 : k == 1 || k == 2;
        const double d = worst_diff(base + at, all + at, (size_t)(v.c * v.h * v.w));
        CHECK(has ? d > 1e-2 : d == 0);
        at += v.c * v.h * v.w;
    }
    free(all), free(base);
    for (int a = 0; a < ADAPTERS; a++) dit_adapter_close(s.adapter[a], m->b);
    drop(m);
    model_close(m);
}

static const char *const flux_files[ADAPTERS] = {"kohya_full", "peft", "bfl_control"};
static const char *const sd3_files[ADAPTERS] = {"kohya_full", "peft", NULL};

static void test_flux_items_with_adapters_equal_themselves_alone(void) {
    mixed("flux_tiny_dev", flux_files, TACA_F32);
    mixed("flux_tiny_dev", flux_files, TACA_BF16);
}
static void test_sd3_items_with_adapters_equal_themselves_alone(void) {
    mixed("sd35m_tiny", sd3_files, TACA_F32);
    mixed("sd35m_tiny", sd3_files, TACA_BF16);
}

/* Adapters close before their backend does; what they held is free. */
static void test_adapters_come_and_go(void) {
    struct model m;
    const struct taca_backend_opts opts = {.threads = 1, .precision = TACA_F32};
    if (!model_open(&m, TACA_GOLDEN_DIR "/models/flux_tiny_dev.config.json",
                    TACA_GOLDEN_DIR "/models/flux_tiny_dev.diffusers.safetensors", &opts))
        return;
    for (int i = 0; i < 3; i++) {
        struct dit_adapter *a = NULL;
        CHECK_OK(dit_adapter_open(&a, m.dit, m.b,
                                  TACA_GOLDEN_DIR
                                  "/lora/lora_flux_tiny_dev_bfl_control.safetensors",
                                  NULL, &m.err),
                 m.err);
        const struct dit_adapter_info *info = dit_adapter_get_info(a);
        CHECK_INT(info->modules, 56);
        CHECK(info->control && info->context && info->parameters > 20000);
        CHECK_STR(info->naming, "bare");
        dit_adapter_close(a, m.b);
    }
    dit_adapter_close(NULL, m.b);
    model_close(&m);
}

int main(void) {
    TEST(test_flux_items_with_adapters_equal_themselves_alone);
    TEST(test_sd3_items_with_adapters_equal_themselves_alone);
    TEST(test_adapters_come_and_go);
    return TEST_END();
}
