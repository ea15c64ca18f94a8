/* model_parts.h - what the opening of models shares: pipelines, and a model in the making. Private
 * to engine/io. */
#ifndef TACA_ENGINE_IO_MODEL_PARTS_H
#define TACA_ENGINE_IO_MODEL_PARTS_H

#include "engine/io/derive.h"
#include "engine/io/model_dir.h"

/* What this build understands as a component of a pipeline. */
struct model_slot {
    const char *class_name[3]; /* none: the pipeline has no such component */
    enum taca_kind kind;       /* TACA_KINDS: a tokenizer, its config may be missing */
    bool optional;
    const char *data; /* tokenizers: what stands in for a missing one, see data_dir.h */
};

struct model_pipeline {
    const char *class_name;
    enum io_family family;
    struct model_slot slot[TACA_COMPONENTS];
};
const struct model_pipeline *model_pipeline_named(const char *class_name);
const struct model_pipeline *model_pipeline_of(enum io_family family);

struct model_opening {
    struct taca_model_dir *d;
    const struct taca_model_paths *paths;
    const struct model_pipeline *pipe;
    json_t *beside; /* FILE.config.json of paths->model */
    struct taca_err *err;
};

enum taca_code model_no_memory(const struct model_opening *o);
/* Whether dir has a file or folder of that name. */
bool model_holds(const char *dir, const char *name);
/* The JSON file `name` in dir; absent gives NULL unless required. */
enum taca_code model_json(json_t **out, const char *dir, const char *name, bool required,
                          struct taca_err *err) TACA_MUST_USE;

/* *out = the configs that lie beside a file, NULL when there are none. */
enum taca_code model_beside(json_t **out, const char *file, struct taca_err *err) TACA_MUST_USE;
/* Component `which` from the weights at path, which is a file or a component's folder. */
enum taca_code model_take(const struct model_opening *o, enum taca_component which,
                          const char *path) TACA_MUST_USE;
/* The same for a tokenizer: from paths->config or from the program's data. */
enum taca_code model_take_tokenizer(const struct model_opening *o,
                                    enum taca_component which) TACA_MUST_USE;
/* That the pipeline has a place for each part given apart. */
enum taca_code model_check_parts(const struct model_opening *o) TACA_MUST_USE;
/* A model of files alone. */
enum taca_code model_open_files(struct model_opening *o) TACA_MUST_USE;

#endif
