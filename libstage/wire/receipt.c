#include "libstage/wire/receipt.h"

#include <stdlib.h>
#include <sys/eventfd.h>

int qp_receipt_new(struct qp_receipts *home, int64_t seq, struct qp_receipt **out, struct qp_error *err)
{
    struct qp_receipt *receipt = calloc(1, sizeof *receipt);
    if (!receipt)
        return qp_fail_memory(err, sizeof *receipt, "a receipt");
    atomic_init(&receipt->holders, 1);
    receipt->seq = seq;
    receipt->home = home;
    *out = receipt;
    return 0;
}

void qp_receipt_hold(struct qp_receipt *receipt)
{
    if (receipt)
        atomic_fetch_add(&receipt->holders, 1);
}

void qp_receipt_release(struct qp_receipt *receipt)
{
    if (!receipt || atomic_fetch_sub(&receipt->holders, 1) != 1)
        return;
    struct qp_receipts *home = receipt->home;
    int wake = home->wake;
    receipt->next = atomic_load(&home->due);
    while (!atomic_compare_exchange_weak(&home->due, &receipt->next, receipt))
        ;
    eventfd_write(wake, 1);
}

void qp_receipt_note_release(const struct qp_receipt *receipt, struct qp_release *release)
{
    struct qp_receipts *home = receipt->home;
    if (receipt->duplicate) {
        free(release);
        return;
    }
    release->next = atomic_load(&home->released);
    while (!atomic_compare_exchange_weak(&home->released, &release->next, release))
        ;
    eventfd_write(home->wake, 1);
}

struct qp_release *qp_releases_take(struct qp_receipts *receipts)
{
    return atomic_exchange(&receipts->released, NULL);
}

struct qp_receipt *qp_receipts_take(struct qp_receipts *receipts)
{
    return atomic_exchange(&receipts->due, NULL);
}
