/* The table "choosing a method". Sources: NVIDIA's data sheets for what the tensor cores multiply (A100: INT8; L40S and
 * H100: FP8 besides; B200: FP8, MXFP8, NVFP4, MXFP4, and vLLM has no INT8 for it); vLLM's compressed-tensors loader for
 * what has kernels (Marlin from compute capability 8.0 for INT4, Machete on Hopper, FP8 by Marlin below 8.9); the
 * speeds that NVIDIA's Model Optimizer publishes (H200, Llama 3.1 8B against FP16 at batch 1/8/64: FP8 1.41/1.31/1.30,
 * INT4 AWQ 1.33/0.75/0.83). */
#include <string.h>

#include "runner/commands/advise.h"

const struct qp_hardware qp_advice_hardware[] = {
    {"any", QP_ON_ANY,
     "The hardware is not named, so only what runs nearly everywhere is considered (--hardware NAME)."},
    {"a100", QP_ON_A100,
     "An A100 multiplies INT8 at twice the rate of BF16 and has no FP8; INT4 weights are unpacked on the way "
     "(Marlin)."},
    {"l40s", QP_ON_L40S, "An L40S multiplies FP8 and INT8 at twice the rate of BF16."},
    {"h100", QP_ON_H100, "An H100 multiplies FP8 and INT8 at twice the rate of BF16."},
    {"b200", QP_ON_B200,
     "A B200 multiplies NVFP4 and MXFP4 at four times the rate of BF16, FP8 and MXFP8 at twice; engines have no INT8 "
     "for "
     "it."},
    {"cpu", QP_ON_CPU, "CPUs multiply INT8 by VNNI or AMX; INT4 weights are unpacked on the way."},
    {NULL, 0, NULL},
};

#define GPUS (QP_ON_A100 | QP_ON_L40S | QP_ON_H100 | QP_ON_B200)
#define FP8_UNITS (QP_ON_L40S | QP_ON_H100 | QP_ON_B200)

const struct qp_recipe qp_advice_recipes[] = {
    {"int8", QP_ON_A100 | QP_ON_L40S | QP_ON_H100 | QP_ON_CPU | QP_ON_ANY, 0, "smoothquant", "none", "gptq",
     "INT8 with a range for each row and each token rounds finest of the 8-bit formats; smoothing moves the "
     "activations' "
     "outliers into the weights, where a range a row can hold them."},
    {"fp8-dynamic", FP8_UNITS, QP_ON_A100, "none", "none", "rtn",
     "FP8 takes a wide range without calibration: ranges are a row's and a token's, taken while the network runs."},
    {"fp8", FP8_UNITS, QP_ON_A100, "none", "none", "rtn",
     "FP8 with fixed ranges has nothing to find out at run time, which makes it the fastest form of FP8."},
    {"fp8-block", QP_ON_H100 | QP_ON_B200, 0, "none", "none", "rtn",
     "FP8 with a scale for each 128x128 block is what DeepSeek's kernels take."},
    {"int4", 0, GPUS | QP_ON_CPU | QP_ON_ANY, "none", "awq", "gptq",
     "INT4 weights in groups take about a quarter of the bytes, and producing one token at a time is bound by reading "
     "weights; in large batches, unpacking costs more than it saves."},
    {"int4-asym", 0, GPUS | QP_ON_CPU | QP_ON_ANY, "none", "awq", "gptq",
     "Zero points let each group use all 16 codes, for a few more bits."},
    {"nvfp4", QP_ON_B200, 0, "none", "none", "gptq",
     "NVFP4 has a scale of 8 bits for each 16 numbers: four bits that the tensor cores multiply at their full rate."},
    {"nvfp4-weight-only", 0, GPUS, "none", "none", "gptq",
     "NVFP4 weights alone save bytes; they are unpacked, which made serving slower than BF16 in most published "
     "shapes."},
    {"mxfp4", QP_ON_B200, 0, "none", "none", "gptq",
     "MXFP4 is the open standard's four bits; its powers of two as scales lose more than NVFP4's."},
    {"mxfp8", QP_ON_B200, 0, "none", "none", "rtn",
     "MXFP8 has a scale for each 32 numbers, so that no outlier spoils a whole row."},
    {NULL, 0, 0, NULL, NULL, NULL, NULL},
};

#define PORTABLE (QP_ON_ANY | QP_ON_A100 | QP_ON_CPU)

const struct qp_choice qp_advice_choices[] = {
    {PORTABLE, "inference", "accuracy", {"int8", "int4-asym", NULL}, "Eight bits keep nearly all of the network."},
    {QP_ON_A100 | QP_ON_CPU,
     "inference",
     "speed",
     {"int8", "int4", NULL},
     "INT8 is the one format here that halves the reading of weights and doubles the rate of multiplying."},
    {QP_ON_ANY,
     "inference",
     "speed",
     {"int4", "int8", NULL},
     "Producing tokens is bound by reading weights on all hardware, and INT4 kernels exist for all of it."},
    {PORTABLE,
     "inference",
     "size",
     {"int4", "int4-asym", "int8", NULL},
     "Four bits in groups are the smallest that engines load everywhere."},
    {QP_ON_L40S | QP_ON_H100,
     "inference",
     "accuracy",
     {"fp8-dynamic", "int8", NULL},
     "Eight bits keep nearly all of the network, and FP8 needs no text to find its ranges."},
    {QP_ON_L40S | QP_ON_H100,
     "inference",
     "speed",
     {"fp8", "fp8-dynamic", "int8", NULL},
     "Published serving figures have FP8 ahead of INT4 at every batch size on Hopper."},
    {QP_ON_L40S | QP_ON_H100,
     "inference",
     "size",
     {"int4", "int4-asym", "fp8-dynamic", NULL},
     "Four bits in groups are the smallest that this hardware has kernels for."},
    {QP_ON_B200, "inference", "accuracy", {"mxfp8", "fp8-dynamic", NULL}, "Eight bits keep nearly all of the network."},
    {QP_ON_B200,
     "inference",
     "speed",
     {"nvfp4", "mxfp8", "fp8-dynamic", NULL},
     "Four bits that are multiplied as they are save bytes and time at once."},
    {QP_ON_B200,
     "inference",
     "size",
     {"nvfp4", "int4", "mxfp8", NULL},
     "NVFP4 and INT4 in groups are of about one size, and NVFP4 is the one that is multiplied as it is."},
    {PORTABLE,
     "training",
     "accuracy",
     {"int8", "int4-asym", NULL},
     "This hardware trains in BF16; INT8 is what a checkpoint can be quantized to afterwards with the least loss."},
    {PORTABLE,
     "training",
     "speed",
     {"int8", "int4", NULL},
     "This hardware has no 8-bit floats to train in: train in BF16, and quantize what comes of it to INT8."},
    {PORTABLE,
     "training",
     "size",
     {"int4", "int4-asym", "int8", NULL},
     "A frozen base of four bits with trained adapters in BF16 (QLoRA) needs the least memory."},
    {QP_ON_L40S | QP_ON_H100,
     "training",
     "accuracy",
     {"fp8-dynamic", "int8", NULL},
     "Training in FP8 takes E4M3 forward and E5M2 backward, with weights and sums kept in higher precision; ranges "
     "taken "
     "at run time are the safer ones."},
    {QP_ON_L40S | QP_ON_H100,
     "training",
     "speed",
     {"fp8", "fp8-dynamic", NULL},
     "Training in FP8 takes E4M3 forward and E5M2 backward, with weights and sums kept in higher precision; ranges of "
     "former steps (delayed scaling) are the fastest."},
    {QP_ON_L40S | QP_ON_H100,
     "training",
     "size",
     {"int4", "int4-asym", "fp8-dynamic", NULL},
     "A frozen base of four bits with trained adapters in BF16 (QLoRA) needs the least memory."},
    {QP_ON_B200,
     "training",
     "accuracy",
     {"mxfp8", "fp8-dynamic", NULL},
     "Training in MXFP8 takes E4M3 in both directions, since blocks of 32 make up for its narrow range."},
    {QP_ON_B200,
     "training",
     "speed",
     {"mxfp8", "fp8-dynamic", NULL},
     "MXFP8 is the fastest format that trains without special care; NVFP4 needs rotations and stochastic rounding."},
    {QP_ON_B200,
     "training",
     "size",
     {"nvfp4", "int4", NULL},
     "A frozen base of four bits with trained adapters in BF16 needs the least memory."},
    {0, NULL, NULL, {NULL}, NULL},
};

/* 8-bit formats round a network's weights at about 30 dB and more, 4-bit ones in groups at 15 to 21 dB. */
const struct qp_tolerance qp_advice_tolerances[] = {
    {"accuracy", 27.0, 0.01}, {"speed", 10.0, 0.05}, {"size", 10.0, 0.1}, {NULL, 0.0, 0.0}};

const struct qp_recipe *qp_advice_recipe(const char *scheme)
{
    for (const struct qp_recipe *r = qp_advice_recipes; r->scheme; r++)
        if (strcmp(r->scheme, scheme) == 0)
            return r;
    return NULL;
}

const char *qp_advice_loss(double sqnr_db)
{
    return sqnr_db >= 36   ? "hardly measurable"
           : sqnr_db >= 27 ? "very small"
           : sqnr_db >= 21 ? "small"
           : sqnr_db >= 16 ? "noticeable on small models, small on large ones"
           : sqnr_db >= 10 ? "noticeable"
                           : "large";
}
