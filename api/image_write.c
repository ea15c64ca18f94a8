/* image_write.c - see image_write.h. */
#include "api/image_write.h"

#include "api/jpeg.h"
#include "api/png.h"

enum { N_TEXTS = 2, MAX_TEXT_BYTES = 64 << 20, PNG_LEVEL = 3, JPEG_QUALITY = 100 };

const char *const api_format_names[] = {"", "png", "jpeg", NULL};

/* A file's texts and how it is packed. */
struct file {
    const struct taca_image *img;
    const struct api_encoding *how;
    const struct api_image_text *texts;
    int n_texts;
};

static enum taca_code write_png(struct taca_buf *out, const struct file *f, struct taca_err *err) {
    const int level = f->how->png_level < 0 ? PNG_LEVEL : f->how->png_level;
    return api_png_write(out, f->img, level, f->texts, f->n_texts, err);
}

static enum taca_code write_jpeg(struct taca_buf *out, const struct file *f, struct taca_err *err) {
    const int quality = f->how->quality < 0 ? JPEG_QUALITY : f->how->quality;
    return api_jpeg_write(out, f->img, quality, f->texts, f->n_texts, err);
}

static const struct format {
    const char *type, *ending;
    enum taca_code (*write)(struct taca_buf *out, const struct file *f, struct taca_err *err);
} formats[] = {
    [API_PNG] = {"image/png", ".png", write_png}, [API_JPEG] = {"image/jpeg", ".jpg", write_jpeg}};

static enum api_format settled(enum api_format f) { return f == API_FORMAT_ANY ? API_PNG : f; }

const char *api_format_name(enum api_format f) { return api_format_names[settled(f)]; }
const char *api_format_type(enum api_format f) { return formats[settled(f)].type; }
const char *api_format_ending(enum api_format f) { return formats[settled(f)].ending; }

enum taca_code api_image_write(struct taca_buf *out, const struct taca_image *img,
                               const struct api_encoding *how, const struct api_origin *origin,
                               struct taca_err *err) {
    struct file f = {.img = img, .how = how};
    const struct format *format = &formats[settled(how->format)];
    if (!origin) return format->write(out, &f, err);
    struct taca_buf text, json;
    taca_buf_init(&text, MAX_TEXT_BYTES);
    taca_buf_init(&json, MAX_TEXT_BYTES);
    api_image_parameters(&text, origin->params, origin->model);
    api_image_json(&json, origin->params, origin->model);
    const struct api_image_text texts[N_TEXTS] = {{"parameters", text.data}, {"taca", json.data}};
    f.texts = texts;
    f.n_texts = N_TEXTS;
    enum taca_code rc = text.failed || json.failed
                            ? taca_fail(err, TACA_ENOMEM, "describing an image")
                            : format->write(out, &f, err);
    taca_buf_finish(&text);
    taca_buf_finish(&json);
    return rc;
}
