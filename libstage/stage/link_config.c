/* What the runner's config says about edges. */
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/stage/link_internal.h"
#include "libstage/stage/window.h"
#include "libstage/wire/message.h"

#define DEFAULT_MEMORY ((int64_t)1 << 30)

static const char *text(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static int connect_output(struct link *link, const json_t *output, struct qp_error *err)
{
    static const char *const port_fields[] = {"port:s", "edges:a", NULL};
    static const char *const edge_fields[] = {"edge:s", "consumers:i", NULL};
    int r = qp_fields_check(output, port_fields, "config.outputs", err);
    if (r < 0)
        return r;
    int port = qp_port_index(link->desc->outputs, text(output, "port"));
    if (port < 0)
        return qp_fail(err, QP_ERR_STAGE, "config: this stage has no output port %s", text(output, "port"));
    size_t i;
    const json_t *edge;
    json_array_foreach(json_object_get(output, "edges"), i, edge) {
        if (r == 0)
            r = qp_fields_check(edge, edge_fields, "config.outputs.edges", err);
        if (r == 0)
            r = qp_out_add_edge(link->outs[port], text(edge, "edge"), err);
        link->has_edges[port] = true;
    }
    return r;
}

/* Which port an edge leads into, and whether its units come back from downstream. */
static int place_input(struct link *link, const json_t *input, struct qp_error *err)
{
    const char *name = text(input, "port");
    int port = qp_port_index(link->desc->inputs, name);
    json_int_t delay = json_integer_value(json_object_get(input, "delay"));
    if (port < 0)
        return qp_fail(err, QP_ERR_STAGE, "config: this stage has no input port %s", name);
    if (delay != link->desc->inputs[port].feedback)
        return qp_fail(err, QP_ERR_STAGE, "config: delay %lld at input port %s; expected %d", (long long)delay, name,
                       link->desc->inputs[port].feedback);
    link->in_ports[link->in_count] = (size_t)port;
    link->delayed[link->in_count] = delay > 0;
    return 0;
}

static int connect_input(struct link *link, const json_t *input, const char *run, int64_t window, struct qp_error *err)
{
    static const char *const port_fields[] = {"port:s", "edge:s", "from:a", "delay:i?", NULL};
    static const char *const peer_fields[] = {"instance:s", "replica:i", "endpoint:s", "host:s", NULL};
    int r = qp_fields_check(input, port_fields, "config.inputs", err);
    const json_t *peers = json_object_get(input, "from"), *peer = json_array_get(peers, 0);
    if (r == 0 && (json_array_size(peers) != 1 || link->in_count == LINK_MOST))
        r = qp_fail(err, QP_ERR_STAGE, "config: an edge has one producer, and a stage at most %d edges", LINK_MOST);
    if (r == 0)
        r = place_input(link, input, err);
    if (r == 0)
        r = qp_fields_check(peer, peer_fields, "config.inputs.from", err);
    if (r < 0)
        return r;
    struct qp_in_config config = {.run = run,
                                  .edge = text(input, "edge"),
                                  .instance = link->instance,
                                  .replica = link->replica,
                                  .host = link->host,
                                  .endpoint = text(peer, "endpoint"),
                                  .local = strcmp(text(peer, "host"), link->host) == 0,
                                  .window_units = QP_WINDOW_UNITS,
                                  .window_bytes = window,
                                  .references = link->references,
                                  .allocator = qp_pool_allocator(link->pool),
                                  .wake = link->wake};
    r = qp_in_open(link->context, &config, &link->ins[link->in_count], err);
    if (r == 0)
        link->in_count++;
    return r;
}

static int make_references(struct link *link, const char *run, const json_t *roots, struct qp_error *err)
{
    size_t count = json_array_size(roots);
    qp_auto_free const char **list = calloc(count + 1, sizeof *list);
    if (!list)
        return qp_fail_memory(err, count * sizeof *list, "the roots");
    for (size_t i = 0; i < count; i++)
        if (!(list[i] = json_string_value(json_array_get(roots, i))))
            return qp_fail(err, QP_ERR_STAGE, "config: a root that is not a string");
    return qp_references_new(run, list, &link->references, err);
}

/* What passes on units that came is bounded by the stage that they come from. */
static int64_t most_blocks(const struct qp_stage_desc *desc, const json_t *told)
{
    if (qp_port_count(desc->inputs) > 0 && desc->holds == 0)
        return 0;
    return json_integer_value(told) > 0 ? json_integer_value(told) : QP_WINDOW_BLOCKS;
}

static int connect_all(struct link *link, const json_t *config, struct qp_error *err)
{
    const char *run = text(config, "run");
    const json_t *inputs = json_object_get(config, "inputs"), *outputs = json_object_get(config, "outputs");
    int64_t memory = json_integer_value(json_object_get(config, "memory"));
    size_t edges = json_array_size(inputs), i;
    const json_t *item;
    if (!*run || strlen(run) > 64 || strchr(run, '/'))
        return qp_fail(err, QP_ERR_STAGE, "config: %.80s is no id of a run", run);
    /* Half of the memory is for units that come in, half for what this stage makes. */
    int64_t half = (memory > 0 ? memory : DEFAULT_MEMORY) / 2;
    link->own_budget = (size_t)half;
    link->most_blocks = most_blocks(link->desc, json_object_get(config, "blocks"));
    int r = qp_pool_new(run, (size_t)half, &link->pool, err);
    if (r == 0)
        r = make_references(link, run, json_object_get(config, "roots"), err);
    for (size_t port = 0; r == 0 && port < link->out_count; port++)
        r = qp_out_configure(link->outs[port], run, link->host, err);
    json_array_foreach(outputs, i, item) {
        if (r == 0)
            r = connect_output(link, item, err);
    }
    json_array_foreach(inputs, i, item) {
        if (r == 0)
            r = connect_input(link, item, run, half / (int64_t)edges, err);
    }
    return r;
}

int link_connect(struct link *link, const json_t *config, struct qp_error *err)
{
    pthread_mutex_lock(&link->lock);
    int r = connect_all(link, config, err);
    link->connected = r == 0;
    pthread_mutex_unlock(&link->lock);
    link_wake(link);
    return r;
}
