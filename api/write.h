/* write.h - pieces of JSON that several replies share. Internal to api/. */
#ifndef TACA_API_WRITE_H
#define TACA_API_WRITE_H

#include <stdint.h>

#include "base/buf.h"
#include "engine/params.h"

/* The shortest decimal that reads back as the same double; not finite becomes 0. */
void api_put_double(struct taca_buf *out, double v);
/* Milliseconds to the microsecond; negative (unknown) becomes null. */
void api_put_ms(struct taca_buf *out, double ms);
/* As other programs call it: "DPM++ 2M". */
const char *api_sampler_title(enum taca_sampler s);
/* A JSON string; NULL becomes null. */
void api_put_string(struct taca_buf *out, const char *s);
/* false, or the object a request would give: {"scale":1.2,"fraction":0.1}. */
void api_put_taca(struct taca_buf *out, const struct taca_window *w);
/* [{"id":"style","scale":1,"window":"always"}] */
void api_put_loras(struct taca_buf *out, const struct taca_gen_params *p);
/* The timestep (sigma * 1000) in a decimal that divides back to this very sigma. */
void api_put_timestep(struct taca_buf *out, double sigma);
/* "model":...,"prompt":...,...,"taca":... without braces: what makes one image what it is. A
 * request with these members parses to equal parameters. */
void api_put_params(struct taca_buf *out, const struct taca_gen_params *p,
                    const struct taca_model_info *m);

#endif
