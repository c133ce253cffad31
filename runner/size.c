#include "runner/size.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct suffix {
    const char *name;
    double factor;
};

static const struct suffix suffixes[] = {
    {"", 1},     {"B", 1},      {"K", 0x1p10},   {"KiB", 0x1p10}, {"kB", 1e3},   {"M", 0x1p20},   {"MiB", 0x1p20},
    {"MB", 1e6}, {"G", 0x1p30}, {"GiB", 0x1p30}, {"GB", 1e9},     {"T", 0x1p40}, {"TiB", 0x1p40}, {"TB", 1e12},
};

bool qp_size_read(const json_t *value, uint64_t *bytes)
{
    double number = (double)json_integer_value(value), factor = 1;
    if (json_is_string(value)) {
        const char *text = json_string_value(value);
        char *end;
        if (strspn(text, "0123456789.") == 0)
            return false;
        number = strtod(text, &end);
        end += strspn(end, " ");
        factor = 0;
        for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
            if (strcasecmp(end, suffixes[i].name) == 0)
                factor = suffixes[i].factor;
    } else if (!json_is_integer(value)) {
        return false;
    }
    double total = number * factor;
    if (!(total >= 1) || total > 0x1p62)
        return false;
    *bytes = (uint64_t)total;
    return true;
}

const char *qp_size_text(uint64_t bytes, char *text, size_t size)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    int unit = 0;
    for (; value >= 1024 && unit < 6; unit++)
        value /= 1024;
    snprintf(text, size, unit == 0 ? "%.0f %s" : value < 10 ? "%.2f %s" : "%.1f %s", value, units[unit]);
    return text;
}

const char *qp_seconds_text(double seconds, char *text, size_t size)
{
    if (seconds < 60)
        snprintf(text, size, "%.1f s", seconds);
    else
        snprintf(text, size, "%.0f min %02.0f s", floor(seconds / 60), floor(fmod(seconds, 60)));
    return text;
}
