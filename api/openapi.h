/* openapi.h - for openapi.c alone: what several models take, told as what one server takes. */
#ifndef TACA_API_OPENAPI_H
#define TACA_API_OPENAPI_H

#include <jansson.h>

/* `capabilities` are those of api_capabilities_json. Width and height get the model's
 * side_multiple_px as a member "multiple", previews the methods that it has as "methods". Then the
 * parameters at the top, those of the usual model, are widened to whatever any of `models` takes,
 * and those in which the models differ get a member "by_model": a sentence that says how. Not 0
 * without memory. */
int openapi_widen(json_t *capabilities);

#endif
