/* generate_options.c - the command line of `taca generate`. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/generate.h"

enum { MAX_FLAGS = 64 };

struct table {
    struct flag flags[MAX_FLAGS];
    int n;
};

static void add(struct table *t, const struct flag *flags, int n) {
    for (int i = 0; i < n && t->n < MAX_FLAGS; i++) t->flags[t->n++] = flags[i];
}

static void add_output(struct table *t, struct gen_opts *o) {
    const struct flag flags[] = {
        {"output", 'o', FLAG_STRING, &o->output, .arg = "FILE", .group = "from where and where to",
         .help = "where the picture goes, as .png or .jpg; - or a pipe: stdout"},
        {"from", 'f', FLAG_STRING, &o->from, .arg = "FILE",
         .help = "repeat this picture; what else is given changes it"},
        {"server", 's', FLAG_STRING, &o->server, .arg = "URL",
         .help = "let the service at http://HOST:PORT or unix:/PATH make it"},
        {"api-key", 0, FLAG_STRING, &o->api_key, .env = "TACA_API_KEY", .arg = "KEY",
         .help = "key for the service; better in the environment, where ps does not show it"},
        {"patience", 0, FLAG_NUMBER, &o->patience_s, 0, 86400, .arg = "S",
         .help = "seconds to go on asking a service that is full, or whose connection broke"},
        {"model", 'm', FLAG_STRING, &o->engine.model_path, .env = "TACA_MODEL", .arg = "PATH",
         .help = "model directory or file; with --server the id of a model there"},
        CLI_PART_FLAGS(&o->engine),
    };
    add(t, flags, FLAGS_COUNT(flags));
}

static void add_picture(struct table *t, struct gen_opts *o) {
    const struct flag flags[] = {
        {"size", 0, FLAG_STRING, &o->size, .arg = "WxH", .group = "the picture",
         .help = "size in pixels"},
        {"width", 0, FLAG_INT, &o->width, 1, 1 << 16, .arg = "N", .help = "width in pixels"},
        {"height", 0, FLAG_INT, &o->height, 1, 1 << 16, .arg = "N", .help = "height in pixels"},
        {"round-size", 0, FLAG_SWITCH, &o->round_size,
         .help = "take the nearest size that the model can make"},
        {"image", 'i', FLAG_STRING, &o->image, .arg = "FILE",
         .help = "a PNG or JPEG to start from; its size, when none is given"},
        {"mask", 0, FLAG_STRING, &o->mask, .arg = "FILE",
         .help = "a PNG or JPEG as large: repaint where it is white, keep where black"},
        {"strength", 0, FLAG_NUMBER, &o->strength, 0, 1, .arg = "X",
         .help = "how far from the image: the part of the steps that runs (0.6)"},
        {"steps", 0, FLAG_INT, &o->steps, 1, TACA_MAX_STEPS, .arg = "N", .help = "denoising steps"},
        {"seed", 0, FLAG_NUMBER, &o->seed, -1, 0x1p53 - 1, .arg = "N",
         .help = "noise seed, -1: random; image k uses seed + k; random when not given"},
        {"count", 'n', FLAG_INT, &o->n, 1, GEN_MAX_IMAGES, .arg = "N", .help = "how many pictures"},
        {"cfg", 0, FLAG_NUMBER, &o->cfg, 1, 30, .arg = "X", .help = "classifier-free guidance"},
        {"guidance", 0, FLAG_NUMBER, &o->guidance, 0, 100, .arg = "X",
         .help = "guidance as an input of the model, for FLUX dev"},
        {"negative", 0, FLAG_STRING, &o->negative, .arg = "TEXT", .help = "what to keep away from"},
        {"prompt-2", 0, FLAG_STRING, &o->prompt_2, .arg = "TEXT",
         .help = "another prompt for CLIP-G (SD3) or T5 (FLUX)"},
        {"prompt-3", 0, FLAG_STRING, &o->prompt_3, .arg = "TEXT",
         .help = "another prompt for T5 (SD3)"},
        {"max-sequence-length", 0, FLAG_INT, &o->t5_tokens, 1, TACA_MAX_T5_TOKENS, .arg = "N",
         .help = "T5 tokens of a prompt"},
        {"clip-skip", 0, FLAG_INT, &o->clip_skip, 0, 12, .arg = "N", .help = "CLIP layers to skip"},
    };
    add(t, flags, FLAGS_COUNT(flags));
}

/* How a step is taken. */
static void add_steps(struct table *t, struct gen_opts *o) {
    const struct flag flags[] = {
        {"sampler", 0, FLAG_CHOICE, &o->sampler, .arg = "NAME",
         .choices = "euler|heun|dpmpp_2m|euler_ancestral|lcm", .group = "how it is stepped",
         .help = "how a step uses the model; heun runs it twice"},
        {"schedule", 0, FLAG_CHOICE, &o->schedule, .arg = "NAME",
         .choices = "default|simple|normal|sgm_uniform|beta|karras|exponential",
         .help = "noise levels; default: the model's own"},
        {"shift", 0, FLAG_NUMBER, &o->shift, 0.01, 100, .arg = "X", .help = "noise schedule shift"},
        {"rng", 0, FLAG_CHOICE, &o->rng, .choices = "torch|philox", .arg = "NAME",
         .help = "noise: as torch draws it on a CPU, or on a GPU"},
        {"slg-layers", 0, FLAG_STRING, &o->slg_layers, .arg = "N,N",
         .help = "skip-layer guidance: away from the model without these blocks (7,8,9)"},
        {"slg-scale", 0, FLAG_NUMBER, &o->slg_scale, 0, 30, .arg = "X", .help = "its scale (2.8)"},
        {"slg-start", 0, FLAG_NUMBER, &o->slg_start, 0, 1, .arg = "X",
         .help = "its window: from this part of the steps (0.01)"},
        {"slg-stop", 0, FLAG_NUMBER, &o->slg_stop, 0, 1, .arg = "X",
         .help = "its window: to this part of the steps (0.2)"},
    };
    add(t, flags, FLAGS_COUNT(flags));
}

static void add_taca(struct table *t, struct gen_opts *o) {
    const struct flag flags[] = {
        {"taca", 0, FLAG_SWITCH, &o->taca, .group = "TACA and adapters",
         .help = "let the picture attend more to its prompt in the first steps"},
        {"no-taca", 0, FLAG_SWITCH, &o->no_taca, .help = "leave that out, whatever --from says"},
        {"taca-scale", 0, FLAG_NUMBER, &o->taca_scale, 0, 10, .arg = "X",
         .help = "its factor on text logits (1.2)"},
        {"taca-fraction", 0, FLAG_NUMBER, &o->taca_fraction, 0, 1, .arg = "X",
         .help = "its window: the first part of the steps (0.1)"},
        {"taca-steps", 0, FLAG_INT, &o->taca_steps, 0, TACA_MAX_STEPS, .arg = "K",
         .help = "its window: the first K steps"},
        {"taca-threshold", 0, FLAG_NUMBER, &o->taca_threshold, 0, 1000, .arg = "T",
         .help = "its window: timestep >= T of 1000"},
        {"lora", 0, FLAG_LIST, &o->lora, .arg = "FILE[:SCALE]",
         .help = "adapter and its strength (1); with --server the id of one there"},
        {"lora-window", 0, FLAG_CHOICE, &o->lora_window, .choices = "always|taca", .arg = "WHEN",
         .help = "steps with adapters: all, or those of the TACA window"},
    };
    add(t, flags, FLAGS_COUNT(flags));
}

static void add_manner(struct table *t, struct gen_opts *o) {
    const struct flag flags[] = {
        CLI_MACHINE_FLAGS(&o->engine, &o->precision),
        {"deterministic", 0, FLAG_SWITCH, &o->engine.deterministic, .group = "manner",
         .help = "bits do not depend on what is computed together"},
        {"format", 0, FLAG_CHOICE, &o->format, .choices = "png|jpeg", .arg = "NAME",
         .help = "kind of file, where its name does not say (png)"},
        {"jpeg-quality", 0, FLAG_INT, &o->jpeg_quality, 0, 100, .arg = "N",
         .help = "of a JPEG: 0 is small, 100 loses least (100)"},
        {"png-level", 0, FLAG_INT, &o->png_level, 0, 9, .arg = "N",
         .help = "of a PNG: 0 is fast and large, 9 slow and small (3)"},
        {"metadata", 0, FLAG_SWITCH, &o->metadata, .help = "parameters in the picture"},
        {"preview", 'p', FLAG_SWITCH, &o->preview,
         .help = "show the picture in the terminal while it is made"},
        {"json", 0, FLAG_SWITCH, &o->json, .help = "one line of JSON about each picture on stderr"},
        {"quiet", 'q', FLAG_SWITCH, &o->quiet, .help = "no progress bar"},
    };
    add(t, flags, FLAGS_COUNT(flags));
}

static void set_defaults(struct gen_opts *o) {
    const double none = (double)NAN;
    *o = (struct gen_opts){.engine = {.device = "auto"},
                           .n = 1,
                           .clip_skip = -1,
                           .taca_steps = -1,
                           .lora_window = -1,
                           .sampler = -1,
                           .schedule = -1,
                           .rng = -1,
                           .cfg = none,
                           .guidance = none,
                           .shift = none,
                           .seed = none,
                           .strength = none,
                           .patience_s = 300,
                           .taca_scale = none,
                           .taca_fraction = none,
                           .taca_threshold = none,
                           .slg_scale = none,
                           .slg_start = none,
                           .slg_stop = none,
                           .format = -1,
                           .png_level = -1,
                           .jpeg_quality = -1,
                           .metadata = true};
}

/* An option that the place where the picture is made cannot honour is refused, not passed over. The
 * environment may name what other commands use. */
static bool fits(const struct flag *f, const struct gen_opts *o) {
    static const char *const here[] = {"transformer", "vae",    "clip-l",       "clip-g",
                                       "t5",          "taesd",  "model-config", "precision",
                                       "threads",     "device", "deterministic"};
    static const char *const there[] = {"api-key", "patience"};
    for (size_t i = 0; o->server && i < sizeof here / sizeof *here; i++)
        if (strcmp(f->name, here[i]) == 0) return false;
    for (size_t i = 0; !o->server && i < sizeof there / sizeof *there; i++)
        if (strcmp(f->name, there[i]) == 0) return false;
    return true;
}

static enum flags_result check_place(const struct flag_set *set, struct gen_opts *o) {
    for (int i = 0; i < set->n_flags; i++) {
        const struct flag *f = &set->flags[i];
        if (set->sources[i].from == FLAG_ARG && !fits(f, o)) {
            fprintf(stderr, "taca generate: --%s %s (see taca generate --help)\n", f->name,
                    o->server ? "is for an engine here, not for a --server"
                              : "is for a service: give --server URL");
            return FLAGS_BAD;
        }
        /* the environment's model is a path here, not an id there */
        if (o->server && f->out == &o->engine.model_path && set->sources[i].from == FLAG_ENV)
            o->engine.model_path = NULL;
    }
    return FLAGS_OK;
}

enum flags_result gen_options(struct gen_opts *o, int argc, char **argv) {
    struct table t = {.n = 0};
    set_defaults(o);
    add_output(&t, o);
    add_picture(&t, o);
    add_steps(&t, o);
    add_taca(&t, o);
    add_manner(&t, o);
    struct flag_source sources[MAX_FLAGS] = {0};
    struct flag_set set = {
        .usage = "generate PROMPT [options]",
        .about = "Makes a picture from PROMPT and writes it as a PNG or JPEG with its parameters "
                 "inside.\n"
                 "With --from FILE the PROMPT may be left out; with --server URL a service makes "
                 "it,\nand Ctrl-C cancels it there.",
        .examples = "examples:\n"
                    "  taca generate \"two green cones\" --taca -o cones.png\n"
                    "  taca generate --from cones.png --seed 8 -o others.jpg --jpeg-quality 90\n"
                    "  taca generate \"two green cones\" -s http://127.0.0.1:8080 --preview\n",
        .flags = t.flags,
        .n_flags = t.n,
        .sources = sources,
        .max_args = 1,
    };
    enum flags_result parsed = flags_parse(&set, argc, argv);
    if (parsed != FLAGS_OK) return parsed;
    o->prompt = set.n_args > 0 ? set.args[0] : NULL;
    o->engine.precision = (enum taca_precision)o->precision;
    return check_place(&set, o);
}
