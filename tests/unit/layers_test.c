/* scripts/layers: this tree keeps to its layers, and a wrong include in any of them is found. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "tests/support/command.h"
#include "tests/support/scratch.h"
#include "tests/support/tree.h"

#define LAYERS SOURCE_DIR "/scripts/layers"

/* A tree of one file with one #include, in which every folder exists. */
static struct command look_at(const char *file, const char *what)
{
    char text[256];
    scratch_make();
    snprintf(text, sizeof text, "/* one line */\n#include %s\n", what);
    struct command c = tree_check(LAYERS, file, text);
    scratch_drop();
    return c;
}

static void refused(const char *file, const char *what)
{
    char place[256];
    struct command c = look_at(file, what);
    snprintf(place, sizeof place, "%s:2: %.*s", file, (int)strlen(what) - 2, what + 1);
    cr_expect(c.code == 1 && strstr(c.output, place) == c.output, "%s in %s: %d\n%s%s", what, file, c.code, c.output,
              c.errors);
    command_free(&c);
}

static void taken(const char *file, const char *what)
{
    struct command c = look_at(file, what);
    cr_expect(c.code == 0 && !*c.output, "%s in %s: %d\n%s%s", what, file, c.code, c.output, c.errors);
    command_free(&c);
}

Test(layers, this_tree_keeps_to_them)
{
    struct command c = command_run(60, WORDS(LAYERS));
    cr_expect_eq(c.code, 0, "%s%s", c.output, c.errors);
    command_free(&c);
}

Test(layers, lower_never_includes_higher)
{
    refused("kernels/cpu/gemm.c", "\"libstage/base/error.h\"");
    refused("libstage/base/file.c", "\"kernels/dtype.h\"");
    refused("libstage/base/file.c", "\"libstage/tensor/tensor.h\"");
    refused("libstage/tensor/unit.h", "\"libstage/formats/gguf.h\"");
    refused("libstage/formats/gguf.c", "\"libstage/network/arch.h\"");
    refused("libstage/network/block.c", "\"libstage/wire/codec.h\"");
    refused("libstage/network/block.c", "\"libstage/include/stage.h\"");
    refused("libstage/wire/codec.c", "\"libstage/network/block.h\"");
    refused("libstage/include/stage.h", "\"libstage/wire/codec.h\"");
    refused("libstage/stage/main.c", "\"runner/execution/run.h\"");
    refused("runner/machine.c", "\"runner/pipeline/pipeline.h\"");
    refused("runner/pipeline/needs.c", "\"runner/report/roofline.h\"");
    refused("runner/pipeline/needs.c", "\"runner/execution/run.h\"");
    refused("runner/report/report.c", "\"runner/execution/supervise.h\"");
    refused("runner/report/report.c", "\"runner/commands/advise.h\"");
    refused("runner/execution/threads.c", "\"runner/commands/advise.h\"");
    refused("libstage/stage/main.c", "\"stages/quantize/site.h\"");
}

Test(layers, nobody_includes_what_belongs_to_another)
{
    refused("runner/pipeline/costs.c", "\"stages/quantize/site.h\"");
    refused("runner/pipeline/costs.c", "\"kernels/gptq.h\"");
    refused("runner/pipeline/graph.c", "\"libstage/stage/link_internal.h\"");
    refused("stages/search.c", "\"stages/quantize/site.h\"");
    refused("stages/search/trial.c", "\"stages/quantize/site.h\"");
    refused("stages/search.c", "\"libstage/wire/codec.h\"");
    refused("stages/search.c", "\"runner/execution/run.h\"");
    refused("stages/search.c", "\"kernels/cpu/cpu.h\"");
    refused("examples/stage/outliers.c", "\"libstage/stage/internal.h\"");
    refused("libstage/other/file.c", "\"libstage/base/error.h\"");
    refused("libstage/base/file.c", "\"error.h\"");
}

Test(layers, libraries_stay_hidden)
{
    refused("libstage/include/stage.h", "<msgpack.h>");
    refused("libstage/stage/main.c", "<zmq.h>");
    refused("stages/load.c", "<yaml.h>");
    refused("runner/commands/init.c", "<yaml.h>");
    refused("runner/commands/doctor.c", "<oneapi/dnnl/dnnl.h>");
}

Test(layers, what_is_right_passes)
{
    taken("kernels/cpu/gemm.c", "\"kernels/cpu/cpu.h\"");
    taken("libstage/wire/codec.c", "<zmq.h>");
    taken("libstage/wire/codec.c", "\"libstage/tensor/unit.h\"");
    taken("stages/search.c", "\"stages/search/trial.h\"");
    taken("stages/search/trial.c", "\"stages/search/trial.h\"");
    taken("runner/execution/supervise.c", "\"libstage/wire/control_server.h\"");
    taken("runner/execution/supervise.c", "\"runner/report/record.h\"");
    taken("runner/commands/run.c", "\"runner/execution/run.h\"");
    taken("runner/main.c", "\"runner/subcommand.h\"");
    taken("examples/stage/outliers.c", "\"libstage/include/block_stage.h\"");
}
