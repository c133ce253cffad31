/* This host as its peers see it. qp_host_identity is declared in control.h. */
#ifndef QUANTPIPE_WIRE_HOST_H
#define QUANTPIPE_WIRE_HOST_H

#include <stddef.h>

#include "libstage/base/error.h"

/* The numeric address of the interface that reaches `endpoint` (tcp://...): what peers beyond it can dial. */
int qp_host_address_towards(const char *endpoint, char *address, size_t size, struct qp_error *err);

#endif
