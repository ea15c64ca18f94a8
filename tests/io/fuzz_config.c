/* fuzz_config.c - any bytes as a config.json: refused with words, or read by everything that reads
 * one. The weights are those of an empty file, so what opens a model ends at its first tensor. */
#include <math.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/dit/dit.h"
#include "engine/sample/schedule.h"
#include "engine/text/clip.h"
#include "engine/text/t5.h"
#include "engine/vae/preview.h"
#include "engine/vae/vae.h"
#include "tests/fuzz/fuzz.h"

enum { PATH_BYTES = 40, STEPS = 7 };

static int bytes_as_file(char path[PATH_BYTES], const void *data, size_t size) {
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || (size && write(fd, data, size) != (ssize_t)size)) abort();
    snprintf(path, PATH_BYTES, "/proc/self/fd/%d", fd);
    return fd;
}

static void check(enum taca_code rc, bool made, const struct taca_err *err) {
    demand((rc == TACA_OK) == made, "a thing or an error", err->text);
    demand(rc == TACA_OK || (err->code == rc && err->text[0]), "an error has words", err->text);
}

static void read_scheduler(const json_t *config) {
    for (int spacing = TACA_SPACING_TRAINED; spacing <= TACA_SPACING_EVEN; spacing++) {
        struct taca_scheduler s;
        struct taca_schedule steps;
        struct taca_err err = {0};
        enum taca_code rc = taca_scheduler_load(&s, config, (enum taca_spacing)spacing, &err);
        check(rc, rc == TACA_OK, &err);
        if (rc != TACA_OK) continue;
        rc = taca_schedule_init(&steps, &s, STEPS, 256, 0, &err);
        check(rc, rc == TACA_OK, &err);
        for (int i = 0; rc == TACA_OK && i < STEPS; i++)
            demand(steps.sigma[i] > steps.sigma[i + 1] && isfinite(steps.timestep[i]),
                   "levels fall", "");
    }
}

static void read_preview(const json_t *config) {
    static const float x0[PREVIEW_MAX_CHANNELS] = {1, -1, 0.5f};
    const int channels[] = {1, 4, 16};
    for (size_t i = 0; i < sizeof channels / sizeof *channels; i++) {
        struct preview_factors f;
        struct taca_err err = {0};
        uint8_t rgb[3];
        enum taca_code rc =
            preview_factors_load(&f, config, (enum preview_family)(i % 2), channels[i], &err);
        check(rc, rc == TACA_OK, &err);
        if (rc == TACA_OK) preview_render(&f, x0, 1, 1, rgb);
    }
}

/* A new empty checkpoint and a new backend each: the first failure of either would stay. */
static void open_models(const json_t *config, const char *empty) {
    struct dit *dit = NULL;
    struct vae *vae = NULL;
    struct clip *clip = NULL;
    struct t5 *t5 = NULL;
    struct taca_err err = {0};
    struct taca_backend *b = NULL;
    struct taca_ckpt *ckpt = NULL;
    if (taca_count_open(&b, TACA_F32, &err) != TACA_OK ||
        taca_ckpt_open(&ckpt, empty, &err) != TACA_OK)
        demand(false, "an empty file opens", err.text);
    check(dit_open(&dit, b, config, ckpt, &err), dit != NULL, &err);
    err = (struct taca_err){0};
    check(vae_open(&vae, b, config, ckpt, &err), vae != NULL, &err);
    err = (struct taca_err){0};
    check(clip_open(&clip, b, config, ckpt, &err), clip != NULL, &err);
    err = (struct taca_err){0};
    check(t5_open(&t5, b, config, ckpt, 256, &err), t5 != NULL, &err);
    t5_close(t5);
    clip_close(clip);
    vae_close(vae);
    dit_close(dit);
    taca_ckpt_close(ckpt);
    taca_backend_close(b);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    static const char nothing[] = "\2\0\0\0\0\0\0\0{}"; /* a .safetensors file */
    char path[PATH_BYTES], empty[PATH_BYTES];
    json_t *config = NULL;
    struct taca_err err = {0};
    const int fd = bytes_as_file(path, data, size);
    enum taca_code rc = taca_json_load(&config, path, &err);
    check(rc, config != NULL, &err);
    close(fd);
    if (!config) return 0;
    read_scheduler(config);
    read_preview(config);
    const int empty_fd = bytes_as_file(empty, nothing, sizeof nothing - 1);
    open_models(config, empty);
    close(empty_fd);
    json_decref(config);
    return 0;
}
