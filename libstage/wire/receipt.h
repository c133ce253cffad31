/* Receipts: a unit that came in is acknowledged when its receipt has been released by all who hold it: the stage while
 * it processes the unit, each unit emitted meanwhile until that is acknowledged, and each piece of the producer's
 * memory that the unit's tensors view. Any thread may hold and release. */
#ifndef QUANTPIPE_WIRE_RECEIPT_H
#define QUANTPIPE_WIRE_RECEIPT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libstage/base/error.h"

struct qp_receipt;

/* A tensor of a unit whose memory, which is the producer's, nobody in this process uses any more. */
struct qp_release {
    struct qp_release *next;
    int64_t seq;
    size_t tensor; /* its index in the unit */
};

/* Where receipts go whose last holder has let go, and releases. The owner of an edge takes them and acknowledges. */
struct qp_receipts {
    _Atomic(struct qp_receipt *) due;
    _Atomic(struct qp_release *) released;
    int wake; /* an eventfd that is told */
};

struct qp_receipt {
    atomic_int holders;
    int64_t seq;
    bool duplicate; /* of a unit that came before: its releases tell nothing */
    uint64_t cost;  /* bytes of credit that the unit took */
    struct qp_receipts *home;
    struct qp_receipt *next; /* among the due */
};

/* A receipt with one holder. */
int qp_receipt_new(struct qp_receipts *home, int64_t seq, struct qp_receipt **out, struct qp_error *err);

void qp_receipt_hold(struct qp_receipt *receipt);    /* NULL is accepted */
void qp_receipt_release(struct qp_receipt *receipt); /* NULL is accepted */

/* Notes a release (taken over; from malloc) at the receipt's home. */
void qp_receipt_note_release(const struct qp_receipt *receipt, struct qp_release *release);

/* All releases, linked by next, in no order; the caller frees them with free. */
struct qp_release *qp_releases_take(struct qp_receipts *receipts);

/* All that are due, linked by next; the caller frees them with free. */
struct qp_receipt *qp_receipts_take(struct qp_receipts *receipts);

#endif
