#include "libstage/base/error.h"

#include <errno.h>
#include <string.h>

#include "libstage/base/utf8.h"

int qp_vfail(struct qp_error *err, int code, const char *format, va_list args)
{
    if (!err)
        return code;
    qp_utf8_format(err->message, sizeof err->message, format, args);
    err->code = code;
    return code;
}

int qp_fail(struct qp_error *err, int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    qp_vfail(err, code, format, args);
    va_end(args);
    return code;
}

int qp_fail_errno(struct qp_error *err, int code, const char *format, ...)
{
    int cause = errno;
    char text[QP_ERROR_SIZE / 2];
    va_list args;
    va_start(args, format);
    qp_utf8_format(text, sizeof text, format, args);
    va_end(args);
    if (cause == ENOSPC || cause == EDQUOT)
        return qp_fail(err, QP_ERR_SPACE, "%s: %s; free some space and run again", text, strerror(cause));
    if (cause == ENOMEM)
        return qp_fail(err, QP_ERR_SPACE, "%s: %s; run where more memory is free", text, strerror(cause));
    if (cause == EFBIG)
        return qp_fail(err, QP_ERR_SPACE, "%s: %s; raise the file size limit, or write to another file system", text,
                       strerror(cause));
    return qp_fail(err, code, "%s: %s", text, strerror(cause));
}

int qp_wrap(struct qp_error *err, const char *format, ...)
{
    char text[QP_ERROR_SIZE / 2];
    va_list args;
    va_start(args, format);
    qp_utf8_format(text, sizeof text, format, args);
    va_end(args);
    return qp_fail(err, err->code, "%s: %s", text, err->message);
}

int qp_fail_memory(struct qp_error *err, unsigned long long bytes, const char *what)
{
    return qp_fail(err, QP_ERR_SPACE, "no memory for %s (%llu bytes); run where more memory is free", what, bytes);
}
