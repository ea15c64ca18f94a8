/* test_golden.c - forwards against a reference implementation in float: outputs and the inside of
 * every block, plain, with skipped layers and with TACA. Each batch row becomes an item of its own.
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
    int64_t latent[4], text[3], pooled[2], temb[2];
    float *in_latent, *in_text, *in_pooled, *in_t, *in_temb;
    float *out[MAX_ITEMS];
    struct sample sample[MAX_ITEMS];
    int n;
};

static bool batch_open(struct batch *s, const char *path) {
    struct taca_err err = {0};
    *s = (struct batch){0};
    CHECK_OK(taca_ckpt_open(&s->io, path, &err), err);
    if (!s->io) return false;
    s->in_latent = golden(s->io, "in.hidden_states", 4, s->latent);
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
                                       .t = s->in_t[i],
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
    taca_ckpt_close(s->io);
}

static void check_output(struct batch *s, const char *name, double tol) {
    float *want = golden(s->io, name, 4, NULL);
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
    if (!want) { /* the TACA sets leave out what comes before the first block */
        if (!CHECK(!strcmp(name, "pos_embed") || !strcmp(name, "context_embedder")))
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
    size_t bytes = count_modulation(m, s->n, s->n);
    CHECK_OK(taca_scratch_reserve(&m->scratch, bytes, &m->err), m->err);
    dit_sd3_embed(m->dit, m->b, &m->scratch, temb, s->in_t,
                  put_mat(m, s->in_pooled, s->n, info->pooled_width));
    fetch(m, got, temb);
    CHECK_OK(taca_sync(m->b, &m->err), m->err);
    compare("time_text_embed", got, s->in_temb, (size_t)(s->n * info->width), 1e-4);
    drop(m);
    free(got);
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
        bool mids = taca_ckpt_has(s.io, "mid.proj_out");
        if (mids) check_embedding(&m, &s);
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

/* A config of this family: FLUX configs have no caption projection. */
static bool is_sd3(const char *path) {
    struct taca_err err = {0};
    json_t *config = NULL;
    bool yes = taca_json_load(&config, path, &err) == TACA_OK &&
               json_object_get(config, "caption_projection_dim");
    json_decref(config);
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
        if (!is_sd3(g.gl_pathv[i]) || !exists(io)) continue;
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
        if (model && is_sd3(config)) {
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
    CHECK_INT(check_plain_sets(TACA_GOLDEN_DIR), 3);
}

static void test_taca_is_the_references(void) { CHECK_INT(check_taca_sets(TACA_GOLDEN_DIR), 2); }

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
