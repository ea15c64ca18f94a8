/* generate.c - `taca generate`: a picture from a prompt with the engine in this process. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/png.h"
#include "base/clock.h"
#include "cli/cli.h"
#include "cli/flags.h"
#include "cli/picture.h"
#include "cli/progress.h"
#include "cli/size.h"
#include "engine/engine.h"

enum { MAX_IMAGES = 64, LARGEST_PNG = 1 << 30 };

static volatile sig_atomic_t interrupted;
static void on_interrupt(int sig) {
    (void)sig;
    interrupted = 1;
}

struct options {
    struct taca_engine_opts engine;
    const char *output, *size, *negative, *prompt_2, *prompt_3;
    int width, height, steps, n, precision, clip_skip, t5_tokens, png_level;
    double cfg, guidance, shift, seed;
    bool taca, quiet, metadata, json;
    double taca_scale, taca_fraction, taca_threshold;
    int taca_steps, lora_window, sampler, schedule, rng;
    const char *slg_layers, *image, *mask;
    double strength;
    struct picture picture;
    struct taca_slg slg;
    struct flag_list lora;
    char lora_id[TACA_MAX_LORAS][64];
};

/* Flags of how a step is taken. */
/* clang-format off */
#define STEP_FLAGS(o)                                                                             \
    {"sampler", 0, FLAG_CHOICE, &(o)->sampler, .arg = "NAME",                                     \
     .choices = "euler|heun|dpmpp_2m|euler_ancestral|lcm",                                        \
     .help = "how a step uses the model; heun runs it twice"},                                    \
    {"schedule", 0, FLAG_CHOICE, &(o)->schedule, .arg = "NAME",                                   \
     .choices = "default|simple|normal|sgm_uniform|beta|karras|exponential",                      \
     .help = "noise levels; default: the model's own"},                                           \
    {"rng", 0, FLAG_CHOICE, &(o)->rng, .choices = "torch|philox", .arg = "NAME",                  \
     .help = "noise: as torch draws it on a CPU, or on a GPU"},                                   \
    {"slg-layers", 0, FLAG_STRING, &(o)->slg_layers, .arg = "N,N",                                \
     .help = "skip-layer guidance: away from the model without these blocks (7,8,9)"},            \
    {"slg-scale", 0, FLAG_NUMBER, &(o)->slg.scale, 0, 30, .arg = "X", .help = "its scale"},       \
    {"slg-start", 0, FLAG_NUMBER, &(o)->slg.start, 0, 1, .arg = "X",                              \
     .help = "its window: from this part of the steps"},                                          \
    {"slg-stop", 0, FLAG_NUMBER, &(o)->slg.stop, 0, 1, .arg = "X",                                \
     .help = "its window: to this part of the steps"}
/* clang-format on */

static enum flags_result parse(struct options *o, struct flag_set *set, int argc, char **argv) {
    const struct flag flags[] = {
        {"output", 'o', FLAG_STRING, &o->output, .arg = "FILE",
         .help = "where the PNG goes; - or a pipe: stdout"},
        {"model", 'm', FLAG_STRING, &o->engine.model_path, .env = "TACA_MODEL", .arg = "PATH",
         .help = "model directory or file"},
        CLI_PART_FLAGS(&o->engine),
        {"size", 0, FLAG_STRING, &o->size, .arg = "WxH", .help = "size in pixels"},
        {"width", 0, FLAG_INT, &o->width, 1, 1 << 16, .arg = "N", .help = "width in pixels"},
        {"height", 0, FLAG_INT, &o->height, 1, 1 << 16, .arg = "N", .help = "height in pixels"},
        {"image", 'i', FLAG_STRING, &o->image, .arg = "FILE",
         .help = "a PNG to start from; its size, when none is given"},
        {"mask", 0, FLAG_STRING, &o->mask, .arg = "FILE",
         .help = "a PNG as large: repaint where it is white, keep where black"},
        {"strength", 0, FLAG_NUMBER, &o->strength, 0, 1, .arg = "X",
         .help = "how far from the image: the part of the steps that runs (0.6)"},
        {"steps", 0, FLAG_INT, &o->steps, 1, TACA_MAX_STEPS, .arg = "N", .help = "denoising steps"},
        {"seed", 0, FLAG_NUMBER, &o->seed, 0, 0x1p53 - 1, .arg = "N",
         .help = "noise seed; image k uses seed + k; random when not given"},
        {"count", 'n', FLAG_INT, &o->n, 1, MAX_IMAGES, .arg = "N", .help = "how many pictures"},
        {"cfg", 0, FLAG_NUMBER, &o->cfg, 0, 30, .arg = "X", .help = "classifier-free guidance"},
        {"guidance", 0, FLAG_NUMBER, &o->guidance, 0, 100, .arg = "X",
         .help = "guidance as an input of the model, for FLUX dev"},
        {"negative", 0, FLAG_STRING, &o->negative, .arg = "TEXT", .help = "what to keep away from"},
        {"prompt-2", 0, FLAG_STRING, &o->prompt_2, .arg = "TEXT",
         .help = "another prompt for CLIP-G (SD3) or T5 (FLUX)"},
        {"prompt-3", 0, FLAG_STRING, &o->prompt_3, .arg = "TEXT",
         .help = "another prompt for T5 (SD3)"},
        {"max-sequence-length", 0, FLAG_INT, &o->t5_tokens, 1, TACA_MAX_T5_TOKENS, .arg = "N",
         .help = "T5 tokens of a prompt"},
        STEP_FLAGS(o),
        {"shift", 0, FLAG_NUMBER, &o->shift, 0.01, 100, .arg = "X", .help = "noise schedule shift"},
        {"clip-skip", 0, FLAG_INT, &o->clip_skip, 0, 12, .arg = "N", .help = "CLIP layers to skip"},
        {"taca", 0, FLAG_SWITCH, &o->taca,
         .help = "let the picture attend more to its prompt in the first steps"},
        {"taca-scale", 0, FLAG_NUMBER, &o->taca_scale, 0, 10, .arg = "X",
         .help = "its factor on text logits (1.2)"},
        {"taca-fraction", 0, FLAG_NUMBER, &o->taca_fraction, 0, 1, .arg = "X",
         .help = "its window: the first part of the steps (0.1)"},
        {"taca-steps", 0, FLAG_INT, &o->taca_steps, 0, TACA_MAX_STEPS, .arg = "K",
         .help = "its window: the first K steps"},
        {"taca-threshold", 0, FLAG_NUMBER, &o->taca_threshold, 0, 1000, .arg = "T",
         .help = "its window: timestep >= T of 1000"},
        {"lora", 0, FLAG_LIST, &o->lora, .arg = "FILE[:SCALE]",
         .help = "adapter and its strength (1)"},
        {"lora-window", 0, FLAG_CHOICE, &o->lora_window, .choices = "always|taca", .arg = "WHEN",
         .help = "steps with adapters: all, or those of the TACA window"},
        {"precision", 0, FLAG_CHOICE, &o->precision, .choices = "auto|f32|bf16|int8",
         .env = "TACA_PRECISION", .arg = "P", .help = "of matrix products"},
        {"threads", 0, FLAG_INT, &o->engine.threads, 0, 1024, .env = "TACA_THREADS", .arg = "N",
         .help = "CPU threads, 0 = all"},
        {"deterministic", 0, FLAG_SWITCH, &o->engine.deterministic,
         .help = "bits do not depend on what is computed together"},
        {"png-level", 0, FLAG_INT, &o->png_level, 0, 9, .arg = "N", .help = "zlib level"},
        {"metadata", 0, FLAG_SWITCH, &o->metadata, .help = "parameters in the PNG (--no-metadata)"},
        {"json", 0, FLAG_SWITCH, &o->json, .help = "one line of JSON about each picture on stderr"},
        {"quiet", 'q', FLAG_SWITCH, &o->quiet, .help = "no progress bar"},
    };
    set->flags = flags;
    set->n_flags = FLAGS_COUNT(flags);
    return flags_parse(set, argc, argv);
}

static enum taca_code size_from(const struct options *o, struct taca_gen_params *p,
                                struct taca_err *err) {
    if (o->size) {
        if (o->width > 0 || o->height > 0)
            return taca_fail_param(err, "size", "give --size or --width and --height, not both");
        enum taca_code rc = cli_size(o->size, &p->width_px, &p->height_px, err);
        if (rc) return rc;
    }
    if (o->width > 0) p->width_px = o->width;
    if (o->height > 0) p->height_px = o->height;
    return TACA_OK;
}

/* The picture to start from gives the size unless there is one, which must then be its own. */
static enum taca_code picture_from(struct options *o, const struct taca_model_info *m,
                                   struct taca_gen_params *p, struct taca_err *err) {
    if (!isnan(o->strength) && !o->image)
        return taca_fail_param(err, "strength", "--strength needs an --image");
    enum taca_code rc = picture_read(&o->picture, o->image, o->mask, m->max_side_px, err);
    const struct taca_image *img = &o->picture.image;
    if (rc || !img->rgb) return rc;
    if (!o->size && o->width == 0) p->width_px = img->width_px;
    if (!o->size && o->height == 0) p->height_px = img->height_px;
    if (p->width_px != img->width_px || p->height_px != img->height_px)
        return taca_fail_param(err, "image", "%s has %d x %d pixels, wanted %d x %d", o->image,
                               img->width_px, img->height_px, p->width_px, p->height_px);
    p->image = img->rgb;
    p->mask = o->picture.mask;
    if (!isnan(o->strength)) p->strength = o->strength;
    return TACA_OK;
}

static enum taca_code window_from(const struct options *o, struct taca_gen_params *p,
                                  struct taca_err *err) {
    int rules = !isnan(o->taca_fraction) + !isnan(o->taca_threshold) + (o->taca_steps >= 0);
    if (rules > 1)
        return taca_fail_param(err, "taca",
                               "give one of --taca-fraction, --taca-steps and "
                               "--taca-threshold");
    if (!o->taca && rules == 0 && isnan(o->taca_scale)) return TACA_OK;
    p->taca = taca_window_default();
    if (!isnan(o->taca_scale)) p->taca.gamma = o->taca_scale;
    if (!isnan(o->taca_fraction)) p->taca.fraction = o->taca_fraction;
    if (o->taca_steps >= 0) {
        p->taca.rule = TACA_WINDOW_STEPS;
        p->taca.end_step = o->taca_steps;
    }
    if (!isnan(o->taca_threshold)) {
        p->taca.rule = TACA_WINDOW_SIGMA;
        p->taca.sigma_min = o->taca_threshold / 1000;
    }
    return TACA_OK;
}

/* "7,8,9" */
static enum taca_code slg_from(const struct options *o, struct taca_gen_params *p,
                               struct taca_err *err) {
    p->slg = o->slg;
    for (const char *s = o->slg_layers; s && *s;) {
        char *end;
        const unsigned long k = strtoul(s, &end, 10);
        if (*s < '0' || *s > '9' || k >= 64 || (*end && (*end != ',' || !end[1])))
            return taca_fail_param(err, "slg-layers",
                                   "--slg-layers must be block numbers such as 7,8,9, got '%s'",
                                   o->slg_layers);
        p->slg.layers |= UINT64_C(1) << k;
        s = *end ? end + 1 : end;
    }
    return TACA_OK;
}

static void say_warning(void *ctx, const char *text) {
    (void)ctx;
    fprintf(stderr, "taca generate: %s\n", text);
}

/* "FILE:SCALE" or "FILE": the bytes of FILE; *scale stays when none is given. */
static int split_lora(const char *item, double *scale) {
    const char *colon = strrchr(item, ':');
    char *end;
    if (!colon || !colon[1] || access(item, F_OK) == 0) return (int)strlen(item);
    const double v = strtod(colon + 1, &end);
    if (*end) return (int)strlen(item);
    *scale = v;
    return (int)(colon - item);
}

/* Opens the adapters under their files' names without folder and suffix. */
static enum taca_code loras_from(struct options *o, struct taca_engine *e,
                                 struct taca_gen_params *p, struct taca_err *err) {
    if (o->lora.n > TACA_MAX_LORAS)
        return taca_fail_param(err, "lora", "at most %d adapters, got %d", TACA_MAX_LORAS,
                               o->lora.n);
    for (int i = 0; i < o->lora.n; i++) {
        char path[4096];
        double scale = 1;
        const int len = split_lora(o->lora.item[i], &scale);
        snprintf(path, sizeof path, "%.*s", len, o->lora.item[i]);
        const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
        const char *dot = strrchr(name, '.');
        const int n = dot && dot > name ? (int)(dot - name) : (int)strlen(name);
        snprintf(o->lora_id[i], sizeof o->lora_id[i], "%.*s", n, name);
        enum taca_code rc = taca_lora_open(e, o->lora_id[i], path, say_warning, NULL, err);
        if (rc) return rc;
        p->loras[p->n_loras++] = (struct taca_lora_use){
            o->lora_id[i], scale, o->lora_window ? TACA_LORA_IN_WINDOW : TACA_LORA_ALWAYS};
    }
    return TACA_OK;
}

static enum taca_code params_from(struct options *o, const char *prompt, struct taca_engine *e,
                                  struct taca_gen_params *p, struct taca_err *err) {
    const struct taca_model_info *m = taca_engine_info(e);
    taca_gen_params_init(p, m);
    p->prompt = prompt;
    p->negative_prompt = o->negative;
    p->prompt_2 = o->prompt_2;
    p->prompt_3 = o->prompt_3;
    p->clip_skip = o->clip_skip;
    if (o->t5_tokens > 0) p->max_sequence_length = o->t5_tokens;
    if (o->steps > 0) p->steps = o->steps;
    if (!isnan(o->cfg)) p->cfg_scale = o->cfg;
    if (!isnan(o->guidance)) p->guidance_scale = o->guidance;
    if (!isnan(o->shift)) p->shift = o->shift;
    p->sampler = (enum taca_sampler)o->sampler;
    p->schedule = (enum taca_levels)o->schedule;
    p->rng = (enum taca_noise)o->rng;
    if (isnan(o->seed)) {
        if (getrandom(&p->seed, sizeof p->seed, 0) != (ssize_t)sizeof p->seed)
            return taca_fail(err, TACA_EIO, "no random seed: %s", strerror(errno));
        p->seed >>= 11; /* below 2^53, with room for the n-th */
        p->seed >>= 1;
    } else {
        if (o->seed != floor(o->seed))
            return taca_fail_param(err, "seed", "--seed must be a whole number");
        p->seed = (uint64_t)o->seed;
    }
    enum taca_code rc = size_from(o, p, err);
    if (!rc) rc = picture_from(o, m, p, err);
    if (!rc) rc = window_from(o, p, err);
    if (!rc) rc = slg_from(o, p, err);
    if (!rc) rc = loras_from(o, e, p, err);
    return rc ? rc : taca_gen_params_check(p, m, err);
}

/* All of a buffer into a new file that appears under its name only when it is complete. */
static enum taca_code write_file(const char *path, const struct taca_buf *png,
                                 struct taca_err *err) {
    char tmp[4096];
    int n = snprintf(tmp, sizeof tmp, "%s.part-XXXXXX", path);
    if (n < 0 || (size_t)n >= sizeof tmp)
        return taca_fail(err, TACA_EINVAL, "%s: name too long", path);
    int fd = mkstemp(tmp);
    if (fd < 0) return taca_fail(err, TACA_EIO, "%s: %s", path, strerror(errno));
    mode_t mask = umask(0);
    umask(mask);
    bool ok = fchmod(fd, 0666 & ~mask) == 0;
    for (size_t at = 0; ok && at < png->len;) {
        ssize_t w = write(fd, png->data + at, png->len - at);
        ok = w > 0;
        if (ok) at += (size_t)w;
    }
    if (close(fd) != 0) ok = false;
    if (ok && rename(tmp, path) == 0) return TACA_OK;
    enum taca_code rc = taca_fail(err, TACA_EIO, "%s: %s", path, strerror(errno));
    unlink(tmp);
    return rc;
}

/* Image k's own name: out.png, or out-k.png when there are several. */
static void image_path(char *path, size_t size, const struct options *o, int k) {
    const char *dot = strrchr(o->output, '.');
    int stem = dot && !strchr(dot, '/') ? (int)(dot - o->output) : (int)strlen(o->output);
    if (o->n == 1)
        snprintf(path, size, "%s", o->output);
    else
        snprintf(path, size, "%.*s-%d%s", stem, o->output, k, o->output + stem);
}

/* To stdout, or to a file with a word about it. */
static enum taca_code deliver(const struct options *o, const struct taca_buf *png,
                              const struct taca_gen_params *p, int k, struct taca_err *err) {
    char path[4096];
    if (strcmp(o->output, "-") == 0) {
        if (fwrite(png->data, 1, png->len, stdout) != png->len || fflush(stdout) != 0)
            return taca_fail(err, TACA_EIO, "stdout: %s", strerror(errno));
        return TACA_OK;
    }
    image_path(path, sizeof path, o, k);
    enum taca_code rc = write_file(path, png, err);
    const unsigned long long seed = p->seed;
    if (!rc && o->json)
        fprintf(stderr, "{\"file\":\"%s\",\"seed\":%llu,\"width\":%d,\"height\":%d}\n", path, seed,
                p->width_px, p->height_px);
    else if (!rc && !o->quiet)
        fprintf(stderr, "%s  %dx%d  seed %llu\n", path, p->width_px, p->height_px, seed);
    return rc;
}

static enum taca_code write_image(const struct options *o, const struct taca_gen_params *p,
                                  const struct taca_model_info *m, const struct taca_image *img,
                                  int k, struct taca_err *err) {
    struct taca_buf png, text, json;
    taca_buf_init(&png, LARGEST_PNG);
    taca_buf_init(&text, LARGEST_PNG);
    taca_buf_init(&json, LARGEST_PNG);
    api_png_parameters(&text, p, m);
    api_png_json(&json, p, m);
    const struct api_png_text texts[] = {{"parameters", text.data}, {"taca", json.data}};
    enum taca_code rc = api_png_write(&png, img, o->png_level, texts, o->metadata ? 2 : 0, err);
    if (!rc) rc = deliver(o, &png, p, k, err);
    taca_buf_finish(&png);
    taca_buf_finish(&text);
    taca_buf_finish(&json);
    return rc;
}

static void print_warnings(unsigned warnings, const struct taca_gen_params *p,
                           const struct taca_model_info *m) {
    const int tokens = m->has_t5 ? p->max_sequence_length : m->clip_tokens;
    if (warnings & TACA_WARN_PROMPT_CUT)
        fprintf(stderr, "taca generate: the prompt has more than %d tokens; the rest was ignored\n",
                tokens);
    if (warnings & TACA_WARN_NEGATIVE_CUT)
        fprintf(stderr, "taca generate: the negative prompt was cut at %d tokens\n", tokens);
    if (warnings & TACA_WARN_NEGATIVE_IGNORED)
        fprintf(stderr, "taca generate: the negative prompt needs --cfg above 1 and was ignored\n");
}

/* Every sequence open, stepped together, decoded. */
static enum taca_code run(struct taca_engine *e, const struct options *o,
                          const struct taca_gen_params *first, struct taca_err *err) {
    struct taca_seq *seqs[MAX_IMAGES] = {0};
    struct progress bar;
    unsigned warnings = 0;
    enum taca_code rc = TACA_OK;
    struct taca_gen_params p = *first;
    for (int k = 0; k < o->n && !rc; k++) {
        p.seed = first->seed + (uint64_t)k;
        rc = taca_seq_open(e, &p, &seqs[k], &warnings, err);
    }
    if (!rc) print_warnings(warnings, first, taca_engine_info(e));
    const int steps = rc ? 0 : taca_seq_steps(seqs[0]);
    progress_start(&bar, steps, o->quiet || o->json);
    for (int i = 0; i < steps && !rc; i++) {
        if (interrupted) rc = taca_fail(err, TACA_ECANCELLED, "cancelled after %d steps", i);
        if (!rc) rc = taca_step(e, seqs, o->n, err);
        if (!rc) progress_show(&bar, i + 1);
    }
    progress_end(&bar);
    for (int k = 0; k < o->n && !rc; k++) {
        struct taca_image img = {0};
        if (interrupted) rc = taca_fail(err, TACA_ECANCELLED, "cancelled");
        if (!rc) rc = taca_decode(e, &seqs[k], 1, &img, err);
        p.seed = first->seed + (uint64_t)k;
        if (!rc) rc = write_image(o, &p, taca_engine_info(e), &img, k, err);
        taca_image_finish(&img);
    }
    for (int k = 0; k < o->n; k++) taca_seq_close(e, seqs[k]);
    return rc;
}

/* Where the picture goes when nobody said: a pipe gets it, a terminal does not. */
static const char *default_output(const struct options *o, const struct taca_gen_params *p,
                                  char *name, size_t size) {
    if (o->output) return o->output;
    if (!isatty(STDOUT_FILENO)) return "-";
    snprintf(name, size, "taca-%llu.png", (unsigned long long)p->seed);
    return name;
}

int cli_generate(int argc, char **argv) {
    struct options o = {.n = 1,
                        .cfg = (double)NAN,
                        .guidance = (double)NAN,
                        .shift = (double)NAN,
                        .strength = (double)NAN,
                        .seed = (double)NAN,
                        .taca_scale = (double)NAN,
                        .taca_fraction = (double)NAN,
                        .taca_threshold = (double)NAN,
                        .taca_steps = -1,
                        .slg = taca_slg_default(),
                        .png_level = 3,
                        .metadata = true};
    struct flag_set set = {
        .usage = "generate PROMPT [options]",
        .about = "Makes a picture from PROMPT and writes it as a PNG with its parameters inside.",
        .min_args = 1,
        .max_args = 1,
    };
    enum flags_result parsed = parse(&o, &set, argc, argv);
    if (parsed != FLAGS_OK) return parsed == FLAGS_HELP ? EXIT_OK : EXIT_USAGE;
    struct taca_err err = {0};
    struct taca_engine *e = NULL;
    struct taca_gen_params p;
    char name[64];
    sigaction(SIGINT, &(struct sigaction){.sa_handler = on_interrupt, .sa_flags = SA_RESETHAND},
              NULL);
    o.engine.precision = (enum taca_precision)o.precision;
    enum taca_code rc = TACA_OK;
    if (!o.engine.model_path && !o.engine.transformer) o.engine.model_path = cli_demo_model();
    if (!o.engine.model_path && !o.engine.transformer)
        rc = taca_fail_param(&err, "model", "the demo model was not found: give --model PATH");
    if (!rc) rc = taca_engine_open(&e, &o.engine, &err);
    if (!rc) rc = params_from(&o, set.args[0], e, &p, &err);
    if (!rc) {
        o.output = default_output(&o, &p, name, sizeof name);
        if (o.n > 1 && strcmp(o.output, "-") == 0)
            rc = taca_fail_param(&err, "count", "several pictures need -o FILE");
    }
    if (!rc) rc = run(e, &o, &p, &err);
    taca_engine_close(e);
    picture_finish(&o.picture);
    if (rc == TACA_ECANCELLED) return cli_fail("generate", &err), EXIT_CANCELLED;
    return rc ? cli_fail("generate", &err) : EXIT_OK;
}
