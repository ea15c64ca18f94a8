/* reply.c - the JSON of a finished request; see reply.h. */
#include "api/reply.h"

#include "api/reply_parts.h"
#include "api/write.h"

void api_warnings_json(struct taca_buf *out, unsigned warnings) {
    static const struct {
        enum taca_warning bit;
        const char *code, *message;
    } all[] = {
        {TACA_WARN_PROMPT_CUT, "prompt_cut",
         "the prompt has more tokens than the text encoder takes; the rest was ignored"},
        {TACA_WARN_NEGATIVE_CUT, "negative_cut",
         "the negative prompt has more tokens than the text encoder takes; the rest was ignored"},
        {TACA_WARN_NEGATIVE_IGNORED, "negative_ignored",
         "the negative prompt was ignored: it acts only when cfg_scale is above 1"},
        {TACA_WARN_CLIP_CUT, "clip_cut",
         "the CLIP encoder takes only the start of a prompt; T5 reads all of it"},
        {TACA_WARN_IMAGE_SCALED, "image_scaled",
         "the picture to start from had another size than the one to make, and was scaled"},
        {TACA_WARN_PRIORITY_LOWERED, "priority_lowered",
         "this API key does not have the priority that was asked for; it got its highest"},
    };
    const char *comma = "";
    taca_buf_puts(out, "[");
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (!(warnings & all[i].bit)) continue;
        taca_buf_printf(out, "%s{\"code\":\"%s\",\"message\":\"%s\"}", comma, all[i].code,
                        all[i].message);
        comma = ",";
    }
    taca_buf_puts(out, "]");
}

void api_put_timings(struct taca_buf *out, const struct api_timings *t) {
    const struct {
        const char *name;
        double ms;
    } all[] = {{"queue_ms", t->queue_ms},     {"text_ms", t->text_ms},
               {"denoise_ms", t->denoise_ms}, {"vae_ms", t->vae_ms},
               {"encode_ms", t->encode_ms},   {"total_ms", t->total_ms}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        taca_buf_printf(out, "%s\"%s\":", i ? "," : "{", all[i].name);
        api_put_ms(out, all[i].ms);
    }
    taca_buf_puts(out, "}");
}

void api_put_bytes(struct taca_buf *out, const struct api_result_image *img) {
    if (img->url_prefix) { /* host and id were checked: nothing in them needs an escape */
        taca_buf_printf(out, "\"url\":\"%s%d\"", img->url_prefix, img->index);
        return;
    }
    taca_buf_puts(out, "\"b64_json\":\"");
    api_base64(out, img->bytes, img->len);
    taca_buf_puts(out, "\"");
}

void api_put_picture(struct taca_buf *out, const struct api_result_image *img) {
    taca_buf_printf(out, "\"format\":\"%s\",\"width\":%d,\"height\":%d,",
                    api_format_name(img->format), img->width_px, img->height_px);
    api_put_bytes(out, img);
}

void api_reply_json(struct taca_buf *out, const char *id, int64_t created_s,
                    const struct api_request *r, const struct taca_model_info *m,
                    const struct api_result_image *images, int n, const struct api_timings *t,
                    unsigned warnings) {
    taca_buf_puts(out, "{\"id\":");
    api_put_string(out, id);
    taca_buf_printf(out, ",\"created\":%lld,\"model\":", (long long)created_s);
    api_put_string(out, m->id);
    taca_buf_puts(out, ",\"images\":[");
    for (int i = 0; i < n; i++) {
        taca_buf_printf(out, "%s{\"index\":%d,\"seed\":%llu,", i ? "," : "", images[i].index,
                        (unsigned long long)images[i].seed);
        api_put_picture(out, &images[i]);
        taca_buf_puts(out, "}");
    }
    taca_buf_puts(out, "],\"timings\":");
    api_put_timings(out, t);
    taca_buf_puts(out, ",\"warnings\":");
    api_warnings_json(out, warnings);
    taca_buf_puts(out, ",\"taca\":");
    api_put_taca(out, &r->params.taca);
    if (r->params.n_loras > 0) {
        taca_buf_puts(out, ",\"loras\":");
        api_put_loras(out, &r->params);
    }
    taca_buf_puts(out, "}");
}
