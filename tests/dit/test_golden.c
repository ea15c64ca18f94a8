/* test_golden.c - forwards against a reference implementation in float: outputs and the inside of
 * every block, plain, with skipped layers and with TACA. Each batch row becomes an item of its own.
 * FLUX's reference has tokens: they become latents one token high, in the places that it names.
 *
 * TACA_GOLDEN_EXTRA names a folder of the same shape with further sets. */
#include <glob.h>

#include "tests/dit/fixture.h"

static double worst_seen; /* of the current set, printed at its end */

static void compare(const char *what, const float *got, const float *want, size_t n, double tol) {
    double d = worst_diff(got, want, n);
    if (!(d <= worst_seen)) worst_seen = d;
    if (d <= tol) {
        CHECK(true);
        return;
    }
    CHECK_FLOATS(what, got, want, n, tol);
}

/* ---- a golden file as a batch ---------------------------------------------------------------- */

struct batch {
    struct taca_ckpt *io;
    bool tokens;
    int64_t latent[4], text[3], pooled[2], temb[2];
    float *in_latent, *in_text, *in_pooled, *in_t, *in_temb, *in_guidance, *in_places;
    float *out[MAX_ITEMS];
    struct sample sample[MAX_ITEMS];
    int n;
};

/* x: tokens [dim0, dim1, dim2] on entry, latents with dim on return. */
static float *to_latents(float *x, int64_t dim[4]) {
    const int64_t images = dim[0], rows = dim[1], c = dim[2] / 4, n = rows * dim[2];
    float *y = malloc((size_t)(images * n) * sizeof *y);
    if (!y) abort();
    for (int64_t i = 0; i < images; i++)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t k = 0; k < 4 * c; k++)
                y[i * n + (k / 4 * 2 + k / 2 % 2) * 2 * rows + 2 * r + k % 2] =
                    x[(i * rows + r) * 4 * c + k];
    free(x);
    dim[1] = c, dim[2] = 2, dim[3] = 2 * rows;
    return y;
}

/* A latent of the file, whether it has that or tokens. */
static float *golden_latent(struct batch *s, const char *name, int64_t dim[4]) {
    return s->tokens ? to_latents(golden(s->io, name, 3, dim), dim) : golden(s->io, name, 4, dim);
}

/* Image places, then text places, which all items share. */
static float *golden_places(struct batch *s) {
    int64_t img[2], txt[2];
    float *a = golden(s->io, "in.img_ids", 2, img), *b = golden(s->io, "in.txt_ids", 2, txt);
    if (!CHECK(a && b && img[1] == 3 && txt[1] == 3)) abort();
    float *all = malloc((size_t)((img[0] + txt[0]) * 3) * sizeof *all);
    if (!all) abort();
    memcpy(all, a, (size_t)(img[0] * 3) * sizeof *all);
    memcpy(all + img[0] * 3, b, (size_t)(txt[0] * 3) * sizeof *all);
    free(a);
    free(b);
    return all;
}

static bool batch_open(struct batch *s, const char *path) {
    struct taca_err err = {0};
    *s = (struct batch){0};
    CHECK_OK(taca_ckpt_open(&s->io, path, &err), err);
    if (!s->io) return false;
    s->tokens = taca_ckpt_has(s->io, "in.img_ids");
    s->in_latent = golden_latent(s, "in.hidden_states", s->latent);
    s->in_guidance = golden(s->io, "in.guidance", 1, NULL);
    if (s->tokens) s->in_places = golden_places(s);
    s->in_text = golden(s->io, "in.encoder_hidden_states", 3, s->text);
    s->in_pooled = golden(s->io, "in.pooled_projections", 2, s->pooled);
    s->in_t = golden(s->io, "in.timestep", 1, NULL);
    s->in_temb = golden(s->io, "mid.time_text_embed", 2, s->temb);
    s->n = (int)s->latent[0];
    if (!CHECK(s->in_latent && s->in_text && s->in_pooled && s->in_t && s->n <= MAX_ITEMS))
        return false;
    const int64_t n_latent = s->latent[1] * s->latent[2] * s->latent[3];
    for (int i = 0; i < s->n; i++) {
        s->sample[i] = (struct sample){.latent = s->in_latent + i * n_latent,
                                       .h = s->latent[2],
                                       .w = s->latent[3],
                                       .text = s->in_text + i * s->text[1] * s->text[2],
                                       .n_text = s->text[1],
                                       .pooled = s->in_pooled + i * s->pooled[1],
                                       .places = s->in_places,
                                       .t = s->in_t[i] * (s->tokens ? 1000 : 1),
                                       .guidance = s->in_guidance ? s->in_guidance[i] : 0,
                                       .gamma = 1};
        s->out[i] = malloc((size_t)n_latent * sizeof(float));
        if (!s->out[i]) abort();
    }
    return true;
}

static void batch_close(struct batch *s) {
    for (int i = 0; i < s->n; i++) free(s->out[i]);
    free(s->in_latent);
    free(s->in_text);
    free(s->in_pooled);
    free(s->in_t);
    free(s->in_temb);
    free(s->in_guidance);
    free(s->in_places);
    taca_ckpt_close(s->io);
}

static void check_output(struct batch *s, const char *name, double tol) {
    int64_t dim[4];
    float *want = golden_latent(s, name, dim);
    const int64_t n = s->latent[1] * s->latent[2] * s->latent[3];
    if (!CHECK(want != NULL)) return;
    for (int i = 0; i < s->n; i++) compare(name, s->out[i], want + i * n, (size_t)n, tol);
    free(want);
}

/* Every tap the golden file knows, and nothing it does not know. */
struct inside {
    struct model *m;
    struct batch *s;
    double tol;
};

static void check_inside(void *ctx, const char *name, struct taca_mat value) {
    const struct inside *in = ctx;
    char key[96];
    int64_t dim[3];
    snprintf(key, sizeof key, "mid.%s", name);
    float *want = golden(in->s->io, key, 3, dim);
    if (!want) { /* FLUX's last projection is `out`; TACA sets begin with the first block */
        if (!CHECK(!strcmp(name, "pos_embed") || !strcmp(name, "context_embedder") ||
                   !strcmp(name, "x_embedder") || (in->s->tokens && !strcmp(name, "proj_out"))))
            printf("        unknown name %s\n", name);
        return;
    }
    if (CHECK(dim[0] * dim[1] == value.rows && dim[2] == value.cols)) {
        float *got = malloc((size_t)(value.rows * value.cols) * sizeof *got);
        if (!got) abort();
        fetch(in->m, got, value);
        compare(key, got, want, (size_t)(value.rows * value.cols), in->tol);
        free(got);
    }
    free(want);
}

static void not_asked_for(void *ctx, const char *name) {
    (void)ctx;
    if (strncmp(name, "mid.", 4) && strncmp(name, "out", 3)) return;
    test_check(false, __FILE__, __LINE__, "every golden value was compared");
    printf("        %s was not\n", name);
}

static bool *skips(const json_t *layers, bool skip[64]) {
    size_t i;
    json_t *v;
    if (!json_is_array(layers)) return NULL;
    memset(skip, 0, 64 * sizeof *skip);
    json_array_foreach(layers, i, v) skip[json_integer_value(v)] = true;
    return skip;
}

/* ---- plain sets ------------------------------------------------------------------------------ */

static void check_embedding(struct model *m, struct batch *s) {
    const struct dit_info *info = dit_get_info(m->dit);
    float *got = malloc((size_t)(s->n * info->width) * sizeof *got);
    if (!got) abort();
    if (!CHECK(s->in_temb && s->temb[1] == info->width)) return;
    struct taca_mat temb = put_mat(m, NULL, s->n, info->width);
    size_t bytes = count_modulation(m, 1, 1);
    CHECK_OK(taca_scratch_reserve(&m->scratch, bytes, &m->err), m->err);
    for (int i = 0; i < s->n; i++) {
        const struct dit_condition c = {.t = &s->sample[i].t,
                                        .guidance = s->sample[i].guidance,
                                        .pooled =
                                            put_mat(m, s->sample[i].pooled, 1, info->pooled_width)};
        dit_embed(m->dit, m->b, &m->scratch, taca_mat_rows(temb, i, 1), &c);
    }
    fetch(m, got, temb);
    CHECK_OK(taca_sync(m->b, &m->err), m->err);
    compare("time_text_embed", got, s->in_temb, (size_t)(s->n * info->width), 1e-4);
    drop(m);
    free(got);
}

/* The reference's tables name text rows first, and each pair's value twice. */
static void check_places(struct model *m, struct batch *s) {
    const int64_t width = dit_get_info(m->dit)->place_width, pairs = width / 2;
    const int64_t n_img = s->latent[3] / 2, rows = n_img + s->text[1];
    float *table = malloc((size_t)(rows * width) * sizeof *table);
    if (!table) abort();
    dit_places_at(m->dit, table, s->in_places, rows);
    for (int half = 0; half < 2; half++) {
        int64_t dim[2];
        float *want = golden(s->io, half ? "mid.pos_embed.1" : "mid.pos_embed.0", 2, dim);
        if (!CHECK(want && dim[0] == rows && dim[1] == width)) abort();
        for (int64_t r = 0; r < rows; r++)
            for (int64_t k = 0; k < width; k++)
                compare("pos_embed", &table[r * width + half * pairs + k / 2],
                        &want[(r + s->text[1]) % rows * width + k], 1, 1e-6);
        free(want);
    }
    free(table);
}

static void check_plain_set(const char *root, const char *set, bool scalar) {
    struct taca_backend_opts opts = {.threads = 2, .precision = TACA_F32, .scalar = scalar};
    char config[PATH_LEN], weights[PATH_LEN], io[PATH_LEN];
    struct model m;
    struct batch s;
    bool skip[64];
    snprintf(config, sizeof config, "%s/models/%s.config.json", root, set);
    snprintf(weights, sizeof weights, "%s/models/%s.diffusers.safetensors", root, set);
    snprintf(io, sizeof io, "%s/models/%s.io.safetensors", root, set);
    worst_seen = 0;
    if (model_open(&m, config, weights, &opts) && batch_open(&s, io)) {
        struct inside in = {&m, &s, 1e-4};
        bool mids = taca_ckpt_has(s.io, "mid.norm_out");
        if (mids) check_embedding(&m, &s);
        if (mids && s.tokens) check_places(&m, &s);
        struct pass p = {s.sample, s.n, .tap = mids ? check_inside : NULL, .tap_ctx = &in};
        forward(&m, &p, s.out);
        check_output(&s, "out", 1e-4);
        p.skip = skips(json_object_get(m.config, "skip_layers_case"), skip);
        p.tap = NULL;
        if (p.skip) {
            forward(&m, &p, s.out);
            check_output(&s, "out.skip_layers", 1e-4);
        }
        taca_ckpt_unused(s.io, not_asked_for, NULL);
        batch_close(&s);
    }
    model_close(&m);
    printf("    %-28s %-6s worst %.2g\n", set, scalar ? "scalar" : "vector", worst_seen);
}

/* ---- TACA sets ------------------------------------------------------------------------------- */

/* All gammas of the set; `given` feeds in the file's own time and text embedding, which takes the
 * float noise of the sinusoids out of the comparison. */
static void check_gammas(struct model *m, struct batch *s, const json_t *set, bool given) {
    const double tol = given ? 1e-5 : 1e-4;
    struct inside in = {m, s, tol};
    bool skip[64];
    size_t k;
    json_t *v;
    for (int i = 0; i < s->n; i++) s->sample[i].temb = given ? s->in_temb + i * s->temb[1] : NULL;
    json_array_foreach(json_object_get(set, "gammas"), k, v) {
        char name[64];
        snprintf(name, sizeof name, "gamma_%g", json_number_value(v));
        float *gamma = golden(s->io, name, 1, NULL);
        if (!CHECK(gamma != NULL)) continue;
        for (int i = 0; i < s->n; i++) s->sample[i].gamma = gamma[0];
        free(gamma);

        struct pass p = {s->sample, s->n, .tap = k == 0 ? check_inside : NULL, .tap_ctx = &in};
        forward(m, &p, s->out);
        snprintf(name, sizeof name, "out.gamma_%g", json_number_value(v));
        check_output(s, name, tol);
        p.skip = skips(json_object_get(set, "skip_layers"), skip);
        p.tap = NULL;
        snprintf(name, sizeof name, "out.skip_layers.gamma_%g", json_number_value(v));
        if (p.skip && taca_ckpt_has(s->io, "%s", name)) {
            forward(m, &p, s->out);
            check_output(s, name, tol);
        }
    }
}

static void check_taca_set(const char *root, const char *name, const json_t *set, bool scalar) {
    struct taca_backend_opts opts = {.threads = 2, .precision = TACA_F32, .scalar = scalar};
    const char *model = json_string_value(json_object_get(set, "model"));
    char config[PATH_LEN], weights[PATH_LEN], io[PATH_LEN];
    struct model m;
    struct batch s;
    snprintf(config, sizeof config, "%s/models/%s.config.json", root, model);
    snprintf(weights, sizeof weights, "%s/models/%s.diffusers.safetensors", root, model);
    snprintf(io, sizeof io, "%s/taca/%s.io.safetensors", root, name);
    if (model_open(&m, config, weights, &opts) && batch_open(&s, io)) {
        for (int given = 0; given < 2; given++) {
            worst_seen = 0;
            check_gammas(&m, &s, set, given);
            printf("    %-28s %-6s worst %.2g%s\n", name, scalar ? "scalar" : "vector", worst_seen,
                   given ? ", embedding given" : "");
        }
        taca_ckpt_unused(s.io, not_asked_for, NULL);
        batch_close(&s);
    }
    model_close(&m);
}

/* ---- all sets of a folder -------------------------------------------------------------------- */

/* "dir/name.suffix" to "name". */
static void base_of(char *name, size_t size, const char *path, const char *suffix) {
    const char *slash = strrchr(path, '/');
    snprintf(name, size, "%s", slash ? slash + 1 : path);
    name[strlen(name) - strlen(suffix)] = '\0';
}

/* A transformer, of either family: an autoencoder has no joint attention. */
static bool is_transformer(const char *config) {
    struct taca_err err = {0};
    json_t *json = NULL;
    CHECK_OK(taca_json_load(&json, config, &err), err);
    bool yes = json_object_get(json, "joint_attention_dim") != NULL;
    json_decref(json);
    return yes;
}

static bool exists(const char *path) {
    FILE *f = fopen(path, "rb");
    if (f) fclose(f);
    return f != NULL;
}

static int check_plain_sets(const char *root) {
    char pattern[PATH_LEN], io[PATH_LEN], set[128];
    glob_t g;
    int n = 0;
    snprintf(pattern, sizeof pattern, "%s/models/*.config.json", root);
    if (glob(pattern, 0, NULL, &g) != 0) return 0;
    for (size_t i = 0; i < g.gl_pathc; i++) {
        base_of(set, sizeof set, g.gl_pathv[i], ".config.json");
        snprintf(io, sizeof io, "%s/models/%s.io.safetensors", root, set);
        if (!is_transformer(g.gl_pathv[i]) || !exists(io)) continue;
        for (int scalar = 0; scalar < 2; scalar++) check_plain_set(root, set, scalar);
        n++;
    }
    globfree(&g);
    return n;
}

static int check_taca_sets(const char *root) {
    char pattern[PATH_LEN], config[PATH_LEN], name[128];
    glob_t g;
    int n = 0;
    snprintf(pattern, sizeof pattern, "%s/taca/*.json", root);
    if (glob(pattern, 0, NULL, &g) != 0) return 0;
    for (size_t i = 0; i < g.gl_pathc; i++) {
        struct taca_err err = {0};
        json_t *set = NULL;
        CHECK_OK(taca_json_load(&set, g.gl_pathv[i], &err), err);
        const char *model = json_string_value(json_object_get(set, "model"));
        snprintf(config, sizeof config, "%s/models/%s.config.json", root, model ? model : "");
        if (model && is_transformer(config)) {
            base_of(name, sizeof name, g.gl_pathv[i], ".json");
            for (int scalar = 0; scalar < 2; scalar++) check_taca_set(root, name, set, scalar);
            n++;
        }
        json_decref(set);
    }
    globfree(&g);
    return n;
}

static void test_velocity_and_every_block_are_the_references(void) {
    CHECK_INT(check_plain_sets(TACA_GOLDEN_DIR), 5);
}

static void test_taca_is_the_references(void) { CHECK_INT(check_taca_sets(TACA_GOLDEN_DIR), 5); }

static void test_extra_sets(void) {
    const char *root = getenv("TACA_GOLDEN_EXTRA");
    if (!root || !*root) {
        SKIP("TACA_GOLDEN_EXTRA does not name a folder of further golden sets");
        return;
    }
    CHECK(check_plain_sets(root) + check_taca_sets(root) > 0);
}

int main(void) {
    TEST(test_velocity_and_every_block_are_the_references);
    TEST(test_taca_is_the_references);
    TEST(test_extra_sets);
    return TEST_END();
}
