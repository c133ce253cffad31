/* Graphs in which stages must wait for each other for ever: a fork whose paths join again, one of them through a stage
 * that keeps more units back than the other path has places for. A join takes units in order from all its inputs, so
 * what the holder keeps is missing there; meanwhile the other path fills up, and then the fork can send nothing more,
 * to the holder neither. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "libstage/stage/window.h"
#include "runner/pipeline/graph.h"

#define ALL (INT_MAX / 2)

static int holds_of(const struct qp_instance *in)
{
    const json_t *holds = json_object_get(in->descriptor, "holds");
    if (json_is_string(holds))
        return ALL;
    json_int_t count = json_integer_value(holds);
    return count < ALL ? (int)count : ALL;
}

int64_t qp_blocks_on_the_way(const struct qp_pipeline *p)
{
    int64_t blocks = p->blocks;
    for (size_t i = 0; i < p->count; i++)
        if (!json_is_true(json_object_get(p->instances[i].descriptor, "copies")))
            blocks += holds_of(&p->instances[i]);
    return blocks;
}

/* What the paths from one instance to each other keep: the most on any, and the least places on any. */
struct reach {
    bool reached[QP_MAX_INSTANCES];
    int held[QP_MAX_INSTANCES], places[QP_MAX_INSTANCES];        /* from the fork up to the instance itself */
    size_t held_by[QP_MAX_INSTANCES], through[QP_MAX_INSTANCES]; /* edges into it, on these paths */
};

static int at_most_all(int count)
{
    return count < ALL ? count : ALL;
}

/* Joins an edge to the paths that lead to its start; the fork itself keeps nothing of what it sends. */
static void follow(const struct qp_pipeline *p, size_t index, size_t fork, struct reach *r)
{
    const struct qp_edge *e = &p->edges[index];
    int own = holds_of(&p->instances[e->to]);
    int held = at_most_all((e->from == fork ? 0 : r->held[e->from]) + own);
    int places = at_most_all((e->from == fork ? 0 : r->places[e->from]) + QP_WINDOW_UNITS + own);
    if (!r->reached[e->to] || held > r->held[e->to]) {
        r->held[e->to] = held;
        r->held_by[e->to] = index;
    }
    if (!r->reached[e->to] || places < r->places[e->to]) {
        r->places[e->to] = places;
        r->through[e->to] = index;
    }
    r->reached[e->to] = true;
}

static void find_reach(const struct qp_pipeline *p, size_t fork, struct reach *out)
{
    *out = (struct reach){0};
    out->reached[fork] = true;
    for (size_t o = 0; o < p->count; o++)
        for (size_t e = 0; e < p->edge_count; e++)
            if (p->edges[e].to == p->order[o] && !p->edges[e].delay && p->edges[e].to != fork &&
                out->reached[p->edges[e].from])
                follow(p, e, fork, out);
}

/* "load -> hold -> join.b", of the path that ends with `last`. */
static void path_text(const struct qp_pipeline *p, size_t fork, size_t last, const size_t *into, char *text,
                      size_t size)
{
    size_t steps[QP_MAX_INSTANCES], count = 0;
    for (size_t at = p->edges[last].from; at != fork; at = p->edges[into[at]].from)
        steps[count++] = at;
    snprintf(text, size, "%s", p->instances[fork].name);
    while (count > 0)
        snprintf(text + strlen(text), size - strlen(text), " -> %s", p->instances[steps[--count]].name);
    snprintf(text + strlen(text), size - strlen(text), " -> %s.%s", p->instances[p->edges[last].to].name,
             p->edges[last].input);
}

static int refuse(const struct qp_pipeline *p, size_t fork, const struct reach *r, size_t slow, size_t fast,
                  struct qp_error *err)
{
    char held[512], open[512], amount[32];
    size_t at = p->edges[slow].from;
    while (holds_of(&p->instances[at]) == 0)
        at = p->edges[r->held_by[at]].from;
    path_text(p, fork, slow, r->held_by, held, sizeof held);
    path_text(p, fork, fast, r->through, open, sizeof open);
    if (holds_of(&p->instances[at]) == ALL)
        snprintf(amount, sizeof amount, "all");
    else
        snprintf(amount, sizeof amount, "%d", holds_of(&p->instances[at]));
    return qp_document_fail(p->document, p->edges[fast].path, err,
                            "stages would wait for each other for ever: `%s` keeps back %s units on the path %s, and "
                            "`%s` takes the same units in order from the path %s as well; let both inputs come from "
                            "`%s`, or take one of the paths out",
                            p->instances[at].name, amount, held, p->instances[p->edges[fast].to].name, open,
                            p->instances[at].name);
}

/* Two edges into one stage, and a fork: what the first path keeps must have places on the second. */
static int check_pair(const struct qp_pipeline *p, size_t fork, const struct reach *r, size_t slow, size_t fast,
                      struct qp_error *err)
{
    const struct qp_edge *a = &p->edges[slow], *b = &p->edges[fast];
    if (slow == fast || a->to != b->to || a->delay || b->delay || !r->reached[a->from] || !r->reached[b->from])
        return 0;
    int held = a->from == fork ? 0 : r->held[a->from];
    int places = at_most_all((b->from == fork ? 0 : r->places[b->from]) + QP_WINDOW_UNITS);
    return held > places ? refuse(p, fork, r, slow, fast, err) : 0;
}

int qp_holds_check(const struct qp_pipeline *p, struct qp_error *err)
{
    int r = 0;
    for (size_t o = p->count; r == 0 && o-- > 0;) { /* the last fork first: the shortest paths to show */
        struct reach reach;
        size_t fork = p->order[o];
        find_reach(p, fork, &reach);
        for (size_t slow = 0; r == 0 && slow < p->edge_count; slow++)
            for (size_t fast = 0; r == 0 && fast < p->edge_count; fast++)
                r = check_pair(p, fork, &reach, slow, fast, err);
    }
    return r;
}
